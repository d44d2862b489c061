"""The benchmark's rows as a Markdown table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Row(Protocol):
    name: str
    seconds: float
    cpu_seconds: float
    peak_mib: float
    file_mb: float | None
    scores: dict[str, float]
    error: str | None


# Model -> the scores in its table: key of models/evaluate.py, heading, format.
COLUMNS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "vit-s": (
        ("feature_sqnr_db", "feature SQNR dB", ".2f"),
        ("map_sqnr_db", "saliency SQNR dB", ".2f"),
        ("iou", "IoU", ".3f"),
        ("iou_p10", "IoU p10", ".3f"),
    ),
    "ppocr-rec": (
        ("exact_float", "exact = float", ".1%"),
        ("exact_truth", "exact = truth", ".1%"),
        ("cer_float", "CER to float", ".4f"),
        ("probability_sqnr_db", "probability SQNR dB", ".2f"),
    ),
    "ppocr-det": (
        ("f1", "boxes F1", ".3f"),
        ("precision", "precision", ".3f"),
        ("recall", "recall", ".3f"),
        ("probability_sqnr_db", "probability SQNR dB", ".2f"),
    ),
}


def markdown(model: str, rows: Sequence[Row], samples: int, machine: dict) -> str:
    """A heading, the table, and what the columns mean."""
    columns = COLUMNS[model]
    headings = ["method", *(heading for _, heading, _ in columns), "file MB", "latency / float"]
    headings += ["convert s (CPU s)", "peak MiB"]
    lines = [f"# {model}: {samples} calibration samples", "", _line(headings), _line(["---"] * len(headings))]
    for row in rows:
        cells = [format(row.scores[key], form) if key in row.scores else "–" for key, _, form in columns]
        size = f"{row.file_mb:.1f}" if row.file_mb else "–"
        ratio = f"{row.scores['latency_ratio']:.2f}" if row.scores else "–"
        time = f"{row.seconds:.1f} ({row.cpu_seconds:.1f})"
        name = f"{row.name} — fails: {row.error}".replace("|", "\\|") if row.error else row.name
        lines.append(_line([name, *cells, size, ratio, time, f"{row.peak_mib:.0f}"]))
    cpu = f"{machine['cpu']}, {machine['cores']} cores, {'with' if machine['vnni'] else 'without'} VNNI"
    lines += [
        "",
        f"Measured on {cpu}; scores on data that no conversion saw; latency with 2 threads, in turns with the",
    ]
    lines += [
        "float model; ours without the comparison that `qonnx convert` ends with. Made by `python -m models.bench`."
    ]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"

"""Weight-only quantization: every solver and format beside its neighbours, and ONNX Runtime's own tools.

    python -m models.weight_table vit-s                     measures what is missing, writes results/weights-vit-s.*
    python -m models.weight_table vit-s --only "4 bit"      the rows whose 'table: row' contains that
    python -m models.weight_table smollm2 --only gptq --again --count 10

Rows are those of models/weight_rows.py. Every conversion is a process of its own on calibration samples, whose CPU time
and peak memory the operating system counts; scores are those of models/evaluate.py on data that no conversion has seen.
Bits are an average over the weights of products and convolutions, scales and 8-bit edges included: what the file is
smaller than the float file as our spelling leaves it, taken off 32 for each of them. A row is written as soon as it is
there: a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import numpy as np
import onnx

from models import antiberty, bench, peers, perplexity, photos, real, smollm2, text_lines
from models.weight_rows import TABLES

FOLDER = pathlib.Path(__file__).resolve().parent / "results"

_CONVERT = """
import json, sys
from qonnx.conversion import convert
from qonnx.model import save
model, data, recipe, output, *kept = sys.argv[1:]
result = convert(model, data=data, recipe=recipe, nodes_to_exclude=kept)
save(result.model, output, force=True)
"""

_SPELL = """
import sys
from qonnx.conversion import convert
convert(sys.argv[1], recipe="spell-only", output=sys.argv[2], quiet=True)
"""


@dataclass(frozen=True)
class Subject:
    """A model of the tables, by its name in models/evaluate.py. data: calibration samples as arrays of a .npz, in words
    `said`. count: evaluation samples, of `unit`. columns: score -> heading and format. kept: nodes that stay float.
    remark: what else a reader of the page must know."""

    name: str
    path: Callable[[], pathlib.Path]
    data: Callable[[], dict[str, np.ndarray]]
    said: str
    count: int
    unit: str
    columns: dict[str, tuple[str, str]]
    kept: tuple[str, ...] = ()
    remark: str = ""


def _photos() -> dict[str, np.ndarray]:
    return {real.REAL["vit-s"].input_name: np.concatenate(photos.crops("calibration-wide", 32))}


def _lines() -> dict[str, np.ndarray]:
    pixels = [line.pixels for line in text_lines.lines("calibration", 32)]
    return {real.REAL["ppocr-rec"].input_name: np.concatenate(pixels)}


SUBJECTS: dict[str, Subject] = {
    "vit-s": Subject(
        "vit-s",
        lambda: real.path("vit-s"),
        _photos,
        "32 crops of the split 'calibration-wide'",
        54,
        "crops of the evaluation photos",
        {"feature_sqnr_db": ("feature SQNR dB", ".1f"), "iou": ("IoU", ".3f")},
    ),
    "smollm2": Subject(
        "smollm2",
        smollm2.path,
        lambda: perplexity.samples("calibration", 32),
        "32 windows of 512 tokens",
        40,
        "windows of 512 tokens of other pages",
        {
            "perplexity_ratio": ("perplexity ÷ float", ".4f"),
            "ratio_error": ("± ln", ".4f"),
            "same_best_token": ("same next token", ".1%"),
        },
        ("final",),
        "The table that embeds tokens and scores them counts among the weights: 28 of 135 million, in 8 bits in our\n"
        "rows and in float in ONNX Runtime's. `final`, a matrix that only the rotation of the reference needs\n"
        "(models/llama.py), stays float: it is nearly diagonal, and 8 bits a channel cost 2.6 % of perplexity.",
    ),
    "antiberty": Subject(
        "antiberty",
        antiberty.path,
        lambda: antiberty.samples("calibration", 64),
        "64 sequences with masked residues",
        200,
        "sequences of other genes",
        {
            "embedding_sqnr_db": ("embedding SQNR dB", ".1f"),
            "same_residue": ("same residue", ".1%"),
            "true_residue": ("true residue", ".1%"),
        },
        remark="The float model names 86 % of masked residues.",
    ),
    "ppocr-rec": Subject(
        "ppocr-rec",
        lambda: real.path("ppocr-rec"),
        _lines,
        "32 lines",
        200,
        "lines of other fonts and words",
        {"exact_float": ("reads as float", ".1%"), "probability_sqnr_db": ("probability SQNR dB", ".1f")},
    ),
}


@dataclass(frozen=True)
class Row:
    """One conversion. count: evaluation samples. error: the last line of what failed."""

    name: str
    file_mb: float = 0.0
    bits: float = 0.0
    scores: dict[str, float] = field(default_factory=dict)
    count: int = 0
    cpu_seconds: float = 0.0
    peak_mib: float = 0.0
    error: str | None = None


def measure(subject: Subject, name: str, how: str, data: pathlib.Path, folder: pathlib.Path, count: int) -> Row:
    """Convert in a process of its own, then score."""
    output, log = folder / "result.onnx", folder / "log"
    output.unlink(missing_ok=True)
    model = str(subject.path())
    if how in peers.PEERS:
        python = bench.environment(peers.PEERS[how].environment)
        command = [str(python), str(bench.FOLDER / "peers.py"), how, model, str(data), str(output)]
    else:
        recipe = folder / "row.toml"
        recipe.write_text(how, encoding="utf-8")
        command = [sys.executable, "-c", _CONVERT, model, str(data), str(recipe), str(output), *subject.kept]
    code, _, cpu, peak = bench.measured(command, log)
    if code or not output.exists():
        lines = log.read_text(errors="replace").strip().splitlines() or [""]
        return Row(name, cpu_seconds=cpu, peak_mib=peak, error=lines[-1][:200] or f"exit code {code}")
    # In a process of its own too: what this one holds would count as the next conversion's peak.
    score = [sys.executable, "-m", "models.evaluate", subject.name, str(output), "--count", str(count)]
    answer = subprocess.run(score, check=True, capture_output=True, text=True, cwd=bench.FOLDER.parent)
    scores, size = json.loads(answer.stdout), output.stat().st_size
    kept = {column: float(scores[column]) for column in subject.columns}
    return Row(name, size / 1e6, stored_bits(spelled(subject, folder), size), kept, count, cpu, peak)


def spelled(subject: Subject, folder: pathlib.Path) -> pathlib.Path:
    """The float model without what no result has: dead constants, unfused norms."""
    file = folder / "spelled.onnx"
    if not file.exists():
        subprocess.run(
            [sys.executable, "-c", _SPELL, str(subject.path()), str(file)], check=True, cwd=bench.FOLDER.parent
        )
    return file


def stored_bits(model: pathlib.Path, size: int) -> float:
    """Bits of a file of `size` bytes for each weight of the float model's products and convolutions."""
    graph = onnx.load(str(model), load_external_data=False).graph
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    shapes |= {n.output[0]: list(n.attribute[0].t.dims) for n in graph.node if n.op_type == "Constant"}
    turns = [node for node in graph.node if node.op_type == "Transpose" and node.input[0] in shapes]
    shapes |= {node.output[0]: shapes[node.input[0]] for node in turns}  # a tied embedding, as the product reads it
    read = {node.input[1] for node in graph.node if node.op_type in ("MatMul", "Gemm", "Conv", "ConvTranspose")}
    weights = sum(int(np.prod(shapes[name])) for name in read & set(shapes))
    whole = sum(file.stat().st_size for file in (model, model.with_name(f"{model.name}.data")) if file.exists())
    return 32 - 8 * (whole - size) / weights


def markdown(subject: Subject, title: str, rows: list[Row]) -> str:
    headings = [heading for heading, _ in subject.columns.values()]
    head = ["solver", "MB", "bits", *headings, "CPU s", "peak MiB"]
    lines = [f"## {title}", "", f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in rows:
        cells = [row.error, *[""] * (len(head) - 2)] if row.error else _cells(subject, row)
        lines.append(f"| {' | '.join([row.name, *cells])} |")
    return "\n".join([*lines, ""])


def _cells(subject: Subject, row: Row) -> list[str]:
    scores = [f"{row.scores[column]:{form}}" for column, (_, form) in subject.columns.items()]
    scores[0] += "" if row.count == subject.count else f" (of {row.count})"
    return [f"{row.file_mb:.1f}", f"{row.bits:.2f}", *scores, f"{row.cpu_seconds:.0f}", f"{row.peak_mib:.0f}"]


def write(model: str, kept: dict[str, list[dict]], file: pathlib.Path) -> None:
    """Both files, from what was measured so far."""
    subject = SUBJECTS[model]
    text = f"# Weights of {model} at a few bits\n\n" + (__doc__ or "").split("\n\n", 2)[2] + "\n"
    text += f"Calibration: {subject.said}. Evaluation: {subject.count} {subject.unit}, where nothing else is said.\n\n"
    text += f"{subject.remark}\n\n" * bool(subject.remark)
    text += "\n".join(markdown(subject, title, [Row(**one) for one in rows]) for title, rows in kept.items())
    file.with_suffix(".md").write_text(text, encoding="utf-8")
    file.with_suffix(".json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m models.weight_table", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", choices=SUBJECTS)
    parser.add_argument("--only", default="", metavar="TEXT", help="part of the names 'table: row' to measure")
    parser.add_argument("--again", action="store_true", help="also rows that were measured before")
    parser.add_argument("--count", type=int, help="evaluation samples")
    given = parser.parse_args(arguments)
    subject, file = SUBJECTS[given.model], FOLDER / f"weights-{given.model}.json"
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        data = folder / "calibration.npz"
        np.savez(data, **subject.data())
        for title, rows in TABLES[given.model].items():
            for row, how in rows.items():
                found = {one["name"]: one for one in _kept(file).get(title, ())}
                if given.only not in f"{title}: {row}" or (row in found and not given.again):
                    continue
                count = given.count or subject.count
                found[row] = asdict(measure(subject, row, how, data, folder, count))
                print(title, found[row], flush=True)
                kept = _kept(file) | {title: [found[row] for row in rows if row in found]}
                write(given.model, {title: kept[title] for title in TABLES[given.model] if title in kept}, file)
    return 0


def _kept(file: pathlib.Path) -> dict[str, list[dict]]:
    """What was measured before, by table."""
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

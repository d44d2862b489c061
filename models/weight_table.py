"""Weight-only quantization of the ViT-S: every solver and format beside its neighbours, and ONNX Runtime's own tools.

    python -m models.weight_table                    measures what is missing, writes models/results/weights.{md,json}
    python -m models.weight_table "4 bit" --again    measures anew the rows whose name contains that

Rows of one table differ in one thing, so that sizes match. Every conversion is a process of its own on 32 crops of the
split "calibration-wide"; seconds are those of solving alone, the peak is that of the whole process. Scores are those of
models/evaluate.py on the evaluation photos. A row is written as soon as it is there: a run that was stopped goes on
where it was.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
import tempfile
from dataclasses import asdict, dataclass

import numpy as np

from models import bench, evaluate, peers, photos, real

SAMPLES = 32
RESULTS = pathlib.Path(__file__).resolve().parent / "results" / "weights"

_CONVERT = """
import json, sys
from qonnx.conversion import convert
from qonnx.model import save
model, data, recipe, output = sys.argv[1:]
result = convert(model, data=data, recipe=recipe)
save(result.model, output, force=True)
print(json.dumps(sum(step.seconds for step in result.report.steps if step.name.startswith("solve"))))
"""


def _options(assign: str, solver: str, solve: str = "solve_in_turn") -> str:
    free = "ridge = inf\nresidual = false\n" if solve == "solve_in_turn" else ""
    passes = ["spell", "split_conv_transpose", "patches_to_matmul", "label", "assign_weights", solve]
    passes += ["place_low_bit", "place_qdq", "lower", "tidy"]
    return (
        f'version = 1\ntitle = "row of a table"\npasses = {json.dumps(passes)}\n[options.convert_opset]\nopset = 25\n'
        f'[options.assign_weights]\nedges = "8"\n{assign}\n[options.{solve}]\nsolver = "{solver}"\n{free}'
    )


def _turns(assign: str, *solvers: str) -> dict[str, str]:
    """Solvers that look at no data need no samples; the others go layer after layer."""
    plain = ("nearest", "hqq", "pvq")
    return {s: _options(assign, s, "solve_weights" if s in plain else "solve_in_turn") for s in solvers}


_ALL = ("nearest", "hqq", "pvq", "gptq", "lwc", "slim", "quantease")
_SOME = ("nearest", "gptq", "quantease")
_FORMATS = ("nf4", "fp4", "mxfp4", "nvfp4", "pot4", "sqrt2-4", "half4")

# Table -> row -> TOML of a recipe, or a key of peers.PEERS.
TABLES: dict[str, dict[str, str]] = {
    "4 bit, blocks of 32": {
        **_turns("bits = 4\nblock = 32", *_ALL),
        "ONNX Runtime MatMulNBits, RTN": "ORT weights 4 bit, block 32",
        "ONNX Runtime MatMulNBits, HQQ": "ORT weights 4 bit, block 32, HQQ",
    },
    "4 bit, blocks of 16": _turns("bits = 4\nblock = 16", *_SOME),
    "4 bit, blocks of 8, float16 scales": _turns("bits = 4\nblock = 8\nhalf_scales = true", "quantease"),
    "3 bit, blocks of 16, float16 scales": _turns("bits = 3\nblock = 16\nhalf_scales = true", *_SOME),
    "3 bit, blocks of 8, float16 scales": _turns("bits = 3\nblock = 8\nhalf_scales = true", "quantease"),
    "2 bit, blocks of 16, float16 scales": {
        **_turns("bits = 2\nblock = 16\nhalf_scales = true", *_SOME),
        "ONNX Runtime MatMulNBits, 2 bit, block 32": "ORT weights 2 bit, block 32",
    },
    "5 and 6 bit, blocks of 32, float16 scales": {
        f"{bits} bit, quantease": _turns(f"bits = {bits}\nblock = 32\nhalf_scales = true", "quantease")["quantease"]
        for bits in (5, 6)
    },
    "Other grids of 16 levels, GPTQ": {
        name: _turns(f'bits = 4\ntable = "{name}"', "gptq")["gptq"] for name in _FORMATS
    },
}


@dataclass(frozen=True)
class Row:
    """One conversion. solve_seconds: None for a peer, which does not say; error: the last line of what failed."""

    name: str
    file_mb: float = 0.0
    feature_db: float = 0.0
    iou: float = 0.0
    solve_seconds: float | None = None
    seconds: float = 0.0
    peak_mib: float = 0.0
    error: str | None = None


def measure(name: str, how: str, data: pathlib.Path, folder: pathlib.Path) -> Row:
    """Convert in a process of its own, then score."""
    output, log = folder / "result.onnx", folder / "log"
    output.unlink(missing_ok=True)
    model = str(real.path("vit-s"))
    if how in peers.PEERS:
        python = bench.environment(peers.PEERS[how].environment)
        command = [str(python), str(bench.FOLDER / "peers.py"), how, model, str(data), str(output)]
    else:
        recipe = folder / "row.toml"
        recipe.write_text(how, encoding="utf-8")
        command = [sys.executable, "-c", _CONVERT, model, str(data), str(recipe), str(output)]
    code, seconds, _, peak = bench.measured(command, log)
    lines = log.read_text(errors="replace").strip().splitlines() or [""]
    if code or not output.exists():
        return Row(name, seconds=seconds, peak_mib=peak, error=lines[-1][:200] or f"exit code {code}")
    scores = evaluate.vit_s(output)
    return Row(
        name,
        output.stat().st_size / 1e6,
        scores["feature_sqnr_db"],
        scores["iou"],
        None if how in peers.PEERS else json.loads(lines[-1]),
        seconds,
        peak,
    )


def markdown(title: str, rows: list[Row]) -> str:
    head = "| solver | MB | feature SQNR dB | IoU | solving, s | peak MiB |\n|---|---|---|---|---|---|"
    lines = [
        f"| {r.name} | {r.error} | | | | |"
        if r.error
        else f"| {r.name} | {r.file_mb:.1f} | {r.feature_db:.1f} | {r.iou:.3f} | "
        f"{'' if r.solve_seconds is None else f'{r.solve_seconds:.0f}'} | {r.peak_mib:.0f} |"
        for r in rows
    ]
    return "\n".join([f"## {title}", "", head, *lines, ""])


def write(kept: dict[str, list[dict]]) -> None:
    """Both files, from what was measured so far."""
    text = "# Weights of 2 to 6 bits\n\n" + (__doc__ or "").split("\n\n", 2)[2] + "\n"
    text += "\n".join(markdown(title, [Row(**one) for one in rows]) for title, rows in kept.items())
    RESULTS.with_suffix(".md").write_text(text, encoding="utf-8")
    RESULTS.with_suffix(".json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m models.weight_table", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("only", nargs="?", default="", help="part of the names 'table: row' to measure")
    parser.add_argument("--again", action="store_true", help="also rows that were measured before")
    given = parser.parse_args(arguments)
    file = RESULTS.with_suffix(".json")
    kept = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        data = folder / "calibration.npz"
        np.savez(data, **{real.REAL["vit-s"].input_name: np.concatenate(photos.crops("calibration-wide", SAMPLES))})
        for title, rows in TABLES.items():
            found = {one["name"]: one for one in kept.get(title, ())}
            for row, how in rows.items():
                if given.only not in f"{title}: {row}" or (row in found and not given.again):
                    continue
                found[row] = asdict(measure(row, how, data, folder))
                print(title, found[row], flush=True)
                kept[title] = [found[row] for row in rows if row in found]
                write({title: kept[title] for title in TABLES if title in kept})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

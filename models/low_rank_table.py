"""Low-rank branches against finer blocks at equal bytes, on the real ViT-S with 4-bit weights.

    python -m models.low_rank_table [--count N]        writes models/results/low-rank.{md,json}

Every row rounds the same planned layers by GPTQ with Gram matrices of 32 crops of the split "calibration-wide";
activations stay float. A branch of rank r is stored in 8 bits and costs r·(K + N) bytes a layer. Bits a weight count
codes, scales, zero points and branches of those layers. Scores are those of models/evaluate.py on evaluation photos.

One conversion a row, scored on a few crops: rows that should be in order of their bits are not (compare the rows
without a branch), so differences of a decibel or two decide nothing, and the order of methods is open.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from dataclasses import asdict, dataclass

from models import evaluate, photos, real
from qonnx.footprint import stored_bytes
from qonnx.model import load
from qonnx.notes import clone
from qonnx.passes import SPELLING
from qonnx.passes.rewire import array, is_constant, is_op
from qonnx.recipe import Recipe, Step
from qonnx.settings import Settings
from qonnx.targets import target

SAMPLES = 32
RESULTS = pathlib.Path(__file__).resolve().parent / "results" / "low-rank"
# Row -> (block, options of low_rank or None).
ROWS: dict[str, tuple[int, dict | None]] = {
    "block 128": (128, None),
    "block 64": (64, None),
    "block 32": (32, None),
    "block 128, rank 16, weight first (SVDQuant)": (128, {"start": "weight"}),
    "block 128, rank 16, error (LoRC, LQER)": (128, {"start": "error"}),
    "block 128, rank 16, error, 4 turns (LQ-LoRA)": (128, {"start": "error", "turns": 4}),
    "block 64, rank 8, error": (64, {"start": "error", "rank": 8}),
    "block 128, rank 32, weight first": (128, {"start": "weight", "rank": 32, "most": 0.2}),
}


@dataclass(frozen=True)
class Row:
    """Megabytes of all constants, bits a weight of the layers in blocks, feature SQNR in dB, IoU of the map."""

    name: str
    constants_mb: float
    bits: float
    feature_db: float
    iou: float


def observed():
    """The spelled model with Gram matrices noted, and the numbers of the layers' weights."""
    samples = [{real.REAL["vit-s"].input_name: crop} for crop in photos.crops("calibration-wide", SAMPLES)]
    model = load(str(real.path("vit-s")))
    steps = (*(Step(name) for name in SPELLING), Step("label"), Step("observe", {"gram": True}))
    Recipe("observed", "", steps).run(model, target=target("ort-cpu"), data=samples)
    weights = sum(array(n.inputs[1]).size for n in model.graph if is_op(n, "MatMul") and is_constant(n.inputs[1]))
    return model, weights


def row(name: str, model, weights: int, count: int) -> Row:
    block, options = ROWS[name]
    copy = clone(model)
    float_bytes = stored_bytes(copy) - 4 * weights
    branch = (Step("low_rank", {"rank": 16, **options}),) if options is not None else ()
    steps = (
        Step("assign_weights", {"bits": 4, "block": block}),
        *branch,
        Step("solve_weights", {"solver": "gptq"}),
        Step("place_qdq"),
        Step("lower"),
        Step("tidy"),
    )
    only = Settings(op_types_to_quantize=("MatMul",))
    Recipe("row", "", steps).run(copy, target=target("ort-cpu"), settings=only)
    stored = stored_bytes(copy)
    scores = evaluate.vit_s(copy, count=count)
    bits = 8 * (stored - float_bytes) / weights
    return Row(name, stored / 1e6, bits, scores["feature_sqnr_db"], scores["iou"])


def write(rows: list[Row]) -> None:
    head = "| | bits a weight | constants, MB | feature SQNR dB | IoU |\n|---|---|---|---|---|"
    lines = [f"| {r.name} | {r.bits:.2f} | {r.constants_mb:.2f} | {r.feature_db:.2f} | {r.iou:.3f} |" for r in rows]
    text = "\n".join(["# Low-rank branches at equal bytes", "", __doc__.split("\n\n", 2)[2], head, *lines, ""])
    RESULTS.with_suffix(".md").write_text(text, encoding="utf-8")
    RESULTS.with_suffix(".json").write_text(json.dumps([asdict(r) for r in rows], indent=1) + "\n", encoding="utf-8")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m models.low_rank_table", description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=18, help="evaluation crops")
    count = parser.parse_args(arguments).count
    model, weights = observed()
    rows = []
    for name in ROWS:
        rows.append(row(name, model, weights, count))
        print(rows[-1], flush=True)
        write(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""What bounds on the features of the real ViT-S cost in weight bits: `vit-w4a8`, some layers raised to 8-bit weights.

    python -m models.mixed_precision 20 21.5        writes models/results/vit-mixed-precision.{md,json}

The model returns its features beside the map, so that `--min-sqnr` speaks of both. Conversions see 32 crops of the
split "calibration-wide" and judge on every fifth of them; the SQNR told is that of models/evaluate.py on the evaluation
photos. Bits are those of codes, averaged over weights; scales add 0.5 (fp16, blocks of 32) to the 4-bit ones.
"""

from __future__ import annotations

import json
import pathlib
import sys
import tempfile

import numpy as np
import onnx
import onnx_ir as ir

from models import evaluate, photos, real
from qonnx.conversion import convert
from qonnx.model import save
from qonnx.settings import Settings

SAMPLES = 32
RESULTS = pathlib.Path(__file__).resolve().parent / "results" / "vit-mixed-precision"


def with_features(folder: pathlib.Path) -> pathlib.Path:
    """A file of the ViT-S that returns its features as well."""
    model = onnx.load(real.path("vit-s"))
    shape = ["N", 257, 384]
    model.graph.output.append(onnx.helper.make_tensor_value_info(evaluate.FEATURES, onnx.TensorProto.FLOAT, shape))
    onnx.save(model, folder / "vit.onnx")
    return folder / "vit.onnx"


def weight_bits(model: ir.Model) -> float:
    """Bits of a code, averaged over the weights of all low-bit products and dequantized matrices."""
    bits = count = 0
    for node in model.graph:
        if node.op_type.endswith("LowBit"):
            size = node.attributes.get_int("K", 0) * node.attributes.get_int("N", 0)
            width = node.attributes.get_int("bits", 4)
        elif node.op_type == "DequantizeLinear" and node.inputs[0].is_initializer() and len(node.inputs[0].shape) > 1:
            size, width = node.inputs[0].const_value.size, node.inputs[0].dtype.bitwidth
        else:
            continue
        bits, count = bits + width * size, count + size
    return bits / count


def measured(bound: float, data: pathlib.Path, folder: pathlib.Path) -> dict[str, float]:
    settings = Settings(recipe="vit-w4a8", min_sqnr=bound)
    conversion = convert(with_features(folder), data=str(data), settings=settings)
    save(conversion.model, folder / "mixed.onnx", force=True)
    raised = sum(step.changes for step in conversion.report.steps if step.name == "protect")
    return {
        "asked_db": bound,
        "raised": raised,
        "weight_bits": weight_bits(conversion.model),
        "file_mb": (folder / "mixed.onnx").stat().st_size / 1e6,
        "features_db": evaluate.vit_s(_map_alone(folder / "mixed.onnx"))["feature_sqnr_db"],
    }


def _map_alone(file: pathlib.Path) -> bytes:
    """The result with the outputs of the float model: the scorer adds the features itself."""
    model = onnx.load(file)
    del model.graph.output[1:]
    return model.SerializeToString()


def main(bounds: list[str]) -> int:
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        data = folder / "calibration.npz"
        np.savez(data, **{real.REAL["vit-s"].input_name: np.concatenate(photos.crops("calibration-wide", SAMPLES))})
        for bound in bounds:
            rows.append(measured(float(bound), data, folder))
            print(rows[-1], flush=True)
    lines = ["# Mixed precision of a vision transformer", "", *__doc__.split("\n\n", 2)[2].splitlines(), ""]
    lines += ["| asked | layers at 8 bits | bits a weight | MB | features |", "| --- | --- | --- | --- | --- |"]
    form = "| {asked_db:g} dB | {raised} | {weight_bits:.2f} | {file_mb:.1f} | {features_db:.1f} dB |"
    lines += [form.format(**row) for row in rows]
    RESULTS.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    RESULTS.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or ["20", "21.5"]))

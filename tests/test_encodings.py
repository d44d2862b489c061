"""Encodings for Qualcomm's tools: grids in their convention, a float model that they fit, and what has none."""

from __future__ import annotations

import json

import numpy as np
import onnx_ir as ir
import pytest

from models.tiny import build, inputs
from qonnx.__main__ import main
from qonnx.conversion import convert
from qonnx.encodings import Grid, as_json, encode, take_grids
from qonnx.errors import QonnxError
from qonnx.model import load
from qonnx.runtime import session
from tests.test_export import NETWORK as WIDE
from tests.test_runtimes import NETWORK


@pytest.fixture(scope="module")
def quantized(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encodings")
    model = build(NETWORK)
    ir.save(model, folder / "float.onnx")
    for target in ("qnn", "openvino", "ort-cpu"):
        samples = [inputs(model, seed) for seed in range(4)]
        convert(folder / "float.onnx", data=samples, target=target, output=folder / f"{target}.onnx", quiet=True)
    ir.save(build(WIDE), folder / "wide.onnx")
    convert(folder / "wide.onnx", recipe="weight-int4", target="ort-cpu", output=folder / "int4.onnx", quiet=True)
    return folder


@pytest.mark.parametrize("target", ["qnn", "openvino", "ort-cpu"])
def test_codes_of_every_tensor_follow_from_file_and_float_model(quantized, tmp_path, target):
    """Quantizing the float model's weights with the file's grids gives the codes that the Q/DQ model stores."""
    made = encode(quantized / f"{target}.onnx", tmp_path)
    plain, rows = load(made.model), json.loads(made.file.read_text())
    assert not any("Quantize" in n.op_type or "Dequantize" in n.op_type for n in plain.graph)
    assert len(rows["param_encodings"]) == made.weights >= 2 and made.activations >= 1
    for row in rows["param_encodings"]:
        weight = plain.graph.initializers[row["name"]].const_value.numpy().astype(np.float64)
        scale, offset = np.array(row["scale"]), np.array(row["offset"])
        if row["enc_type"] == "PER_CHANNEL":
            axis = next(i for i, size in enumerate(weight.shape) if size == scale.size)
            scale, offset = (x.reshape([-1 if i == axis else 1 for i in range(weight.ndim)]) for x in (scale, offset))
        codes = np.rint(weight / scale) - offset
        assert codes.min() >= 0 and codes.max() <= 2 ** row["bw"] - 1
        np.testing.assert_allclose(scale * (codes + offset), weight, atol=1e-6 * np.abs(weight).max())


def test_the_float_model_is_the_quantized_one_without_rounding(quantized, tmp_path):
    made = encode(quantized / "qnn.onnx", tmp_path)
    feeds = inputs(load(quantized / "float.onnx"), 7)
    expected, got = (session(path).run(None, feeds)[0] for path in (quantized / "float.onnx", made.model))
    assert [v.name for v in load(made.model).graph.outputs] == ["y"]
    assert np.abs(expected - got).max() < 0.05, "only the weights are rounded"


def test_every_input_of_a_product_has_a_grid_for_qnn_and_blocks_are_said(quantized, tmp_path):
    assert not encode(quantized / "qnn.onnx", tmp_path / "a").missing
    made = encode(quantized / "int4.onnx", tmp_path / "b")
    assert made.activations == 0 and "x" in made.missing, "weight-only: no grid for activations"


def test_offsets_are_those_of_unsigned_codes():
    one = np.array([0.5])
    grid = Grid("t", ir.DataType.INT8, one, np.array([0]), None, 0, False)
    assert (grid.offset.item(), grid.symmetric) == (-128, True)
    grid = Grid("t", ir.DataType.UINT8, one, np.array([3]), None, 0, False)
    assert (grid.offset.item(), grid.symmetric) == (-3, False)
    (row,) = as_json([grid], "0.6.1")["activation_encodings"]["t"]
    assert (row["min"], row["max"]) == (-1.5, 126.0)
    grid = Grid("t", ir.DataType.INT4, np.ones((2, 3)), np.zeros((2, 3)), 0, 16, True)
    (row,) = as_json([grid], "1.0.0")["param_encodings"]
    assert (row["enc_type"], row["block_size"], row["bw"]) == ("PER_BLOCK", 16, 4)
    with pytest.raises(QonnxError, match="no blocks"):
        as_json([grid], "0.6.1")


def test_the_command_writes_both_files(quantized, tmp_path, capsys):
    words = ["export", str(quantized / "qnn.onnx"), "--encodings", "0.6.1", "-o", str(tmp_path)]
    assert main(words) == 0
    assert "grids of" in capsys.readouterr().out
    rows = json.loads((tmp_path / "qnn.encodings.json").read_text())
    assert rows["version"] == "0.6.1" and "x" in rows["activation_encodings"]
    assert main(words) == 2
    assert "--force" in capsys.readouterr().err
    assert main(["export", str(quantized / "float.onnx"), "--encodings", "-o", str(tmp_path)]) == 2
    assert "no Q/DQ" in capsys.readouterr().err


def test_grids_of_a_model_without_any(quantized):
    assert take_grids(load(quantized / "float.onnx")) == []

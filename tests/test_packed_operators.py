"""Reports know our operators: weights behind packed codes are counted, nodes are done, their arithmetic is told."""

from __future__ import annotations

import pytest

from models import digits
from qonnx.compare import compare
from qonnx.conversion import convert
from qonnx.custom_ops import library_path
from qonnx.custom_ops.ops import OPS
from qonnx.inspection import inspect
from qonnx.ledger import ledger
from qonnx.model import load, save
from qonnx.operators import INTEGER_OPERATORS, PACKED_FLOAT, PACKED_INTEGER, WEIGHT_ONLY_OPERATORS


def test_every_operator_with_codes_of_a_weight_is_in_one_table():
    packed = {name for name, op in OPS.items() if any(port.endswith("codes") for port in op.inputs)}
    assert packed == PACKED_FLOAT | PACKED_INTEGER and not PACKED_FLOAT & PACKED_INTEGER
    assert PACKED_INTEGER | {"LogAttention"} <= INTEGER_OPERATORS and PACKED_FLOAT <= WEIGHT_ONLY_OPERATORS


# Recipe -> what a weight takes with its scales at least and at most, in bits; how its products are run.
CASES = {
    "vit-w4a4": (4, 8, "integer"),
    "weight-int3": (3, 8, "weight-only"),
    "weight-codebook-2bit": (2, 9, "weight-only"),  # the books weigh on so small a model
}


@pytest.mark.slow
@pytest.mark.native
@pytest.mark.skipif(library_path() is None, reason="no native library: the runtime runs function bodies")
@pytest.mark.parametrize("recipe", CASES)
def test_a_report_counts_weights_and_nodes_behind_our_operators(recipe, tmp_path):
    low, high, kind = CASES[recipe]
    images, _ = digits.samples("calibration", 16)
    data = [{digits.INPUT: image[None]} for image in images]
    conversion = convert(str(digits.VIT), data=data, recipe=recipe, threads=1)
    save(conversion.model, tmp_path / "result.onnx")
    assert any(node.op_type in PACKED_FLOAT | PACKED_INTEGER for node in conversion.model.graph)
    before, after = (inspect(str(path)) for path in (digits.VIT, tmp_path / "result.onnx"))
    assert after.weights == pytest.approx(before.weights, rel=0.05) and low < after.bits_per_weight < high
    rows = {row.node for row in ledger(load(str(tmp_path / "result.onnx"))) if row.state == "done"}
    products = {node.name for node in conversion.model.graph if node.op_type in PACKED_FLOAT | PACKED_INTEGER}
    assert products <= rows
    options = {"oracles": ("runtime",), "latency": False, "layers": False, "threads": 1}
    found = compare(str(digits.VIT), str(tmp_path / "result.onnx"), data[:2], **options).fusion
    assert found.count(kind) >= len(products) and found.shares[kind] > 0.5

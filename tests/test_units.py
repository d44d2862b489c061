"""A quantized model cut into units: right runtimes are equal, a wrong operator is named and nothing behind it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from models.tiny import build, inputs
from qonnx.conversion import convert
from qonnx.model import load
from qonnx.runtime import session
from qonnx.units import GIVEN, UnitGap, cut, gaps

NETWORK = """
<ir_version: 10, opset_import: ["": 21]>
g (float[1,8,16,16] x, float[16,8,3,3] w1, float[16] b1, float[16,16,3,3] w2, float[8,16,1,1] w3)
 => (float[1,8,16,16] y)
{
  a = Conv<pads = [1,1,1,1]>(x, w1, b1)
  b = Relu(a)
  c = Conv<pads = [1,1,1,1]>(b, w2)
  d = HardSwish(c)
  y = Conv(d, w3)
}
"""


@pytest.fixture(scope="module")
def quantized(tmp_path_factory):
    folder = tmp_path_factory.mktemp("units")
    model = build(NETWORK)
    ir.save(model, folder / "float.onnx")
    samples = [inputs(model, seed) for seed in range(3)]
    convert(folder / "float.onnx", data=samples, output=folder / "w8a8.onnx", quiet=True)
    return folder / "w8a8.onnx", samples[0]


def codes(made, model=None, optimization="none") -> dict:
    names = list(made.operators)
    opened = session(model or made.model, optimization=optimization, threads=1)
    return dict(zip(names, opened.run(names, made.feed), strict=True))


def test_units_are_independent_and_equal_to_the_whole(quantized):
    path, sample = quantized
    made = cut(load(path), sample)
    assert {v.name for v in made.model.graph.inputs} == set(made.feed)
    assert {"Conv"} <= set(made.operators.values())
    for row in gaps(made, codes(made)):
        assert (row.steps, row.differing) == (0, 0)
        assert str(row).endswith("equal")
    fused = gaps(made, codes(made, optimization="all"))
    assert max(row.steps for row in fused) <= 1, "fused kernels round borders the other way, by one step"


def test_a_wrong_operator_is_named_and_nothing_behind_it(quantized):
    path, sample = quantized
    made = cut(load(path), sample)
    first = next(name for name, operator in made.operators.items() if operator == "Conv")
    wrong = made.model.clone()
    node = next(n for n in wrong.graph if n.outputs[0].name == first)
    while node.op_type != "Conv":
        node = node.inputs[0].producer()
    bias = node.inputs[2].producer().inputs[0]
    bias.const_value = ir.tensor(bias.const_value.numpy() * 3 + 1000, name=bias.name)
    rows = gaps(made, codes(made, wrong))
    assert rows[0].operator == "Conv" and rows[0].steps > 1 and rows[0].worst == first
    assert first in str(rows[0])
    found = codes(made, wrong)
    others = [name for name in made.operators if name != first]
    assert all((found[name] == made.expected[name]).all() for name in others)


def test_codes_go_in_where_they_were_cut(quantized):
    path, sample = quantized
    made = cut(load(path), sample)
    for name in made.expected:
        if name + GIVEN in made.feed:
            np.testing.assert_array_equal(made.feed[name + GIVEN], made.expected[name])


def test_a_float_model_has_no_units():
    model = build(NETWORK)
    assert cut(model, inputs(model, 0)) is None


def test_gaps_in_words():
    assert str(UnitGap("Conv", 3, 0.00123, 1, "a")) == "3 Conv: 0.12 % of codes differ by 1 at most"
    assert str(UnitGap("Add", 1, 0.5, 9, "b")) == "1 Add: 50 % of codes differ by 9 at most (b)"

"""Ranges by the output: the error is that of the product, and the grids found are no worse than those planned."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest

from models.tiny import build
from qonnx.formats import FORMATS
from qonnx.notes import note
from qonnx.passes.infer_shapes import InferShapes
from qonnx.passes.label import Label
from qonnx.passes.search_ranges import SearchRanges, _problem
from qonnx.plan import Encoding, Plan, encoding

TEXT = """<ir_version: 10, opset_import: ["": 21]>
g (float[2,9,4] q, float[2,4,7] k) => (float[2,9,7] y) { s = MatMul(q, k)  y = LAST }"""
FEW = dataclasses.replace(FORMATS["u8"], levels=16)


def planned(last: str, format=FEW) -> tuple[ir.Model, ir.Node, list[dict]]:
    """A product of two activations with ranges from their extremes; one entry of each is twice the others."""
    model = build(TEXT.replace("LAST", last))
    data = [{name: _sample(name, shape, i) for name, shape in (("q", (2, 9, 4)), ("k", (2, 4, 7)))} for i in range(4)]
    InferShapes()(model)
    Label()(model)
    node = next(node for node in model.graph if node.op_type == "MatMul")
    note(node).plan = Plan({0: format, 1: format})
    for value in node.inputs:
        x = np.stack([feeds[value.name] for feeds in data])
        note(value).encodings[format.name] = encoding(format, x.min(), x.max())
    return model, node, data


def _sample(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    x = np.random.default_rng([seed, len(name), ord(name)]).normal(size=shape).astype(np.float32)
    x.flat[3] = 6.0 if seed == 0 else x.flat[3]
    return x


def error(pair: list[np.ndarray], grids: list[Encoding], scores: bool) -> float:
    right = pair[0] @ pair[1]
    wrong = grids[0].quantize(pair[0]) @ grids[1].quantize(pair[1]) - right
    if scores:
        wrong = wrong - wrong.mean(-1, keepdims=True)
    return float(np.square(wrong).sum())


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("scores", [False, True])
def test_differences_of_the_error_are_those_of_the_product(index, scores):
    _, _, data = planned("Neg(s)")
    pair = [np.float64(data[0][name]) for name in ("q", "k")]
    grids = [encoding(FEW, -2.0, 3.0), encoding(FEW, -1.5, 2.0)]
    problem = _problem((pair[0], pair[1].swapaxes(-1, -2)), grids, index, scores)
    other = [*grids]
    other[index] = encoding(FEW, -0.7, 1.1)
    expected = error(pair, other, scores) - error(pair, grids, scores)
    assert problem.error(other[index]) - problem.error(grids[index]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("last", ["Softmax<axis = -1>(s)", "Neg(s)"])
@pytest.mark.parametrize("format", [FEW, dataclasses.replace(FORMATS["s8"], levels=16)], ids=["u8", "s8"])
def test_the_product_is_closer_than_with_whole_ranges(last, format):
    model, node, data = planned(last, format)
    before = [note(value).encodings[format.name] for value in node.inputs]
    assert SearchRanges(data)(model).changes
    after = [note(value).encodings[format.name] for value in node.inputs]
    pairs = [[feeds["q"], feeds["k"]] for feeds in data]
    scores = last.startswith("Softmax")
    old, new = (sum(error(pair, grids, scores) for pair in pairs) for grids in (before, after))
    assert new < 0.9 * old
    assert any(one.high < 0.9 * whole.high for one, whole in zip(after, before, strict=True))  # an outlier went
    assert not SearchRanges(data, samples=0)(model).changes


def test_products_with_many_levels_or_constants_are_left_alone():
    model, node, data = planned("Neg(s)", dataclasses.replace(FORMATS["u8"], levels=128))
    assert not SearchRanges(data)(model).changes
    note(node).plan = None
    assert not SearchRanges(data)(model).changes

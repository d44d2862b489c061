"""Multiply-adds of a product are the same whether its output's shape is known or follows from its factors."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from qonnx.multiply_adds import multiply_adds


@pytest.mark.parametrize(
    ("kind", "attributes", "left", "right", "output", "count"),
    [
        ("MatMul", {}, (2, 5, 7), (7, 3), (2, 5, 3), 2 * 5 * 7 * 3),
        ("MatMul", {}, (2, 6, 5, 7), (2, 6, 7, 4), (2, 6, 5, 4), 2 * 6 * 5 * 7 * 4),
        ("MatMul", {}, (1, 6, 5, 7), (2, 1, 7, 4), (2, 6, 5, 4), 2 * 6 * 5 * 7 * 4),
        ("Gemm", {}, (5, 7), (7, 3), (5, 3), 5 * 7 * 3),
        ("Gemm", {"transB": 1}, (5, 7), (3, 7), (5, 3), 5 * 7 * 3),
        ("Gemm", {"transA": 1, "transB": 1}, (7, 5), (3, 7), (5, 3), 5 * 7 * 3),
    ],
)
def test_products(kind, attributes, left, right, output, count):
    values = [ir.Value(name=name) for name in "ab"]
    node = ir.node(kind, values, attributes=attributes)
    node.outputs[0].name = "y"
    factors = {"a": left, "b": right}
    assert multiply_adds(node, factors) == count
    assert multiply_adds(node, {**factors, "y": output}) == count
    assert multiply_adds(node, {"a": left}) is None

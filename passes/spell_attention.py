"""Spellings of attention in one node as products, a softmax and movements, which passes and targets know.

    Attention(x, W, b, …)                 com.microsoft: queries, keys and values by one product
    MultiHeadAttention(q, k, v, b, …)     com.microsoft: three tensors [N, L, heads · size]
    Attention(q, k, v, mask, …)           of the standard (opset 23): the same, or [N, heads, L, size]

Only self-contained attention is spelled: no keys and values of the past, no mask by lengths, heads not shared.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from qonnx.passes.rewire import array, floats, integer, operand, rank
from qonnx.passes.standing_in import StandingIn


def packed_attention(node: ir.Node) -> str:
    """com.microsoft.Attention; why the node cannot be spelled, else ""."""
    why = _beyond(node, {3: "a mask by lengths", 4: "keys and values of the past", 6: "a length of the past"})
    if why or integer(node, "unidirectional", 0) or integer(node, "do_rotary", 0):
        return why or "it is causal or rotates positions"
    weight, bias = array(operand(node, 1)), operand(node, 2)
    if weight is None:
        return "its weight is no constant"
    given = node.attributes.get_ints("qkv_hidden_sizes", ())
    if len(set(given)) > 1:
        return "queries and values differ in size"
    write = StandingIn(node)
    size = weight.shape[1] // 3
    joint = write.add("MatMul", [node.inputs[0], node.inputs[1]], "product")
    if bias is not None:
        joint = write.add("Add", [joint, bias], "biased")
    parts = [
        write.add(
            "Slice", [joint, *(write.constant("cut", np.array([n])) for n in (i * size, (i + 1) * size, -1))], part
        )
        for i, part in enumerate(("query", "key", "value"))
    ]
    _attend(write, parts, integer(node, "num_heads", 1), size, operand(node, 5), weight.dtype)
    return ""


def multi_head_attention(node: ir.Node) -> str:
    """com.microsoft.MultiHeadAttention; why the node cannot be spelled, else ""."""
    why = _beyond(
        node, {4: "a mask by lengths", 6: "keys of the past", 7: "values of the past", 8: "a length of the past"}
    )
    if why or integer(node, "unidirectional", 0):
        return why or "it is causal"
    if any(operand(node, i) is None or rank(operand(node, i)) != 3 for i in range(3)):
        return "queries, keys and values are not three tensors [N, L, C]"
    size, bias = _last(node.inputs[0]), operand(node, 3)
    if size is None or _last(node.inputs[2]) != size:
        return "its size is not known, or queries and values differ in size"
    if bias is not None and array(bias) is None:
        return "its bias is no constant"
    write, parts = StandingIn(node), list(node.inputs[:3])
    if bias is not None:
        shifts = np.split(array(bias), 3)
        parts = [
            write.add("Add", [part, write.constant("bias", shift)], "biased")
            for part, shift in zip(parts, shifts, strict=True)
        ]
    kind = (node.inputs[0].dtype or ir.DataType.FLOAT).numpy()
    _attend(write, parts, integer(node, "num_heads", 1), size, operand(node, 5), kind)
    return ""


def standard_attention(node: ir.Node) -> str:
    """Attention of the standard; why the node cannot be spelled, else ""."""
    why = _beyond(node, {4: "keys of the past", 5: "values of the past", 6: "lengths of keys"})
    if why or integer(node, "is_causal", 0) or floats(node, "softcap", 0.0):
        return why or "it is causal or caps its scores"
    mask = operand(node, 3)
    if mask is not None and (mask.dtype is None or not mask.dtype.is_floating_point()):
        return "its mask is no sum"
    heads = integer(node, "q_num_heads", 0)
    if heads != integer(node, "kv_num_heads", 0):
        return "several queries share a key"
    query = node.inputs[0]
    kind, shape = (query.dtype or ir.DataType.FLOAT).numpy(), query.shape
    if shape is None or any(rank(value) != len(shape) for value in node.inputs[1:3]):
        return "the ranks of its inputs are not known or differ"
    if len(shape) == 3 and heads:
        if _last(query) is None or _last(node.inputs[2]) != _last(query):
            return "its size is not known, or queries and values differ in size"
        _attend(StandingIn(node), list(node.inputs[:3]), heads, _last(query), mask, kind)
        return ""
    if _last(query) is None or any(value.shape[1] != shape[1] for value in node.inputs[1:3]):
        return "its size is not known, or several queries share a key"
    write = StandingIn(node)
    key = write.add("Transpose", [node.inputs[1]], "keys", {"perm": [0, 1, 3, 2]})
    write.finish(_weighted(write, query, key, node.inputs[2], _last(query), mask, kind))
    return ""


def _beyond(node: ir.Node, unread: dict[int, str]) -> str:
    """Which of the operands, or further outputs, the node has and the spelling does not know."""
    if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
        return "more than its result is read"
    return next((f"it has {what}" for index, what in unread.items() if operand(node, index) is not None), "")


def _last(value: ir.Value) -> int | None:
    size = value.shape[-1] if value.shape is not None else None
    return size if isinstance(size, int) else None


def _attend(
    write: StandingIn, parts: list[ir.Value], heads: int, size: int, bias: ir.Value | None, kind: np.dtype
) -> None:
    """Attention of `heads` heads on [N, L, size] each, `bias` added to the scores; ends the spelling."""
    split = write.constant("heads", np.array([0, 0, heads, size // heads]))
    orders = {"queries": [0, 2, 1, 3], "keys": [0, 2, 3, 1], "values": [0, 2, 1, 3]}
    query, key, value = (
        write.add("Transpose", [write.add("Reshape", [part, split], name)], name, {"perm": order})
        for part, (name, order) in zip(parts, orders.items(), strict=True)
    )
    mixed = _weighted(write, query, key, value, size // heads, bias, kind)
    rows = write.add("Transpose", [mixed], "rows", {"perm": [0, 2, 1, 3]})
    write.finish(write.add("Reshape", [rows, write.constant("joined", np.array([0, 0, size]))], "joined"))


def _weighted(
    write: StandingIn,
    query: ir.Value,
    key: ir.Value,
    value: ir.Value,
    size: int,
    bias: ir.Value | None,
    kind: np.dtype,
) -> ir.Value:
    """softmax(scale · Q Kᵀ + bias) V of [N, heads, L, size]; keys come transposed. The scale goes with the queries."""
    given = floats(write.node, "scale", 0.0)
    scale = write.constant("scale", np.array(given or 1 / math.sqrt(size), kind))
    scores = write.add("MatMul", [write.add("Mul", [query, scale], "scaled"), key], "scores")
    if bias is not None:
        scores = write.add("Add", [scores, bias], "masked")
    return write.add("MatMul", [write.add("Softmax", [scores], "softmax", {"axis": -1}), value], "mixed")


# What spells each operator: "" if it did, else why it could not.
SPELLINGS: dict[tuple[str, str], Callable[[ir.Node], str]] = {
    ("com.microsoft", "Attention"): packed_attention,
    ("com.microsoft", "MultiHeadAttention"): multi_head_attention,
    ("", "Attention"): standard_attention,
}

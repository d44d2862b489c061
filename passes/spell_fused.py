"""spell_fused: operators that ONNX Runtime's optimizers fuse become the standard ones that they were made of.

An optimized file runs in one runtime only, and nothing in a fused node can be folded or quantized. ONNX Runtime fuses
again when it loads the result. What cannot be spelled stays as it is; a warning names the node and the reason.

    SkipLayerNormalization(x, skip, γ, β, bias)        LayerNormalization(x + skip + bias), also the sum itself
    Skip-, SimplifiedLayerNormalization                the same without mean and β: RMSNormalization or its parts
    BiasGelu, FastGelu, Gelu, BiasAdd                  [Add] Gelu, with tanh for FastGelu
    FusedMatMul, FusedGemm, FusedConv                  MatMul, Gemm, Conv with transposes, factor and activation apart
    Attention, MultiHeadAttention                      see passes/spell_attention.py
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import onnx_ir as ir

from qonnx.notes import warn
from qonnx.passes import spell_attention
from qonnx.passes.base import Change, Pass
from qonnx.passes.infer_shapes import infer
from qonnx.passes.rewire import STANDARD, bodies, floats, forget_domains, integer, operand, rank, replace
from qonnx.passes.standing_in import StandingIn

OWN = "com.microsoft"
_GELU_OPSET, _RMS_OPSET = 20, 23  # that have the operators


@dataclasses.dataclass
class SpellFused(Pass):
    """Rewrite every operator of SPELLINGS; exact up to the rounding of float sums."""

    tolerance = 2e-5

    def changes(self, model: ir.Model) -> Iterator[Change]:
        waiting = [node for body in bodies(model) for node in body if _key(node) in SPELLINGS]
        while waiting:
            refused = []
            for node in waiting:
                name = node.name or node.outputs[0].name or node.op_type
                why = SPELLINGS[_key(node)](node)
                if why:
                    refused.append((node, f"{node.op_type} '{name}' stays as it is: {why}"))
                else:
                    yield Change(name, f"{node.op_type} spelled with standard operators")
            if len(refused) == len(waiting):
                for _, sentence in refused:
                    warn(model, sentence)
                break
            infer(model)  # ranks behind a fused operator are known only once it is spelled
            forget_domains(model, {OWN})
            waiting = [node for node, _ in refused]


def _key(node: ir.Node) -> tuple[str, str]:
    return ("" if node.domain in STANDARD else node.domain), node.op_type


def _skip_norm(node: ir.Node, centred: bool) -> str:
    """x + skip [+ bias], normalised over the last axis; outputs: result, mean, 1/deviation, sum."""
    if any(output.uses() or output.is_graph_output() for output in node.outputs[1:3]):
        return "its mean or deviation is read"
    write = StandingIn(node)
    total = write.add("Add", [node.inputs[0], node.inputs[1]], "skip")
    bias = operand(node, 4 if centred else 3)
    if bias is not None:
        total = write.add("Add", [total, bias], "biased")
    if len(node.outputs) > 3:
        _hand_over(node.outputs[3], total)
    shift = operand(node, 3) if centred else None
    write.finish(_normalised(write, total, node.inputs[2], shift, floats(node, "epsilon", 1e-12), -1, centred))
    return ""


def _hand_over(old: ir.Value, new: ir.Value) -> None:
    """`new` in the place of `old`, an output that is not the node's first."""
    if old.uses() or old.is_graph_output():
        reader = new.producer()
        held = ir.node("Identity", inputs=[new], name=f"{reader.name}_sum")
        reader.graph.insert_after(reader, held)
        replace(old, held.outputs[0])


def _simplified_norm(node: ir.Node) -> str:
    if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
        return "its deviation is read"
    axis = integer(node, "axis", -1)
    if axis >= 0 and rank(node.inputs[0]) is None:
        return "the rank of its input is not known"
    axis = axis - rank(node.inputs[0]) if axis >= 0 else axis
    write = StandingIn(node)
    write.finish(
        _normalised(write, node.inputs[0], node.inputs[1], None, floats(node, "epsilon", 1e-5), axis, centred=False)
    )
    return ""


def _normalised(
    write: StandingIn, x: ir.Value, scale: ir.Value, shift: ir.Value | None, epsilon: float, axis: int, centred: bool
) -> ir.Value:
    """The normalisation over `axis` (negative) and those behind it."""
    attributes = {"axis": axis, "epsilon": epsilon}
    if centred:
        return write.add("LayerNormalization", [x, scale, shift], "norm", attributes)
    if write.graph.opset_imports.get("", 1) >= _RMS_OPSET:
        return write.add("RMSNormalization", [x, scale], "norm", attributes)
    kind = (scale.dtype or ir.DataType.FLOAT).numpy()
    square = write.add("Mul", [x, x], "square")
    mean = write.add("ReduceMean", [square, write.constant("axes", np.arange(axis, 0))], "mean", {"keepdims": 1})
    root = write.add(
        "Sqrt", [write.add("Add", [mean, write.constant("epsilon", np.array(epsilon, kind))], "eps")], "root"
    )
    return write.add("Mul", [write.add("Div", [x, root], "unit"), scale], "scaled")


def _gelu(node: ir.Node, approximate: str) -> str:
    if node.graph.opset_imports.get("", 1) < _GELU_OPSET:
        return f"Gelu needs opset {_GELU_OPSET}"
    write, x, bias = StandingIn(node), node.inputs[0], operand(node, 1)
    if bias is not None:
        x = write.add("Add", [x, bias], "biased")
    write.finish(write.add("Gelu", [x], "gelu", {"approximate": approximate}))
    return ""


def _bias_add(node: ir.Node) -> str:
    """x + bias + skip."""
    write = StandingIn(node)
    biased = write.add("Add", [node.inputs[0], node.inputs[1]], "biased")
    write.finish(write.add("Add", [biased, node.inputs[2]], "sum"))
    return ""


def _fused_matmul(node: ir.Node) -> str:
    """alpha · op(A) op(B), where op may transpose the last two axes."""
    if integer(node, "transBatchA", 0) or integer(node, "transBatchB", 0):
        return "its batches are transposed"
    write, operands = StandingIn(node), []
    for value, attribute in zip(node.inputs, ("transA", "transB"), strict=True):
        if integer(node, attribute, 0):
            if rank(value) is None:
                return f"the rank of '{value.name}' is not known"
            order = [*range(rank(value) - 2), rank(value) - 1, rank(value) - 2]
            value = write.add("Transpose", [value], attribute, {"perm": order}, dtype=value.dtype)
        operands.append(value)
    last = write.add("MatMul", operands, "product")
    if floats(node, "alpha", 1.0) != 1.0:
        kind = (node.inputs[0].dtype or ir.DataType.FLOAT).numpy()
        last = write.add("Mul", [last, write.constant("alpha", np.array(floats(node, "alpha", 1.0), kind))], "scaled")
    write.finish(last)
    return ""


def _with_activation(node: ir.Node) -> str:
    """FusedConv and FusedGemm: the layer [+ a tensor], then `activation` with its numbers."""
    name = node.attributes.get_string("activation", "")
    given = node.attributes.get_floats("activation_params", ())
    if (name and name not in _ACTIVATIONS) or (name == "Clip" and len(given) != 2):
        return f"its activation '{name}' is not known"
    write = StandingIn(node)
    attributes = {key: a for key, a in node.attributes.items() if not key.startswith("activation")}
    last = write.add(node.op_type.removeprefix("Fused"), node.inputs[:3], "layer", attributes)
    if operand(node, 3) is not None:
        last = write.add("Add", [last, operand(node, 3)], "sum")
    if name == "Clip":
        kind = (node.inputs[0].dtype or ir.DataType.FLOAT).numpy()
        bounds = [write.constant("bound", np.array(number, kind)) for number in given]
        last = write.add("Clip", [last, *bounds], "clipped")
    elif name:
        numbers = _ACTIVATIONS[name]
        given = given or [floats(node, f"activation_{key}", default) for key, default in numbers.items()]
        last = write.add(name, [last], "activated", dict(zip(numbers, given, strict=False)))
    write.finish(last)
    return ""


# What FusedConv and FusedGemm apply, with the numbers of the operator's attributes in order and their defaults.
_ACTIVATIONS: dict[str, dict[str, float]] = {
    "Clip": {},
    "Relu": {},
    "Sigmoid": {},
    "Tanh": {},
    "LeakyRelu": {"alpha": 0.01},
    "HardSigmoid": {"alpha": 0.2, "beta": 0.5},
}

# What spells each operator: "" if it did, else why it could not.
SPELLINGS: dict[tuple[str, str], Callable[[ir.Node], str]] = {
    (OWN, "SkipLayerNormalization"): lambda node: _skip_norm(node, centred=True),
    (OWN, "SkipSimplifiedLayerNormalization"): lambda node: _skip_norm(node, centred=False),
    (OWN, "SimplifiedLayerNormalization"): _simplified_norm,
    ("", "SimplifiedLayerNormalization"): _simplified_norm,
    (OWN, "BiasGelu"): lambda node: _gelu(node, "none"),
    (OWN, "Gelu"): lambda node: _gelu(node, "none"),
    (OWN, "FastGelu"): lambda node: _gelu(node, "tanh"),
    (OWN, "BiasAdd"): _bias_add,
    (OWN, "FusedMatMul"): _fused_matmul,
    (OWN, "FusedGemm"): _with_activation,
    (OWN, "FusedConv"): _with_activation,
    **spell_attention.SPELLINGS,
}

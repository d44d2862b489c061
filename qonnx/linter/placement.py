"""Rules about where Q/DQ nodes stand: what a runtime fuses, and what breaks it."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from qonnx.custom_ops import DOMAIN
from qonnx.linter.view import MOVES, WEIGHTED, View, is_constant, through_activation
from qonnx.model import constant
from qonnx.targets import Target
from qonnx.targets.conditions import holds, sizes

Found = Iterator[tuple[ir.Node, str]]
_EIGHT_BITS = ("u8", "s8")
_INTEGER = ("ConvInteger", "MatMulInteger", "DynamicQuantizeLinear")


def float_weight(view: View, target: Target) -> Found:
    """A Conv or Gemm with a float weight between Q/DQ: ONNX Runtime quantizes the weight by itself, without a word.

    Measured on ONNX Runtime 1.32: it happens at the default optimisation level, unless the bias is quantized or
    the input has scales by channel; an OCR model lost 70 points of exact matches to it. MatMul is not touched.
    """
    for node in view.weighted():
        if node.op_type not in ("Conv", "Gemm") or not is_constant(node.inputs[1]):
            continue
        if len(node.inputs) > 2 and view.dequantizer(node.inputs[2]) is not None:
            continue
        before = view.activation(node.inputs[0])
        if before is not None and not before.per_channel and view.quantizers(through_activation(node)):
            yield node, "its weight is float, its input and output are quantized"


def unfusable_matmul(view: View, target: Target) -> Found:
    """A product whose two number types have no integer kernel together: it runs in float.

    Measured on ONNX Runtime 1.32, x86: 8-bit × 8-bit fuses in every signedness; 16-bit activations, and weights of 4
    or 2 bits behind quantized activations, do not.
    """
    for node in view.weighted():
        left = view.activation(node.inputs[0])
        right = view.dequantizer(node.inputs[1])
        if left is None or right is None:
            continue
        if left.type not in _EIGHT_BITS or right.type not in _EIGHT_BITS or right.block:
            block = " in blocks" if right.block else ""
            yield (
                node,
                f"{left.type} activations × {right.type} weights{block} have no integer kernel on {target.title}",
            )


def unquantized_output(view: View, target: Target) -> Found:
    """An operator with quantized inputs whose output is not quantized, where the runtime needs it to fuse.

    Source: the node units of ONNX Runtime's QDQ selectors; measured for Conv on 1.32 (it stays float).
    """
    for node in view.weighted():
        if node.op_type not in target.outputs or view.activation(node.inputs[0]) is None:
            continue
        if view.dequantizer(node.inputs[1]) is not None and not view.quantizers(through_activation(node)):
            yield node, "its inputs are quantized, its output is not"


def relu_not_absorbed(view: View, target: Target) -> Found:
    """A Relu between a convolution and its quantizer whose range goes below zero: neither fuses.

    ONNX Runtime drops the Relu only if the codes cannot mean negative values (measured on 1.32: with zero point 0 of u8
    the convolution runs on integers, with 5 in float).
    """
    for node in view.weighted():
        if node.op_type not in target.outputs or view.activation(node.inputs[0]) is None:
            continue
        behind = through_activation(node)
        relu = behind.producer()
        if relu is node or relu.op_type != "Relu":
            continue
        for after in view.quantizers(behind):
            lowest = {"u8": 0, "s8": -128, "u16": 0, "s16": -32768}.get(after.type)
            if lowest is not None and after.zero_point is not None and (after.zero_point != lowest).any():
                point = int(after.zero_point.flat[0])
                yield (
                    node,
                    f"its output after Relu has zero point {point}; {lowest} would let the runtime drop the Relu",
                )


def output_without_reader(view: View, target: Target) -> Found:
    """A quantized output of a convolution or product that only float operators read.

    The runtime fuses what follows (Add, Relu, …) into the operator unless Q/DQ stands between them. Source: NVIDIA,
    TensorRT documentation, "Q/DQ placement recommendations".
    """
    for node in view.weighted():
        if view.dequantizer(node.inputs[1]) is None:
            continue
        for after in view.quantizers(node.outputs[0]):
            readers = [use.node for dq in view.dequantizers_behind(after.output) for use in dq.output.uses()]
            if readers and not any(_wants_integers(view, reader) for reader in readers):
                kinds = ", ".join(sorted({reader.op_type for reader in readers}))
                yield node, f"its output is quantized only for {kinds}"


def residual_both_branches(view: View, target: Target) -> Found:
    """An Add whose two inputs are quantized, one of them straight from a convolution or product.

    That operator could otherwise take the Add in. Source: NVIDIA ModelOpt quantizes the other branch only.
    """
    for node, branches in _residual_adds(view):
        if all(view.activation(value) for value in node.inputs[:2]) and any(branches):
            yield node, "both inputs are quantized; the one from the convolution should not be"


def residual_not_quantized(view: View, target: Target) -> Found:
    """An Add behind a quantized convolution whose other branch is float: the fused operator then writes float.

    Source: NVIDIA ModelOpt quantizes the residual branch.
    """
    for node, branches in _residual_adds(view):
        if any(view.activation(value) for value in node.inputs[:2]):
            continue
        direct = [value for value in node.inputs[:2] if _from_weighted(view, value)]
        other = [value for value in node.inputs[:2] if not _from_weighted(view, value) and not is_constant(value)]
        if direct and other and any(branches):
            yield node, "the residual branch is not quantized"


def scale_changes(view: View, target: Target) -> Found:
    """An operator that only moves data, with another scale behind it than before it: it cannot run on the codes."""
    for node in view.nodes:
        if node.op_type not in target.shared_scales or not node.outputs:
            continue
        movers = node.inputs if node.op_type == "Concat" else node.inputs[:1]
        before = [found for value in movers if (found := view.activation(value)) is not None]
        for after in view.quantizers(node.outputs[0]):
            changed = [one for one in before if not one.equals(after)]
            if changed:
                was, now = _scalar(changed[0].scale), _scalar(after.scale)
                yield node, f"scale {was} before it and {now} behind it"
                break


def double_quantization(view: View, target: Target) -> Found:
    """A DequantizeLinear that feeds a QuantizeLinear directly: the values are rounded twice, or for nothing."""
    for node, linear in view.linears.items():
        before = view.dequantizer(linear.input) if linear.quantizes else None
        if before is not None and not is_constant(before.input):
            again = "with the same grid" if before.equals(linear) else "with another grid"
            yield node, f"quantizes what '{before.name}' has just dequantized, {again}"


def dangling(view: View, target: Target) -> Found:
    """A Q or DQ that nothing reads."""
    for node, linear in view.linears.items():
        if not linear.output.uses() and not linear.output.is_graph_output():
            yield node, "nothing reads its output"


def small_operator(view: View, target: Target) -> Found:
    """A quantized operator too small to gain from integers (the target's `exclude` rows)."""
    for node in view.weighted():
        if view.dequantizer(node.inputs[0]) is None or view.dequantizer(node.inputs[1]) is None:
            continue
        known = sizes(node)
        for row in target.exclude:
            if row["op"] == node.op_type and holds(row["when"], known):
                shown = ", ".join(f"{name}={size}" for name, size in known.items())
                yield node, f"{row['when']} ({shown})"
                break


def weight_stored_float(view: View, target: Target) -> Found:
    """A weight stored in float behind a QuantizeLinear: the file is no smaller for it."""
    for node in view.weighted():
        linear = view.weight(node.inputs[1])
        if linear is not None and not is_constant(linear.input):
            values = constant(view.linears[linear.input.producer()].input)
            yield node, f"its weight is {values.nbytes / 1e6:.2f} MB of float in the file"


def contrib_operator(view: View, target: Target) -> Found:
    """An operator of ONNX Runtime's own domain or of ours, on a runtime that reads standard ONNX."""
    for node in view.nodes:
        if node.domain == "com.microsoft":
            yield node, f"com.microsoft's {node.op_type} is known to ONNX Runtime only"
        elif node.domain == DOMAIN:
            yield (
                node,
                f"{DOMAIN}'s {node.op_type} needs a runtime that reads functions of the model or loads our library",
            )


def integer_operator(view: View, target: Target) -> Found:
    """An operator that computes on integers itself, on a runtime that reads Q/DQ only.

    Source: TensorRT's list of ONNX operators (ConvInteger, MatMulInteger, DynamicQuantizeLinear and the QLinear
    operators are not on it); ONNX Runtime's QNN provider takes node units of Q/DQ.
    """
    for node in view.nodes:
        if node.op_type.startswith("QLinear") or node.op_type in _INTEGER:
            yield node, f"{target.title} does not know {node.op_type}"


def _scalar(values) -> str:
    return "unknown" if values is None else f"{float(values.flat[0]):.6g}"


def _wants_integers(view: View, reader: ir.Node, depth: int = 8) -> bool:
    """Whether `reader`, or what reads its output after moving data, is an operator that runs on integers."""
    if reader.op_type in WEIGHTED:
        return True
    if reader.op_type not in MOVES or not depth:
        return False
    users = [use.node for value in reader.outputs for use in value.uses()]
    return any(user in view.linears or _wants_integers(view, user, depth - 1) for user in users)


def _from_weighted(view: View, value: ir.Value | None) -> bool:
    """Whether a convolution or product with a quantized weight makes `value`, with or without Q/DQ behind it."""
    found = view.activation(value)
    if found is not None:
        before = view.linears.get(found.input.producer())
        value = before.input if before is not None else value
    node = value.producer() if value is not None else None
    if node is None or node.op_type not in WEIGHTED:
        return False
    return view.dequantizer(node.inputs[1]) is not None and len(value.uses()) == 1


def _residual_adds(view: View) -> Iterator[tuple[ir.Node, list[bool]]]:
    """Adds of two computed tensors, and for each input whether a quantized convolution or product makes it."""
    for node in view.nodes:
        if node.op_type == "Add" and not any(is_constant(value) for value in node.inputs):
            yield node, [_from_weighted(view, value) for value in node.inputs]

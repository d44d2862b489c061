"""A copy of the quantized model in which every layer reads the float model's tensors: the isolated error of each.

Each tensor with a counterpart is cut: those who read it read a new graph input instead, which is fed with the float
model's tensor, while its producer still produces it. One run then gives every layer's own error, undisturbed by the
layers before it. Where the readers take codes (QLinear operators), the input is quantized first, with their scale.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx_ir as ir

from qonnx.correspond import OUTPUT_SCALE, Match
from qonnx.probes import values, with_outputs

SUFFIX = "@reference"


def forced(
    model: ir.Model, matches: Mapping[str, Match], types: Mapping[str, ir.DataType], wanted: Iterable[str]
) -> tuple[ir.Model, dict[str, str], list[str]]:
    """(copy of `model`, its new inputs by the reference's tensor name, names of its outputs).

    matches: counterparts by the reference's tensor name; types: element type of each counterpart. The outputs are the
    counterparts of `wanted`, in order; only the nodes and inputs that these need are kept.
    """
    copy = model.clone()
    graph = copy.graph
    known = values(graph)
    outputs = {}
    for name in wanted:
        match = matches[name]
        outputs[name] = _decoded(graph, known[match.value]) if match.codes else known[match.value]
    inputs = {}
    for name, match in matches.items():
        value = known[match.value]
        if value.is_graph_input():
            continue  # the sample itself: both models read the same
        source = ir.Value(name=f"{name}{SUFFIX}", type=ir.TensorType(types[name]))
        source.shape = None
        if _cut(graph, value, source, match.codes, keep=set(outputs.values())):
            inputs[name] = source
    results = []
    for index, value in enumerate(outputs.values()):  # an output may be wanted twice, or be a graph input
        node = ir.node("Identity", [value], name=f"qonnx_wanted_{index}")
        node.outputs[0].name = f"qonnx_wanted_{index}"
        graph.append(node)
        results.append(node.outputs[0])
    with_outputs(copy, results)
    used = {name: source for name, source in inputs.items() if source.uses()}
    graph.inputs.extend(used.values())
    return copy, {name: source.name for name, source in used.items()}, [value.name for value in results]


def _cut(graph: ir.Graph, value: ir.Value, source: ir.Value, codes: bool, keep: set[ir.Value]) -> bool:
    """Let every reader of `value` read `source`; whether there was any."""
    if codes:
        return _cut_codes(graph, value, source, _output_scale(value.producer()), keep)
    uses = list(value.uses())
    for node, index in uses:
        node.replace_input_with(index, source)
    maker = value.producer()
    if maker is not None and maker.op_type == "DequantizeLinear" and maker.inputs[0].producer() is not None:
        _cut_codes(graph, maker.inputs[0], source, maker.inputs[1:3], {*keep, value})
    return True


def _cut_codes(graph: ir.Graph, codes: ir.Value, source: ir.Value, scale: list[ir.Value | None], keep: set) -> bool:
    """Let integer operators that read `codes` read `source` quantized, and those that read it decoded, `source`."""
    uses = []
    for node, index in list(codes.uses()):
        if node.op_type != "DequantizeLinear":
            uses.append((node, index))
        elif node.outputs[0] not in keep:
            for reader, position in list(node.outputs[0].uses()):
                reader.replace_input_with(position, source)
    if not uses or codes.producer().op_type not in OUTPUT_SCALE:
        return False
    quantize = ir.node("QuantizeLinear", [source, *scale], name=f"{source.name}_quantize")
    quantize.outputs[0].name = f"{source.name}_codes"
    graph.insert_before(graph[0], quantize)
    for node, index in uses:
        node.replace_input_with(index, quantize.outputs[0])
    return True


def _decoded(graph: ir.Graph, codes: ir.Value) -> ir.Value:
    """A new DequantizeLinear behind `codes`, with the scale of the operator that makes them."""
    node = ir.node("DequantizeLinear", [codes, *_output_scale(codes.producer())], name=f"{codes.name}_decode")
    node.outputs[0].name = f"{codes.name}_decoded"
    graph.append(node)
    return node.outputs[0]


def _output_scale(node: ir.Node) -> list[ir.Value | None]:
    return [node.inputs[index] for index in OUTPUT_SCALE[node.op_type] if index < len(node.inputs)]


def decoded_copy(model: ir.Model, matches: Iterable[Match]) -> tuple[ir.Model, list[str]]:
    """A copy of `model` whose outputs are the matched tensors as floats, and the outputs' names, in order."""
    copy = model.clone()
    known = values(copy.graph)
    results = []
    for index, match in enumerate(matches):
        value = _decoded(copy.graph, known[match.value]) if match.codes else known[match.value]
        node = ir.node("Identity", [value], name=f"qonnx_tap_{index}")
        node.outputs[0].name = f"qonnx_tap_{index}"
        copy.graph.append(node)
        results.append(node.outputs[0])
    return with_outputs(copy, results), [value.name for value in results]

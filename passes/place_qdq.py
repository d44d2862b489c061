"""Place Q/DQ: carry out the plans. Every activation of a planned node gets QuantizeLinear → DequantizeLinear.

1. Weights: an initializer of codes and a DequantizeLinear over it; a shared weight is stored once.
2. A planned output gets one Q/DQ pair that all its readers see, so that the runtime can fuse the unit; a graph output
   keeps its name and type behind the pair.
3. Other activations get one pair, read only by the planned nodes: float readers (residual branches) keep the float
   value.
4. A value that only moved (Reshape, Transpose, …) from a pair takes the pair's grid again, which costs nothing.
5. Bias: int32 with scale = input scale × weight scale, as the runtimes' integer kernels want it.
6. A float Conv, ConvTranspose or Gemm between DQ and Q would have its weight quantized by ONNX Runtime in silence, per
   tensor (weight_bias_quantization, seen as 0.97 → 0.27 exact matches); its DQ is spelled per channel with equal
   scales, which means the same and is no pattern of that optimiser.
7. Attention planned on logarithmic codes becomes one operator with its Softmax (passes/write_log_attention.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from qonnx.notes import done, note, skip
from qonnx.passes.assign import output_of
from qonnx.passes.assign_elementwise import WEIGHTED, elementwise_plan
from qonnx.passes.base import Change, Pass
from qonnx.passes.linear import add_to_bias
from qonnx.passes.qdq_writer import QDQWriter, value_names
from qonnx.passes.rewire import bodies
from qonnx.passes.write_log_attention import write_log_attention
from qonnx.plan import Encoding, Plan
from qonnx.targets import Target


@dataclasses.dataclass
class PlaceQDQ(Pass):
    """Insert QuantizeLinear and DequantizeLinear where plans say; each planned node ends `done` in the ledger.

    With `target`, operators without weights whose neighbours have left integers since they were planned leave as well.
    """

    target: Target | None = None

    needs = ("solve_weights | solve_in_turn",)
    tolerance = None

    def changes(self, model: ir.Model) -> Iterator[Change]:
        taken, stored = value_names(model), {}
        for graph in bodies(model):
            if self.target is not None and not self.target.node_units:
                yield from self._withdraw(graph)
            planned = [n for n in graph if isinstance(note(n).plan, Plan) and note(n).fate is None]
            if planned:
                yield from self._place(model, graph, planned, QDQWriter(graph, taken, stored))

    def _withdraw(self, graph: ir.Graph) -> Iterator[Change]:
        for node in graph:
            plan = note(node).plan
            if not isinstance(plan, Plan) or node.op_type in WEIGHTED or plan.weight is not None or not plan.inputs:
                continue
            again = elementwise_plan(node, self.target, next(iter(plan.inputs.values())))
            if isinstance(again, str) and note(node).fate is None:
                note(node).plan = None
                if again:
                    skip(node, again)
                yield Change(node.name or node.outputs[0].name, "left in float, as its neighbours are")

    def _place(self, model: ir.Model, graph: ir.Graph, planned: list[ir.Node], writer: QDQWriter) -> Iterator[Change]:
        for node in planned:
            if note(node).mean_error is not None:
                add_to_bias(node, -note(node).mean_error, np.dtype(np.float32))
        for node in planned:
            if note(node).plan.output:
                for output in _outputs(node):
                    writer.pair_for_all(output, _only(note(output).encodings))
        for node in planned:
            plan = note(node).plan
            for index, format in plan.inputs.items():
                value = node.inputs[index]
                node.replace_input_with(index, writer.pair_for_one(value, format))
                writer.discard(value)
            if plan.weight is not None:
                writer.weight(node, plan)
            if plan.bias:
                writer.bias(node)
            if plan.attention is not None:
                node = write_log_attention(model, node, plan.attention)
            done(node, str(plan))
            yield Change(node.name or node.outputs[0].name, str(plan))
        yield from writer.guard_float_weights()


def _outputs(node: ir.Node) -> list[ir.Value]:
    """The values whose Q/DQ close the node's unit: a Relu behind it belongs to it, if it has no unit of its own."""
    closing = output_of(node)
    if closing is not node.outputs[0] and note(closing.producer()).plan is None:
        return [closing]
    return [value for value in node.outputs if note(value).encodings and (value.uses() or value.is_graph_output())]


def _only(encodings: dict[str, Encoding]) -> Encoding:
    return next(iter(encodings.values()))

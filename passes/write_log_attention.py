"""Write LogAttention: Softmax and attention × V with integer values become one operator on logarithmic codes.

Softmax(scores) · DQ(codes of V)  →  LogAttention(scores, codes of V, scale of V, table of weights). The operator is a
function of standard operators where its kernel is not installed (qonnx/custom_ops/log_attention.py).
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qonnx.custom_ops import log_attention, ops
from qonnx.passes.rewire import array, initializer, remove_unused, replace
from qonnx.plan import LogGrid

OPSET = 18  # of the function


def write_log_attention(model: ir.Model, node: ir.Node, grid: LogGrid) -> ir.Node:
    """Put the operator in the place of the product `node`, whose right operand comes from DequantizeLinear."""
    softmax, dequantize = node.inputs[0].producer(), node.inputs[1].producer()
    graph, name = node.graph, node.outputs[0].name
    codes, scale = dequantize.inputs[:2]
    table = log_attention.weight_table(grid.levels, grid.codes_per_octave)
    value_scale = initializer(graph, f"{name}_value_scale", array(scale).astype(np.float32).reshape(1))
    operands = [softmax.inputs[0], codes, value_scale, initializer(graph, f"{name}_weights", table)]
    attributes = {"codes_per_octave": float(grid.codes_per_octave)}
    new = ops.node(log_attention.OPERATOR, operands, node_name=node.name, **attributes)
    graph.insert_before(node, new)
    new.meta.update(node.meta)
    new.metadata_props.update(node.metadata_props)
    replace(node.outputs[0], new.outputs[0])
    remove_unused([node, softmax, dequantize])
    ops.add_to_model(model, log_attention.OPERATOR)
    return new

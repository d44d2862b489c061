"""What the tests of static quantization share: run the passes up to one of them on an ONNX text and read the result."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir

from models.tiny import build, inputs
from qonnx.notes import note
from qonnx.passes import SPELLING
from qonnx.passes.assign import Assign
from qonnx.passes.label import Label
from qonnx.passes.observe import Observe
from qonnx.passes.place_qdq import PlaceQDQ
from qonnx.passes.solve_weights import SolveWeights
from qonnx.runtime import session
from qonnx.settings import Settings
from qonnx.targets import target
from tests.test_pass_laws import make

HEAD = '<ir_version: 10, opset_import: ["": 21]>'


def spelt(text: str) -> ir.Model:
    model = build(text)
    for name in SPELLING:
        make(name, model)(model)
    return model


def assigned(model: ir.Model, where: str = "ort-cpu", settings: Settings | None = None, **options) -> ir.Model:
    """`model` with plans for the target; calibrated on four random samples."""
    data = [inputs(model, seed) for seed in range(4)]
    Label()(model)
    Observe(data=data, target=target(where), histogram=True)(model)
    Assign(target(where), settings or Settings(), **options)(model)
    return model


def placed(model: ir.Model, where: str = "ort-cpu", settings: Settings | None = None, **options) -> ir.Model:
    assigned(model, where, settings, **options)
    SolveWeights()(model)
    PlaceQDQ()(model)
    return model


def node_of(model: ir.Model, output: str) -> ir.Node:
    """The node that makes the value of that name."""
    return next(node for node in model.graph if output in [value.name for value in node.outputs])


def made_by(node: ir.Node, index: int) -> str:
    """Operator type behind an input: "DequantizeLinear", "Relu", … or "" for an input of the graph or a constant."""
    producer = node.inputs[index].producer()
    return "" if producer is None else producer.op_type


def grid(dequantize: ir.Node) -> tuple[float, int]:
    """Scale and zero point of a Q or DQ with one of each."""
    return float(dequantize.inputs[1].const_value.numpy()), int(dequantize.inputs[2].const_value.numpy())


def kinds(model: ir.Model) -> Counter:
    return Counter(node.op_type for node in model.graph)


def fates(model: ir.Model) -> dict[str, tuple[str, str]]:
    """Output name -> (state, reason) of every node in the ledger."""
    return {
        node.outputs[0].name: (note(node).fate.state, note(node).fate.reason)
        for node in model.graph
        if note(node).fate is not None
    }


def run(model: ir.Model, seed: int = 0, optimization: str = "none") -> list[np.ndarray]:
    return session(model, optimization=optimization, threads=1).run(None, inputs(model, seed))

"""remove_dead: nodes, initializers, functions and operator sets that nothing uses."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import onnx_ir as ir

from qonnx.passes.base import Change, Pass
from qonnx.passes.rewire import bodies, drop_initializer, remove_unused


@dataclasses.dataclass
class RemoveDead(Pass):
    """Everything that no output depends on. Unused graph inputs stay: they are part of the interface."""

    tolerance = 0.0

    def changes(self, model: ir.Model) -> Iterator[Change]:
        for body in bodies(model):
            for node in list(reversed(list(body))):
                if node.graph is not None and not any(o.uses() or o.is_graph_output() for o in node.outputs):
                    yield Change(node.name or "", f"{node.op_type} removed: nothing reads it")
                    remove_unused([node])
            for value in list(body.initializers.values()):
                if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
                    yield Change(value.name or "", "initializer removed: nothing reads it")
                    drop_initializer(value)
        yield from _functions_and_opsets(model)


def _functions_and_opsets(model: ir.Model) -> Iterator[Change]:
    called = {node.op_identifier() for node in model.graph.all_nodes()}
    pending = [model.functions[key] for key in called if key in model.functions]
    while pending:
        function = pending.pop()
        inner = {node.op_identifier() for node in function.all_nodes()} - called
        called |= inner
        pending += [model.functions[key] for key in inner if key in model.functions]
    for key in [key for key in model.functions if key not in called]:
        del model.functions[key]
        yield Change(key[1], "function removed: nothing calls it")
    domains = {domain for domain, _, _ in called} | {""}
    for domain in [d for d in model.graph.opset_imports if d not in domains]:
        del model.graph.opset_imports[domain]
        yield Change(domain, "operator set removed: nothing uses it")

"""Share tables: one table of 8-bit codes for what embeds tokens and scores them at the end.

A language model whose embedding is tied reads one constant twice: Gather takes rows of it, and a MatMul multiplies by
it transposed. No other pass can quantize it, since one reader wants rows and the other columns. But a row of the table
is an output of the product: with one scale a row, both read the same codes. Gather becomes a look-up of codes and of
scales; the product becomes MatMulLowBit of `ai.qonnx`, whose layout of 8-bit codes is the table itself.

8 bits, rounded plainly: on SmolLM2-135M, whose table is a fifth of its weights, the product's part moves perplexity by
less than its error of measurement (0.9994 ± 0.0015 of float on 1500 tokens, 0.0007 nats from the float model's
predictions). Targets that read standard operators only keep the table as it is, as do tables that anyone else reads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir

from qonnx.custom_ops import ops
from qonnx.custom_ops.lowbit import EXACT, LowBitWeight
from qonnx.formats import FORMATS
from qonnx.notes import done, note
from qonnx.passes.base import Change, Pass
from qonnx.passes.rewire import (
    array,
    dims_of,
    initializer,
    integer,
    integers,
    is_op,
    new_node,
    rank,
    remove_unused,
    replace,
)
from qonnx.solvers.nearest import nearest
from qonnx.targets import Target

_FORMAT = dataclasses.replace(FORMATS["u8"], symmetric=True, granularity="channel")


@dataclasses.dataclass
class ShareTables(Pass):
    """Write tables that are gathered from and multiplied with in 8-bit codes; each node ends `done` in the ledger."""

    target: Target | None = None
    settings: Any = None

    tolerance = None
    recurses = False  # a table in the main graph whose readers are all there

    def changes(self, model: ir.Model) -> Iterator[Change]:
        if self.target is not None and self.target.standard_only:
            return
        for value in list(model.graph.initializers.values()):
            found = self._readers(model.graph, value)
            if found is not None:
                yield from _shared(model, value, *found)

    def _readers(self, graph: ir.Graph, value: ir.Value) -> tuple[list[ir.Node], list[ir.Node]] | None:
        """Nodes that gather rows and products with the transposed table; None unless these and only these read it."""
        if value.dtype != ir.DataType.FLOAT or value.is_graph_output() or len(dims_of(value)) != 2:
            return None
        gathers, turns = [], []
        for use in value.uses():
            node = use.node
            if is_op(node, "Gather") and use.idx == 0 and integer(node, "axis", 0) == 0:
                gathers.append(node)
            elif is_op(node, "Transpose") and integers(node, "perm") in (None, (1, 0)):
                turns.append(node)
            else:
                return None
        uses = [use for turn in turns for use in turn.outputs[0].uses()]
        fits = all(
            is_op(use.node, "MatMul") and use.idx == 1 and rank(use.node.inputs[0]) not in (None, 1) for use in uses
        )
        products = [use.node for use in uses]
        readers = [*gathers, *products]
        if not (gathers and products and fits) or any(turn.outputs[0].is_graph_output() for turn in turns):
            return None
        if any(node.graph is not graph or note(node).fate is not None for node in readers):
            return None
        if self.settings is not None and any(self.settings.exclusion(node) for node in readers):
            return None
        return (gathers, products) if np.isfinite(array(value)).all() else None


def _shared(model: ir.Model, value: ir.Value, gathers: list[ir.Node], products: list[ir.Node]) -> Iterator[Change]:
    table, graph = array(value), model.graph
    solved = nearest(table[None], _FORMAT)
    weight = LowBitWeight(
        solved.codes[0], solved.scale[0], np.full((1, 1), _FORMAT.middle, np.uint8), table.shape[1], 2**_FORMAT.bits
    )
    arrays = {name: initializer(graph, f"{value.name}/{name}", data) for name, data in weight.arrays().items()}
    turns = [use.node for use in value.uses() if is_op(use.node, "Transpose")]
    for node in gathers:
        _gather(node, arrays["codes"], arrays["scale"])
        yield Change(node.name or node.outputs[0].name, "rows gathered as 8-bit codes of a shared table")
    for node in products:
        zero = initializer(graph, f"{node.outputs[0].name}/bias", np.zeros(1, np.float32))
        new = ops.node(EXACT, [node.inputs[0], *arrays.values(), zero], node_name=node.name, **weight.attributes())
        ops.add_to_model(model, EXACT)
        _stand_in(node, [new], f"u8.channel, table shared with {gathers[0].name or gathers[0].op_type}")
        yield Change(new.name or new.outputs[0].name, "multiplied by 8-bit codes of a shared table")
    remove_unused([*gathers, *products, *turns])


def _gather(node: ir.Node, codes: ir.Value, scale: ir.Value) -> None:
    """(codes[i] − 128) · scale[i]."""
    result, rows = node.outputs[0], node.inputs[1]
    middle = initializer(node.graph, f"{result.name}/middle", np.array(_FORMAT.middle, np.float32))
    made: list[ir.Node] = []

    def add(operator: str, inputs: list[ir.Value], suffix: str, attributes: dict | None = None) -> ir.Value:
        made.append(new_node(operator, inputs, attributes, like=node, suffix=suffix))
        made[-1].outputs[0].name = f"{result.name}_{suffix}"
        return made[-1].outputs[0]

    found = add("Cast", [add("Gather", [codes, rows], "codes")], "cast", {"to": int(ir.DataType.FLOAT)})
    centred = add("Sub", [found, middle], "shifted")
    made.append(new_node("Mul", [centred, add("Gather", [scale, rows], "scales")], like=node))
    _stand_in(node, made, "u8.channel, rows gathered as codes")


def _stand_in(node: ir.Node, made: list[ir.Node], detail: str) -> None:
    """Put `made` in front of `node`, its last node in the place of it."""
    for one in made:
        node.graph.insert_before(node, one)
    new = made[-1]
    new.meta.update(node.meta)
    new.metadata_props.update(node.metadata_props)
    replace(node.outputs[0], new.outputs[0])
    done(new, detail)

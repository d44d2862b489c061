"""Writes Q/DQ pairs, stored weights and integer biases into one graph, each grid, weight and scale once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from qonnx.formats import IntFormat, QuantizedTensor
from qonnx.notes import note
from qonnx.passes.base import Change
from qonnx.passes.bias_codes import bias_codes, with_room
from qonnx.passes.label import MOVES
from qonnx.passes.rewire import array, bodies, drop_initializer, is_constant, is_op, remove_unused
from qonnx.plan import Encoding, Plan, encoding, nearest_codes

# Operators whose output holds no number that their input does not: codes pass through them as they are.
_CODE_MOVES = (*MOVES, "MaxPool", "Gather", "DepthToSpace", "SpaceToDepth", "Expand", "Tile")
_SILENTLY_QUANTIZED = ("Conv", "ConvTranspose", "Gemm")


class QDQWriter:
    """Adds nodes and initializers to one graph, each grid, weight and scale once.

    taken: all names in use; stored: what stands for each solved weight. The writers of a model share both, since a body
    may not reuse a name of the graph around it and reads that graph's weights.
    """

    def __init__(self, graph: ir.Graph, taken: set[str], stored: dict[tuple[int, int], ir.Value]):
        self.graph, self.taken, self.stored = graph, taken, stored
        self.pairs: dict[tuple[int, str], ir.Value] = {}  # (id of float value, format name) -> dequantized value
        self.grids: dict[int, Encoding] = {}  # id of dequantized value -> its grid
        self.sources: dict[int, ir.Value] = {}  # id of dequantized value -> float value

    def pair_for_all(self, value: ir.Value, grid: Encoding) -> ir.Value:
        """Q/DQ behind `value`; every other reader, and the graph's output, reads the pair."""
        readers = list(value.uses())
        pair = self._pair(value, grid)
        for use in readers:
            use.node.replace_input_with(use.idx, pair)
        if value.is_graph_output():
            for index, output in enumerate(self.graph.outputs):
                if output is value:
                    self.graph.outputs[index] = pair
            value.name, pair.name = self._free(f"{value.name}_float"), value.name
        return pair

    def pair_for_one(self, value: ir.Value, format: IntFormat) -> ir.Value:
        """The dequantized twin of `value` for a planned node to read; of a constant, from stored codes."""
        if id(value) in self.grids and self.grids[id(value)].format == format:
            return value  # the producer's own pair
        value = self.sources.get(id(value), value)  # a pair of another format: two roundings would be worse than one
        key = (id(value), format.name)
        if key not in self.pairs and is_constant(value):
            self.pairs[key] = self._stored(value, format)
        if key not in self.pairs:
            grid = self._moved(value, format) or note(value).encodings[format.name]
            self.pairs[key] = self._pair(value, grid)
        return self.pairs[key]

    def _stored(self, value: ir.Value, format: IntFormat) -> ir.Value:
        """A constant operand as DequantizeLinear over its codes; they cover its range."""
        numbers = np.asarray(array(value), np.float32)
        low, high = (float(numbers.min()), float(numbers.max())) if numbers.size else (0.0, 0.0)
        grid = encoding(format, low, high, value.dtype)
        scale, zero_point = np.float32(grid.scale), np.int64(grid.zero_point)
        codes = format.encode(np.atleast_1d(numbers), scale, zero_point).reshape(numbers.shape)
        pair = self._dequantized(
            value, QuantizedTensor(format, codes.astype(format.numpy_dtype), scale, zero_point, 0), None
        )
        self.grids[id(pair)] = grid
        return pair

    def _moved(self, value: ir.Value, format: IntFormat) -> Encoding | None:
        """The grid of the pair that `value` was moved from without change, if there is one of that format."""
        grid = self._source(value)
        return grid if grid is not None and grid.format == format else None

    def _source(self, value: ir.Value) -> Encoding | None:
        """The grid of the pair that `value` was moved from without change."""
        node = value.producer()
        while is_op(node, *_CODE_MOVES):
            source = node.inputs[0]
            if id(source) in self.grids:
                return self.grids[id(source)]
            node = source.producer()
        return None

    def _pair(self, value: ir.Value, grid: Encoding) -> ir.Value:
        kind = value.dtype.numpy()
        scale = self._scalar(value, "scale", np.asarray(grid.scale, kind))
        zero_point = self._scalar(value, "zero_point", np.array(grid.zero_point, grid.format.numpy_dtype))
        codes, low = value, grid.format
        if low.levels and not grid.codes:  # fewer levels than the type has: saturate before rounding
            bounds = [
                self._scalar(value, name, np.asarray(x, kind)) for name, x in (("low", grid.low), ("high", grid.high))
            ]
            codes = self._append(value, "Clip", [value, *bounds], "clipped", value.dtype)
        codes = self._append(value, "QuantizeLinear", [codes, scale, zero_point], "codes", low.dtype)
        if grid.codes:
            codes = self._nearest(value, codes, grid)
        after = codes.producer()
        result = self._append(value, "DequantizeLinear", [codes, scale, zero_point], "dequantized", value.dtype, after)
        self.grids[id(result)], self.sources[id(result)] = grid, value
        return result

    def _nearest(self, value: ir.Value, codes: ir.Value, grid: Encoding) -> ir.Value:
        """The codes in use that are nearest to `codes`: a table of all of the type's, read by Gather."""
        table = np.roll(nearest_codes(grid.codes, grid.format), -128 if grid.format.signed else 0)  # −1 is the last
        entries = self._scalar(value, "levels", table.astype(grid.format.numpy_dtype))
        index = self._append(value, "Cast", [codes], "index", ir.DataType.INT32)
        index.producer().attributes["to"] = ir.AttrInt64("to", ir.DataType.INT32.value)
        chosen = self._append(value, "Gather", [entries, index], "levels_chosen", grid.format.dtype, index.producer())
        return chosen

    def _append(self, value, kind, inputs, suffix, dtype, after: ir.Node | None = None) -> ir.Value:
        node = ir.node(kind, inputs=inputs, name=self._free(f"{value.name}_{kind}"))
        output = node.outputs[0]
        output.name, output.shape, output.type = self._free(f"{value.name}_{suffix}"), value.shape, ir.TensorType(dtype)
        anchor = after or inputs[0].producer()
        if anchor is not None and anchor.graph is self.graph:
            self.graph.insert_after(anchor, node)
        elif len(self.graph) and anchor is None:
            self.graph.insert_before(self.graph[0], node)
        return output

    def weight(self, node: ir.Node, plan: Plan) -> None:
        """Replace the node's float weight by DequantizeLinear over its codes, and leave room for its integer bias."""
        value = node.inputs[plan.weight_index]
        if plan.bias and len(node.inputs) > 2 and node.inputs[2] is not None:
            grid = self.grids[id(node.inputs[0])]
            note(node).solved = with_room(note(node).solved, array(node.inputs[2]), grid.scale)
        node.replace_input_with(plan.weight_index, self._dequantized(value, note(node).solved, node))
        self.discard(value)

    def discard(self, value: ir.Value) -> None:
        """Forget a constant that nothing reads any more."""
        drop_initializer(value)
        remove_unused([value.producer()])

    def _dequantized(self, value: ir.Value, solved: QuantizedTensor, node: ir.Node | None) -> ir.Value:
        """`value` as DequantizeLinear makes it, in the graph that owns the float weight, before `node` if possible.

        A body must not hold it where the codes lie outside: ONNX Runtime's fusion then refuses to load the model
        ("Missing required weight").
        """
        key = (id(value), id(solved))
        if key in self.stored:
            return self.stored[key]
        owner = value.graph if value.is_initializer() else value.producer().graph
        attributes = {}
        if solved.format.granularity != "tensor":
            attributes["axis"] = solved.axis
        if solved.format.granularity == "block":
            attributes["block_size"] = solved.format.block
        arrays, name = self._arrays(value, solved, owner), self._free(f"{value.name}_DequantizeLinear")
        dequantize = ir.node("DequantizeLinear", inputs=arrays, attributes=attributes, name=name)
        output = dequantize.outputs[0]
        output.name, output.shape, output.type = self._free(f"{value.name}_dequantized"), value.shape, value.type
        alone = all(use.node.graph is owner for use in value.uses())
        owner.insert_before(node if alone and node is not None else owner[0], dequantize)
        self.stored[key] = output
        return output

    def _arrays(self, value: ir.Value, solved: QuantizedTensor, owner: ir.Graph) -> list[ir.Value]:
        """Codes, scale and zero point; the scale has the float type of `value`, which DequantizeLinear then returns."""
        number, scale = solved.format, np.asarray(solved.scale).astype(value.dtype.numpy())
        zero_point = np.asarray(solved.zero_point).astype(number.numpy_dtype)
        return [
            self._initializer(f"{value.name}_codes", solved.codes, number.dtype, owner),
            self._initializer(f"{value.name}_scale", scale, None, owner),
            self._initializer(f"{value.name}_zero_point", zero_point, number.dtype, owner),
        ]

    def bias(self, node: ir.Node) -> None:
        """int32 bias: scale = input scale × weight scale, zero point 0. A norm's weight is an operand with a grid."""
        solved, grid = note(node).solved, self.grids[id(node.inputs[0])]
        weight_scale = self.grids[id(node.inputs[1])].scale if solved is None else solved.scale
        value = node.inputs[2] if len(node.inputs) > 2 else None
        if value is None:
            value = self._initializer(
                f"{node.name or node.outputs[0].name}_bias", np.zeros(_channels(solved), np.float32)
            )
            node.resize_inputs(3)
            node.replace_input_with(2, value)
        stored = bias_codes(array(value), weight_scale, grid.scale)
        node.replace_input_with(2, self._dequantized(value, stored, node))
        self.discard(value)

    def guard_float_weights(self) -> Iterator[Change]:
        """Case 6: spell the DQ in front of a float-weight Conv so that no runtime quantizes the weight unasked.

        ONNX Runtime carries Q/DQ through data movement before it looks for its pattern, so a moved value gets a pair of
        its own here, on the same grid.
        """
        for node in list(self.graph):
            if not is_op(node, *_SILENTLY_QUANTIZED) or is_op(node.inputs[1].producer(), "DequantizeLinear"):
                continue
            value, channels = node.inputs[0], _inputs_of(node)
            grid = self.grids.get(id(value)) or self._source(value)
            if grid is None or channels is None or is_constant(value) or not _leads_to_q(node):
                continue
            pair = value.producer() if id(value) in self.grids else self._pair(value, grid).producer()
            scale = self._initializer(f"{value.name}_scales", np.full(channels, grid.scale, value.dtype.numpy()))
            zeros = np.full(channels, grid.zero_point, grid.format.numpy_dtype)
            zero_point = self._initializer(f"{value.name}_zero_points", zeros)
            inputs = [pair.inputs[0], scale, zero_point]
            twin = ir.node(
                "DequantizeLinear", inputs=inputs, attributes={"axis": 1}, name=self._free(f"{pair.name}_guard")
            )
            output = twin.outputs[0]
            output.name, output.shape, output.type = self._free(f"{value.name}_guard"), value.shape, value.type
            self.graph.insert_after(pair, twin)
            node.replace_input_with(0, output)
            if not pair.outputs[0].uses() and not pair.outputs[0].is_graph_output():
                del self.grids[id(pair.outputs[0])]
                remove_unused([pair])
            yield Change(node.name or node.outputs[0].name, "guarded against silent weight quantization")

    def _scalar(self, value: ir.Value, what: str, data) -> ir.Value:
        return self._initializer(f"{value.name}_{what}", np.asarray(data))

    def _initializer(
        self, name: str, data: np.ndarray, dtype: ir.DataType | None = None, owner: ir.Graph | None = None
    ) -> ir.Value:
        name = self._free(name)
        tensor = ir.Tensor(np.ascontiguousarray(data).reshape(np.shape(data)), name=name, dtype=dtype)
        value = ir.Value(name=name, shape=ir.Shape(tensor.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        (owner or self.graph).register_initializer(value)
        return value

    def _free(self, name: str) -> str:
        wanted, count = name, 0
        while wanted in self.taken:
            count += 1
            wanted = f"{name}_{count}"
        self.taken.add(wanted)
        return wanted


def value_names(model: ir.Model) -> set[str]:
    """Names of all values of the main graph and its bodies."""
    names = {output.name for node in model.graph.all_nodes() for output in node.outputs}
    for graph in bodies(model):
        names |= {*graph.initializers, *(value.name for value in graph.inputs)}
    return names


def _channels(weight: QuantizedTensor) -> int:
    """Output channels of a convolution's weight [O, I, k…]."""
    return weight.codes.shape[0]


def _inputs_of(node: ir.Node) -> int | None:
    """Length of axis 1 of the input of a Conv, ConvTranspose or Gemm; None if it is not known."""
    weight = node.inputs[1].shape
    if weight is not None and isinstance(weight[0], int) and isinstance(weight[1], int):
        if is_op(node, "ConvTranspose"):
            return weight[0]
        if is_op(node, "Conv"):
            return weight[1] * node.attributes.get_int("group", 1)
        if not node.attributes.get_int("transA", 0):
            return weight[1 if node.attributes.get_int("transB", 0) else 0]
    shape = node.inputs[0].shape
    return shape[1] if shape is not None and len(shape) > 1 and isinstance(shape[1], int) else None


def _leads_to_q(node: ir.Node) -> bool:
    """Whether a QuantizeLinear reads what the node makes, behind Relu, Clip and data movement."""
    for user in (user for value in node.outputs for user in value.consumers()):
        if is_op(user, "QuantizeLinear") or (is_op(user, "Relu", "Clip", *_CODE_MOVES) and _leads_to_q(user)):
            return True
    return False

"""A graph as it is written down: nodes on a tape, constants when first asked for, values named after their nodes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

Arrays = Mapping[str, np.ndarray]
Dimension = str | int


class Tape:
    """Every method adds to the tape and returns the value that it made. arrays: the weights, by name."""

    def __init__(self, arrays: Arrays):
        self.arrays = arrays
        self.tape = ir.tape.Tape()
        self.constants: dict[str, ir.Value] = {}

    def model(self, inputs: list[ir.Value], outputs: list[ir.Value], name: str, opset: int) -> ir.Model:
        """The model of what is on the tape."""
        graph = ir.Graph(
            inputs,
            outputs,
            nodes=self.tape.nodes,
            initializers=self.tape.initializers,
            opset_imports={"": opset},
            name=name,
        )
        return ir.Model(graph, ir_version=10)

    def heads(self, name: str, x: ir.Value, heads: int, width: int) -> ir.Value:
        """[batch, sequence, heads · width] as [batch, heads, sequence, width]."""
        x = self.op("Reshape", f"{name}.split", x, self.ints([0, 0, heads, width]))
        return self.op("Transpose", f"{name}.heads", x, perm=[0, 2, 1, 3])

    def weight(self, name: str) -> ir.Value:
        return self.constant(f"{name}.weight", self.arrays[name])

    def ints(self, numbers: list[int]) -> ir.Value:
        return self.constant("ints." + "_".join(map(str, numbers)), np.array(numbers, np.int64))

    def scalar(self, number: int) -> ir.Value:
        return self.constant(f"int.{number}", np.array(number, np.int64))

    def floats(self, number: float) -> ir.Value:
        return self.constant(f"float.{number:g}", np.array(number, np.float32))

    def constant(self, name: str, array: np.ndarray) -> ir.Value:
        """The initializer of that name, made when first asked for."""
        if name not in self.constants:
            self.constants[name] = self.tape.initializer(ir.tensor(np.ascontiguousarray(array), name=name), name)
        return self.constants[name]

    def op(self, kind: str, name: str, *inputs: ir.Value, output: ir.Value | None = None, **attributes) -> ir.Value:
        output = output or ir.Value(name=f"{name}.out")
        return self.tape.op(kind, list(inputs), attributes, name=name, output=output)


def value_of(name: str, dtype: ir.DataType, dims: tuple[Dimension, ...]) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(dims))

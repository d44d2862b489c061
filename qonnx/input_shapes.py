"""Fixed shapes for inputs that a model leaves open (`--input-shapes x:1x3x224x224`)."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from qonnx.errors import QonnxError
from qonnx.options import check_names


def fix_input_shapes(model: ir.Model, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Give the named inputs these shapes, in place; a dimension name that one of them fixes is fixed everywhere.

    Shapes of intermediate values that spoke of such a name are forgotten: shape inference finds them again. Raises
    QonnxError for an unknown input, another rank, a size that the model contradicts, or a name with two sizes.
    """
    inputs = {value.name: value for value in model.graph.inputs}
    check_names(shapes, [name for name in inputs if name], "input", "in --input-shapes")
    sizes: dict[str, int] = {}
    for name, shape in shapes.items():
        old = inputs[name].shape
        if old is not None and len(old) != len(shape):
            raise QonnxError(
                f"--input-shapes gives '{name}' {len(shape)} axes; the model's input has {len(old)}: {old}"
            )
        for axis, size in enumerate(shape):
            was = old[axis] if old is not None else None
            if isinstance(was, int) and was != size:
                raise QonnxError(
                    f"--input-shapes gives axis {axis} of '{name}' size {size}; the model fixes it to {was}"
                )
            dimension = was.value if isinstance(was, ir.SymbolicDim) else None
            if dimension is not None and sizes.setdefault(dimension, size) != size:
                raise QonnxError(f"--input-shapes gives dimension '{dimension}' sizes {sizes[dimension]} and {size}")
        inputs[name].shape = ir.Shape(shape)
    for value in [*model.graph.inputs, *model.graph.outputs]:
        if value.shape is not None:
            value.shape = ir.Shape([_fixed(size, sizes) for size in value.shape])
    for node in model.graph.all_nodes():
        for value in node.outputs:
            if not value.is_graph_output() and value.shape is not None and not value.shape.is_static():
                value.shape = None


def _fixed(size: int | ir.SymbolicDim, sizes: Mapping[str, int]) -> int | ir.SymbolicDim:
    return size if isinstance(size, int) else sizes.get(size.value, size)

"""From a quantized weight to a node: matrix products of `ai.qonnx` as passes place them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qonnx.custom_ops import codebook, lowbit, ops
from qonnx.custom_ops.codebook import CodebookWeight
from qonnx.custom_ops.lowbit import LowBitWeight
from qonnx.errors import QonnxError
from qonnx.formats import QuantizedTensor


def low_bit_weight(tensor: QuantizedTensor, scale_type: np.dtype | type = np.float32) -> LowBitWeight:
    """A MatMul's weight [K, N], quantized by tensor, by output channel (axis 1) or by block along K (axis 0).

    scale_type: the type that scales are stored in; float16 saves half a bit a weight at blocks of 32 and rounds them.

    Raises:
        QonnxError: the weight is no matrix, has more than 8 bits, or its scales lie along another axis.
    """
    grid, codes = tensor.format, np.asarray(tensor.codes)
    axis = {"tensor": None, "channel": 1, "block": 0}[grid.granularity]
    if codes.ndim != 2 or (axis is not None and tensor.axis % 2 != axis):
        raise QonnxError(
            f"a weight of shape {list(codes.shape)} with scales by {grid.granularity} along axis {tensor.axis} does "
            f"not fit a matrix product [K, N]; quantize it by tensor, by channel of axis 1 or by block of axis 0"
        )
    levels = grid.maximum - grid.minimum + 1
    if levels > 256:
        raise QonnxError(f"format {grid.name} has {levels} levels; a low-bit product takes at most 256")
    columns, rows = codes.shape
    shape = {"tensor": (1, 1), "channel": (-1, 1)}.get(grid.granularity)

    def by_row(parameter: np.ndarray) -> np.ndarray:
        turned = parameter.T if shape is None else np.reshape(parameter, shape)
        return np.ascontiguousarray(np.broadcast_to(turned, (rows, turned.shape[1])))

    zero_point = by_row(np.asarray(tensor.zero_point, np.int64)) - grid.minimum
    if (zero_point == zero_point.flat[0]).all():
        zero_point = zero_point.flat[0]
    return LowBitWeight(
        codes=codes.T - grid.minimum,
        scale=by_row(np.asarray(tensor.scale)).astype(scale_type),
        zero_point=np.asarray(zero_point, np.uint8 if np.max(zero_point) < 256 else np.float32),
        block=grid.block or columns,
        levels=levels,
    )


def product(
    x: ir.Value,
    weight: LowBitWeight | CodebookWeight,
    *,
    activation_bits: int | None = None,
    bias: np.ndarray | None = None,
    low_rank: tuple[np.ndarray, np.ndarray] | None = None,
    name: str,
) -> tuple[ir.Node, list[ir.Value]]:
    """The node y = x · wᵀ + bias + (x · a) · b and the initializers that it reads, named after it.

    activation_bits: 8 or 16 to round x to so many by row and block and sum integers; None to compute in float32.
    bias: [N], or None.
    low_rank: the float factors a [K, rank] and b [rank, N] of what the weight lacks (LoRC, SVDQuant, adapters); their
    product is with x as it came, in float32. The caller inserts the node, registers the initializers and calls
    `ops.add_to_model` for its operator and overload.

    Raises:
        QonnxError: activation_bits is none of these.
    """
    if activation_bits not in (None, 8, 16):
        raise QonnxError(
            f"product '{name}' with activation_bits={activation_bits} has no operator; use 8, 16, or None for float"
        )
    family = codebook if isinstance(weight, CodebookWeight) else lowbit
    dtype = (x.dtype or ir.DataType.FLOAT).numpy()
    arrays = {**weight.arrays(), "bias": np.zeros(1, dtype) if bias is None else bias.astype(dtype)}
    if low_rank is not None:
        arrays |= dict(zip(("low_rank_a", "low_rank_b"), low_rank, strict=True))
    values = [
        ir.Value(name=f"{name}/{key}", const_value=ir.tensor(array, name=f"{name}/{key}"))
        for key, array in arrays.items()
    ]
    operator = family.INT8 if activation_bits else family.EXACT
    attributes = weight.attributes() | ({"activation_bits": activation_bits} if activation_bits else {})
    node = ops.node(operator, [x, *values], node_name=name, **attributes)
    (y,) = node.outputs
    y.type = x.type
    if x.shape is not None:
        y.shape = ir.Shape([*x.shape[:-1], weight.attributes()["N"]])
    return node, values

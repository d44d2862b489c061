"""Solve one array: a weight of any operator as rows, through a solver, back to the arrays of DequantizeLinear.

Scales of 16-bit float models are rounded to the model's type before weights are rounded to codes, so that the file
means what was solved.
"""

from __future__ import annotations

import dataclasses

import ml_dtypes
import numpy as np
import onnx_ir as ir

from qonnx.formats import IntFormat, QuantizedTensor, TableFormat
from qonnx.solvers import SOLVERS, Codes, Layout
from qonnx.solvers.nearest import spread


def solve_array(
    weight: np.ndarray,
    layout: Layout,
    format: IntFormat | TableFormat,
    dtype: ir.DataType,
    solver: str,
    gram: np.ndarray | None,
) -> QuantizedTensor:
    """The codes of `weight` (of layout.shape). dtype: of the model. gram: [groups, K, K] in the order of im2col; one of
    another shape is not used."""
    weight = np.asarray(weight, np.float32)
    if len(layout.shape) != 2 and layout.op == "MatMul":  # a stack of matrices, one scale
        rows = weight.reshape(1, 1, -1)
        codes = rounded_scale(SOLVERS["nearest"](rows, format), rows, dtype)
        stored = codes.codes.reshape(weight.shape).astype(format.numpy_dtype)
        return QuantizedTensor(format, stored, codes.scale[0, 0, 0], codes.zero_point[0, 0, 0], 0)
    layout = fitted(layout, format)
    rows = layout.to_rows(weight)
    if gram is not None and gram.shape != (rows.shape[0], rows.shape[2], rows.shape[2]):
        gram = None
    if gram is not None and layout.taps_first:
        gram = gram[:, layout.columns[:, None], layout.columns]
    codes = SOLVERS[solver](rows, format, gram)
    codes = rounded_scale(codes, rows, dtype, renew=gram is None or solver.startswith("nearest"))
    return to_tensor(codes, layout)


def fitted(layout: Layout, format: IntFormat) -> Layout:
    """The layout whose rows and columns share scales as DequantizeLinear does.

    Per channel, ConvTranspose has one scale for each entry of axis 1, which its groups share: their columns go side by
    side in one row. Blocks lie along the input axis, so the taps of a kernel are the outer part of a column's number.
    """
    if layout.op == "ConvTranspose" and format.granularity == "channel":
        return dataclasses.replace(layout, groups=1)
    return dataclasses.replace(layout, taps_first=format.granularity == "block" and "Conv" in layout.op)


def rounded_scale(codes: Codes, rows: np.ndarray, dtype: ir.DataType, renew: bool = True) -> Codes:
    """`codes` with scales that the model's float type holds; `renew` rounds the rows to them again."""
    if dtype not in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16):
        return codes
    least = float(ml_dtypes.finfo(dtype.numpy()).smallest_subnormal)
    scale = np.maximum(codes.scale.astype(dtype.numpy()).astype(np.float32), least)
    changed = dataclasses.replace(codes, scale=scale)
    if not renew:
        return changed
    columns, format = rows.shape[-1], codes.format
    again = format.encode(rows, spread(scale, columns, format), spread(codes.zero_point, columns, format))
    return dataclasses.replace(changed, codes=again)


def to_tensor(codes: Codes, layout: Layout) -> QuantizedTensor:
    """Solved rows as the arrays that DequantizeLinear stores."""
    format = codes.format
    stored = layout.from_rows(codes.codes).astype(format.numpy_dtype)
    if format.granularity == "tensor":
        return QuantizedTensor(format, stored, codes.scale[0, 0, 0], codes.zero_point[0, 0, 0], 0)
    if format.granularity == "channel":
        scale, zero_point = codes.scale.reshape(-1), codes.zero_point.reshape(-1)
        return QuantizedTensor(format, stored, scale, zero_point, layout.channel_axis)
    blocks = dataclasses.replace(layout, shape=_block_shape(layout, format.block))
    return QuantizedTensor(
        format, stored, blocks.from_rows(codes.scale), blocks.from_rows(codes.zero_point), layout.reduction_axis
    )


def _block_shape(layout: Layout, block: int) -> tuple[int, ...]:
    """The shape of the scales."""
    shape, groups = list(layout.shape), layout.groups if layout.op == "ConvTranspose" else 1
    shape[layout.reduction_axis] = groups * -(-shape[layout.reduction_axis] // groups // block)
    return tuple(shape)

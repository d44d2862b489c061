"""Low-bit matrix products with static activation scales: their bodies in ONNX text, and their nodes.

With activation codes c and weight w = scale · (table[code] − zero_point):

  QuantizedMatMulLowBit       y = x_scale · (c − x_zero_point) · wᵀ + bias
  QLinearMatMulLowBit         the same, then clip(round(y / y_scale) + y_zero_point, y_minimum, y_maximum)
  StaticQuantizeMatMulLowBit  c = clip(round(x / x_scale) + x_zero_point, x_minimum, x_maximum) first, x a float type

Rounding is to even, as in QuantizeLinear. Kernels sum integers exactly; where a row of the weight has one scale and a
whole zero point, y is float32((float32(Σ) · scale) · x_scale) + bias to the last bit on every CPU.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir

from qonnx.custom_ops.bodies import LOW_BIT_WEIGHT, ROUNDED_TABLE
from qonnx.custom_ops.lowbit import LowBitWeight
from qonnx.errors import QonnxError

QUANTIZED, QLINEAR, STATIC = "QuantizedMatMulLowBit", "QLinearMatMulLowBit", "StaticQuantizeMatMulLowBit"
INPUTS = ("x", "x_scale", "x_zero_point", "codes", "scale", "zero_point", "table", "bias")
QLINEAR_INPUTS = (*INPUTS, "y_scale", "y_zero_point")
X_RANGE, Y_RANGE = ("x_minimum", "x_maximum"), ("y_minimum", "y_maximum")

_PRODUCT = f"""
{ROUNDED_TABLE}{LOW_BIT_WEIGHT}
  w_transposed = Transpose <perm = [1, 0]> (w)
  product = MatMul (centred, w_transposed)
  product_scaled = Mul (product, x_step)
  bias_32 = Cast <to = 1> (bias)
  sum = Add (product_scaled, bias_32)
"""

_X = """
  x_step = Cast <to = 1> (x_scale)
  x_zero = Cast <to = 1> (x_zero_point)
  x_32 = Cast <to = 1> (x)
"""

QUANTIZED_BODY = f"""{_X}
  centred = Sub (x_32, x_zero)
{_PRODUCT}
  y = CastLike (sum, bias)
"""

QLINEAR_BODY = f"""{_X}
  centred = Sub (x_32, x_zero)
{_PRODUCT}
  y_step = Cast <to = 1> (y_scale)
  y_zero = Cast <to = 1> (y_zero_point)
  y_low_int = Constant <value_int: int = @y_minimum> ()
  y_high_int = Constant <value_int: int = @y_maximum> ()
  y_low = Cast <to = 1> (y_low_int)
  y_high = Cast <to = 1> (y_high_int)
  y_ratio = Div (sum, y_step)
  y_rounded = Round (y_ratio)
  y_moved = Add (y_rounded, y_zero)
  y_code = Clip (y_moved, y_low, y_high)
  y = CastLike (y_code, y_zero_point)
"""

# A NaN is kept: clipping may turn it into a number.
STATIC_BODY = f"""{_X}
  x_low_int = Constant <value_int: int = @x_minimum> ()
  x_high_int = Constant <value_int: int = @x_maximum> ()
  x_low = Cast <to = 1> (x_low_int)
  x_high = Cast <to = 1> (x_high_int)
  x_ratio = Div (x_32, x_step)
  x_rounded = Round (x_ratio)
  x_moved = Add (x_rounded, x_zero)
  x_clipped = Clip (x_moved, x_low, x_high)
  x_code = Sub (x_clipped, x_zero)
  is_nan = IsNaN (x_32)
  centred = Where (is_nan, x_32, x_code)
{_PRODUCT}
  y = CastLike (sum, x)
"""


@dataclasses.dataclass(frozen=True)
class StaticGrid:
    """A per-tensor quantizer: number = scale · (code − zero_point), code from minimum to maximum.

    dtype: the type that zero points (and codes, where they are tensors) have: UINT8, INT8, UINT4 or INT4.
    """

    scale: float
    zero_point: int
    minimum: int = 0
    maximum: int = 255
    dtype: ir.DataType = ir.DataType.UINT8

    def __post_init__(self):
        signed = self.dtype in (ir.DataType.INT8, ir.DataType.INT4)
        low, high = (-128, 127) if signed else (0, 255)
        if not (low <= self.minimum < self.maximum <= high and low <= self.zero_point <= high and self.scale > 0):
            raise QonnxError(
                f"scale {self.scale}, zero point {self.zero_point} and codes {self.minimum} to {self.maximum} are no "
                f"grid of {self.dtype.name} codes; use a positive scale and numbers from {low} to {high}"
            )

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """The inputs `name`_scale and `name`_zero_point, scalars."""
        zero_point = np.array(self.zero_point, self.dtype.numpy())
        return {f"{name}_scale": np.array(self.scale, np.float32), f"{name}_zero_point": zero_point}

    def quantize(self, x: np.ndarray) -> np.ndarray:
        """Codes as float32 integers, in the float32 steps of QuantizeLinear."""
        ratio = np.rint(x.astype(np.float32) / np.float32(self.scale)) + np.float32(self.zero_point)
        return np.clip(ratio, self.minimum, self.maximum)


def inputs_of(
    weight: LowBitWeight, x: StaticGrid, bias: np.ndarray | None, y: StaticGrid | None = None
) -> dict[str, np.ndarray]:
    """Every input behind the first of the three operators, in order; bias [N] of the type that it is to have."""
    arrays = {**x.arrays("x"), **weight.arrays(), "bias": np.zeros(1, np.float32) if bias is None else bias}
    return arrays if y is None else {**arrays, **y.arrays("y")}


def attributes_of(weight: LowBitWeight, x: StaticGrid | None = None, y: StaticGrid | None = None) -> dict[str, int]:
    """The attributes: those of the weight, the range of x where it is quantized inside, that of y where it is codes."""
    attributes = weight.attributes()
    for name, grid in (("x", x), ("y", y)):
        if grid is not None:
            attributes |= {f"{name}_minimum": grid.minimum, f"{name}_maximum": grid.maximum}
    return attributes

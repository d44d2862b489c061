"""Logarithmic quantizers of given numbers: LogQuantize (codes) and LogQuantizeDequantize (their values).

code = clip(round(−log2(x / scale) · codes_per_octave), 0, levels − 1), levels the length of the table; numbers that are
not positive get the last code, whose table entry is usually 0: it keeps zeros exact. The value of a code is
scale · table[code]; `weight_table` of log_attention makes tables of powers, base 2^(1 / codes_per_octave): 1 for log2
and 2 for log√2 (RepQ-ViT, ICCV 2023), 37 / q for AdaLog (ECCV 2024). A table need not be powers: its entries may be
rounded or fitted. Numbers that are not probabilities, GELU's outputs say, are shifted by a standard Add before.

A NaN gets the last code and stays NaN as a value. Implementations may differ by one code where x lies within a few
float32 roundings of a border; borders are scale · 2^(−(code + ½) / codes_per_octave).

LogAttention quantizes exp(scores − largest) and divides after the product with the values, which is more exact than
quantizing probabilities: these operators are for graphs where the probabilities themselves are wanted.
"""

from __future__ import annotations

import numpy as np

QUANTIZE, QUANTIZE_DEQUANTIZE = "LogQuantize", "LogQuantizeDequantize"
INPUTS, ATTRIBUTES = ("x", "scale", "table"), ("codes_per_octave",)

_CODE = """
  zero = Constant <value_float = 0.0> ()
  one = Constant <value_float = 1.0> ()
  log2_e = Constant <value_float = -1.44269504> ()
  per_octave = Constant <value_float: float = @codes_per_octave> ()
  factor = Mul (per_octave, log2_e)
  x_32 = Cast <to = 1> (x)
  scale_32 = Cast <to = 1> (scale)
  levels = Size (table)
  levels_32 = Cast <to = 1> (levels)
  last = Sub (levels_32, one)
  positive = Greater (x_32, zero)
  ratio = Div (x_32, scale_32)
  safe = Where (positive, ratio, one)
  logarithm = Log (safe)
  position = Mul (logarithm, factor)
  inside = Clip (position, zero, last)
  rounded = Round (inside)
  code = Where (positive, rounded, last)
"""

QUANTIZE_BODY = f"{_CODE}\n  codes = Cast <to = 2> (code)\n"
QUANTIZE_DEQUANTIZE_BODY = f"""{_CODE}
  index = Cast <to = 7> (code)
  entry = Gather <axis = 0> (table, index)
  value = Mul (entry, scale_32)
  is_nan = IsNaN (x_32)
  y_32 = Where (is_nan, x_32, value)
  y = CastLike (y_32, x)
"""


def codes_of(x: np.ndarray, scale: float, levels: int, codes_per_octave: float) -> np.ndarray:
    """The codes uint8, in float64 steps."""
    x = x.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        position = -np.log2(x / np.float64(np.float32(scale))) * codes_per_octave
    return np.where(x > 0, np.rint(np.clip(position, 0, levels - 1)), levels - 1).astype(np.uint8)

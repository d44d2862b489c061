"""Logarithmic attention: its table of weights, its body in ONNX text, and the same in numpy.

A row of scores s becomes codes k = min(round((max s − s) · codes_per_octave · log2 e), levels − 1): the distance of
exp(s) to the row's largest, on a logarithmic scale of base 2^(1/codes_per_octave). The last code stands for zero, so
masked places cost nothing. The result is Σ table[k] · value / Σ table[k]: quantizing before the division keeps the
largest probability exact and lets the rounding errors of a row cancel (log2 quantizers: RepQ-ViT, ICCV 2023; finer
bases: AdaLog, ECCV 2024; both quantize after the division).
"""

from __future__ import annotations

import numpy as np

from qonnx.errors import QonnxError

OPERATOR = "LogAttention"
INPUTS = ("scores", "value", "value_scale", "table")
ATTRIBUTES = ("codes_per_octave",)
_LOG2_E = np.float32(1.44269504)

# Every row: the spoiled (NaN, +∞) are NaN at the end, the wholly masked 0.
BODY = """
  last_axis = Constant <value_ints = [-1]> ()
  zero = Constant <value_float = 0.0> ()
  one = Constant <value_float = 1.0> ()
  log2_e = Constant <value_float = 1.44269504> ()
  per_octave = Constant <value_float: float = @codes_per_octave> ()
  factor = Mul (per_octave, log2_e)
  scores_32 = Cast <to = 1> (scores)
  is_nan = IsNaN (scores_32)
  is_infinite = IsInf <detect_negative = 0> (scores_32)
  is_bad = Or (is_nan, is_infinite)
  bad = Cast <to = 1> (is_bad)
  bad_row = ReduceMax <keepdims = 1> (bad, last_axis)
  spoiled = Greater (bad_row, zero)
  clean = Where (is_bad, zero, scores_32)
  largest = ReduceMax <keepdims = 1> (clean, last_axis)
  masked = IsInf <detect_positive = 0> (largest)
  top = Where (masked, zero, largest)
  distance = Sub (top, clean)
  position = Mul (distance, factor)
  levels = Size (table)
  levels_32 = Cast <to = 1> (levels)
  last = Sub (levels_32, one)
  inside = Min (position, last)
  rounded = Round (inside)
  code = Cast <to = 7> (rounded)
  weight = Gather <axis = 0> (table, code)
  total = ReduceSum <keepdims = 1> (weight, last_axis)
  counts = Greater (total, zero)
  divisor = Where (counts, total, one)
  value_32 = Cast <to = 1> (value)
  product = MatMul (weight, value_32)
  mean = Div (product, divisor)
  scaled = Mul (mean, value_scale)
  minus_one = Neg (one)
  nan = Sqrt (minus_one)
  whole = Where (spoiled, nan, scaled)
  y = CastLike (whole, scores)
"""


def weight_table(levels: int, codes_per_octave: float) -> np.ndarray:
    """float32 [levels]: 2^(−k / codes_per_octave), the last 0. Halving is exact where codes_per_octave is whole.

    Raises:
        QonnxError: levels is not from 2 to 256, or codes_per_octave not positive.
    """
    if not 2 <= levels <= 256:
        raise QonnxError(f"{levels} levels do not fit in a code of at most 8 bits; use 2 to 256")
    if not codes_per_octave > 0:
        raise QonnxError(
            f"{codes_per_octave} codes per octave is not a positive number; use 1 for base 2, 2 for base √2"
        )
    code = np.arange(levels, dtype=np.float64)
    octaves = np.floor(code / codes_per_octave)
    fraction = np.exp2(octaves - code / codes_per_octave).astype(np.float32)
    table = np.ldexp(fraction, -octaves.astype(np.int32)).astype(np.float32)
    table[-1] = 0
    return table


def codes_of(scores: np.ndarray, levels: int, codes_per_octave: float) -> np.ndarray:
    """The codes int64 [..., N] of scores [..., N] without NaN or +∞, in float32 steps as the operator takes them."""
    scores = scores.astype(np.float32)
    top = scores.max(-1, keepdims=True)
    top[np.isneginf(top)] = 0
    with np.errstate(over="ignore"):
        position = (top - scores) * (np.float32(codes_per_octave) * _LOG2_E)
    return np.rint(np.minimum(position, np.float32(levels - 1))).astype(np.int64)

"""LookupQuantize: codes of numbers on a grid of chosen levels, from a uniform grid of bytes and a table of 256 entries.

    code = table[clip(round(x / scale) + zero_point, 0, 255)]

The codes mean scale · (code − zero_point), as those of QuantizeLinear do, so every integer product reads them; with a
table of 16 different entries they hold 4 bits, spread where the numbers lie (Lloyd 1957; for activations: the
non-uniform levels of LLM-FP4, EMNLP 2023, and of twin or companding quantizers). Rounding is to even. Codes of NaN are
those of some number, as with QuantizeLinear.
"""

from __future__ import annotations

import numpy as np

OPERATOR = "LookupQuantize"
INPUTS = ("x", "scale", "zero_point", "table")

BODY = """
  x_32 = Cast <to = 1> (x)
  scale_32 = Cast <to = 1> (scale)
  position = QuantizeLinear (x_32, scale_32, zero_point)
  index = Cast <to = 6> (position)
  codes = Gather <axis = 0> (table, index)
"""


def codes_of(x: np.ndarray, scale: float, zero_point: int, table: np.ndarray) -> np.ndarray:
    """The codes, uint8, in the float32 steps of QuantizeLinear."""
    position = np.rint(x.astype(np.float32) / np.float32(scale)) + np.float32(zero_point)
    return table[np.clip(position, 0, 255).astype(np.intp)]

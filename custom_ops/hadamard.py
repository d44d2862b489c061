"""Hadamard matrices of order k · 2^m, the operators that multiply rows by them, and rows rounded to int8.

H of order n = k · outer · inner is base ⊗ S, base a Hadamard matrix of order k (1, 12, 20 or 28, by Paley's
constructions) and S Sylvester's of order outer · inner, S[i, j] = −1 where i & j has an odd number of bits, else 1.
H · Hᵀ = n · 1, so H / √n keeps lengths and spreads outliers over all channels (QuIP#, Tseng et al., 2024; QuaRot,
Ashkboos et al., 2024). With random signs before it (`signs`) the transform is a random rotation.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from qonnx.errors import QonnxError

HADAMARD, ROTATE_AND_QUANTIZE, QUANTIZE_ROWS = "Hadamard", "HadamardDynamicQuantize", "DynamicQuantizeRows"
ROTATION, BLOCKS = ("outer", "inner", "factor"), ("block_size",)

# S of order `size`, float32, from the parity of i & j (below 2^32).
_SYLVESTER = """
  index_{name} = Range (zero, {name}_, one)
  down_{name} = Unsqueeze (index_{name}, second)
  both_{name} = BitwiseAnd (down_{name}, index_{name})
  bits_{name} = Cast <to = 13> (both_{name})
  half_{name} = BitShift <direction = "RIGHT"> (bits_{name}, sixteen)
  fold16_{name} = BitwiseXor (bits_{name}, half_{name})
  quarter_{name} = BitShift <direction = "RIGHT"> (fold16_{name}, eight)
  fold8_{name} = BitwiseXor (fold16_{name}, quarter_{name})
  eighth_{name} = BitShift <direction = "RIGHT"> (fold8_{name}, four)
  fold4_{name} = BitwiseXor (fold8_{name}, eighth_{name})
  pair_{name} = BitShift <direction = "RIGHT"> (fold4_{name}, two)
  fold2_{name} = BitwiseXor (fold4_{name}, pair_{name})
  single_{name} = BitShift <direction = "RIGHT"> (fold2_{name}, bit)
  fold_{name} = BitwiseXor (fold2_{name}, single_{name})
  odd_{name} = BitwiseAnd (fold_{name}, bit)
  odd_32_{name} = Cast <to = 1> (odd_{name})
  twice_{name} = Mul (odd_32_{name}, two_32)
  sylvester_{name} = Sub (one_32, twice_{name})
"""

# x, base -> rotated, float32 [..., C]
_ROTATE = f"""
  zero = Constant <value_int = 0> ()
  one = Constant <value_int = 1> ()
  one_32 = Constant <value_float = 1.0> ()
  two_32 = Constant <value_float = 2.0> ()
  outer_ = Constant <value_int: int = @outer> ()
  inner_ = Constant <value_int: int = @inner> ()
  factor_ = Constant <value_float: float = @factor> ()
  first = Constant <value_ints = [0]> ()
  second = Constant <value_ints = [1]> ()
  bit_count = Constant <value_int = 1> ()
  bit = Cast <to = 13> (bit_count)
  two = Add (bit, bit)
  four = Add (two, two)
  eight = Add (four, four)
  sixteen = Add (eight, eight)
{_SYLVESTER.format(name="outer")}
{_SYLVESTER.format(name="inner")}
  x_32 = Cast <to = 1> (x)
  x_shape = Shape (x)
  x_rows = Shape <end = -1> (x)
  columns = Shape <start = -1> (x)
  k = Shape <start = 0, end = 1> (base)
  outer_1 = Unsqueeze (outer_, first)
  inner_1 = Unsqueeze (inner_, first)
  power = Mul (outer_1, inner_1)
  n = Mul (k, power)
  runs = Div (columns, n)
  cut_shape = Concat <axis = 0> (x_rows, runs, k, outer_1, inner_1)
  cut = Reshape <allowzero = 1> (x_32, cut_shape)
  inside = MatMul (cut, sylvester_inner)
  between = MatMul (sylvester_outer, inside)
  long_shape = Concat <axis = 0> (x_rows, runs, k, power)
  long = Reshape <allowzero = 1> (between, long_shape)
  mixed = MatMul (base, long)
  unscaled = Reshape <allowzero = 1> (mixed, x_shape)
  rotated = Mul (unscaled, factor_)
"""

# rotated, float32 [..., C] -> codes int8 [..., C], scale float32 [..., ceil(C / block_size)]
_QUANTIZE = """
  nought = Constant <value_int = 0> ()
  unit = Constant <value_int = 1> ()
  nought_32 = Constant <value_float = 0.0> ()
  unit_32 = Constant <value_float = 1.0> ()
  steps = Constant <value_float = 127.0> ()
  tiny = Constant <value_float = 7.888609e-31> ()
  ahead = Constant <value_ints = [0]> ()
  last = Constant <value_ints = [-1]> ()
  block = Constant <value_int: int = @block_size> ()
  row_shape = Shape (rotated)
  rows = Shape <end = -1> (rotated)
  width_1 = Shape <start = -1> (rotated)
  width = Squeeze (width_1, ahead)
  width_up = Add (width, block)
  width_last = Sub (width_up, unit)
  blocks = Div (width_last, block)
  padded = Mul (blocks, block)
  padding = Sub (padded, width)
  padding_1 = Unsqueeze (padding, ahead)
  pads = Concat <axis = 0> (ahead, padding_1)
  wide = Pad (rotated, pads, nought_32, last)
  blocks_1 = Unsqueeze (blocks, ahead)
  block_1 = Unsqueeze (block, ahead)
  block_shape = Concat <axis = 0> (rows, blocks_1, block_1)
  by_block = Reshape <allowzero = 1> (wide, block_shape)
  is_nan = IsNaN (by_block)
  is_infinite = IsInf (by_block)
  is_bad = Or (is_nan, is_infinite)
  bad = Cast <to = 1> (is_bad)
  bad_block = ReduceMax <keepdims = 1> (bad, last)
  spoiled = Greater (bad_block, nought_32)
  clean = Where (spoiled, nought_32, by_block)
  size = Abs (clean)
  found = ReduceMax <keepdims = 1> (size, last)
  largest = Max (found, tiny)
  inverse = Div (steps, largest)
  ratio = Mul (clean, inverse)
  rounded = Round (ratio)
  padded_1 = Unsqueeze (padded, ahead)
  flat_shape = Concat <axis = 0> (rows, padded_1)
  flat = Reshape <allowzero = 1> (rounded, flat_shape)
  whole = Slice (flat, ahead, width_1, last)
  codes = Cast <to = 3> (whole)
  step = Div (largest, steps)
  minus_one = Neg (unit_32)
  nan = Sqrt (minus_one)
  step_or_nan = Where (spoiled, nan, step)
  scale = Squeeze (step_or_nan, last)
"""

HADAMARD_BODY = f"{_ROTATE}\n  y = CastLike (rotated, x)\n"
ROTATE_AND_QUANTIZE_BODY = f"{_ROTATE}{_QUANTIZE}"
QUANTIZE_ROWS_BODY = f"  rotated = Cast <to = 1> (x)\n{_QUANTIZE}"


@dataclasses.dataclass(frozen=True)
class Rotation:
    """H = base ⊗ S of order n, and the attributes of an operator that multiplies rows by H / √n."""

    base: np.ndarray  # float32 [k, k]
    outer: int
    inner: int

    @property
    def order(self) -> int:
        return len(self.base) * self.outer * self.inner

    @property
    def factor(self) -> float:
        return 1 / math.sqrt(self.order)

    def attributes(self) -> dict[str, int | float]:
        return {"outer": self.outer, "inner": self.inner, "factor": self.factor}

    def matrix(self) -> np.ndarray:
        """H, float64 [n, n]: y = x · Hᵀ / √n."""
        index = np.arange(self.outer * self.inner)
        parity = np.bitwise_and.outer(index, index)
        for shift in (16, 8, 4, 2, 1):
            parity ^= parity >> shift
        return np.kron(self.base.astype(np.float64), 1.0 - 2.0 * (parity & 1))


def rotation_of(order: int) -> Rotation:
    """The rotation of that order.

    Raises:
        QonnxError: order is not 1, 12, 20 or 28 times a power of two.
    """
    for k in (1, 12, 20, 28):
        power, rest = divmod(order, k)
        if order > 0 and rest == 0 and power & (power - 1) == 0:
            outer = 1 << (power.bit_length() - 1) // 2
            return Rotation(hadamard(k).astype(np.float32), outer, power // outer)
    raise QonnxError(
        f"no Hadamard matrix of order {order} is known here: use 1, 12, 20 or 28 times a power of two, "
        "or rotate blocks of such an order"
    )


def hadamard(k: int) -> np.ndarray:
    """A Hadamard matrix of order k: 1, or Paley's first construction on 11 and 19, or his second on 13. int64 [k, k].

    Raises:
        QonnxError: another k.
    """
    if k == 1:
        return np.ones((1, 1), np.int64)
    if k in (12, 20):
        q = k - 1
        skew = np.zeros((k, k), np.int64)
        skew[0, 1:], skew[1:, 0] = 1, -1
        skew[1:, 1:] = _residues(q)
        return skew + np.eye(k, dtype=np.int64)
    if k == 28:
        conference = np.zeros((14, 14), np.int64)
        conference[0, 1:] = conference[1:, 0] = 1
        conference[1:, 1:] = _residues(13)
        return np.kron(conference, [[1, 1], [1, -1]]) + np.kron(np.eye(14, dtype=np.int64), [[1, -1], [-1, -1]])
    raise QonnxError(f"no Hadamard matrix of order {k} in the table; use 1, 12, 20 or 28")


def _residues(q: int) -> np.ndarray:
    """Jacobsthal's matrix of a prime q: 1 where i − j is a square modulo q, −1 where it is none, 0 on the diagonal."""
    squares = {i * i % q for i in range(1, q)}
    character = np.array([0] + [1 if i in squares else -1 for i in range(1, q)])
    index = np.arange(q)
    return character[(index[:, None] - index) % q]


def signs(order: int, seed: int) -> np.ndarray:
    """±1, float32 [order]: the diagonal before a Hadamard matrix that makes it a random rotation, by seed."""
    return np.random.default_rng(seed).choice(np.array([-1, 1], np.float32), order)

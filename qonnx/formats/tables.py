"""Table formats: grids of any levels, `value = scale · table[code]`; NF, minifloat, MX, power-of-two, ternary, binary.

A TableFormat has the interface of an IntFormat, so every solver works on it; the zero point is always 0. Scales are
float32, or rounded as the format demands: to powers of two (E8M0 of the OCP microscaling formats, by their rule: the
exponent of the block's largest number minus that of the largest element) or to 3 fraction bits (E4M3 of NVFP4, whose
tensor-wide factor is a power of two here, so that a scale is a number of its own).

Tables: NF-k holds quantiles of a normal distribution with an exact zero (Dettmers et al. 2023, QLoRA; k other than 4 as
in LQ-LoRA, Guo et al. 2023); minifloats EeMm all values of 1 sign, e exponent and m fraction bits, subnormals included;
"sqrt2" ±2^(−k/2) (ASQ); "power" sign·|k/n|^p (NUPES); half-integer grids have no zero ("mid-rise").
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import onnx_ir as ir
from scipy.stats import norm

from qonnx.formats.integers import GRANULARITIES, storable


@dataclasses.dataclass(frozen=True)
class TableFormat:
    """A grid of the levels `table`, by code.

    Attributes:
        title: short name. table: what each code means, before the scale.
        granularity, block: who shares a scale, as in IntFormat. scale_fraction: as in IntFormat, and 0
        for powers of two.
    """

    title: str
    table: tuple[float, ...]
    granularity: str = "block"
    block: int = 32
    scale_fraction: int | None = None

    signed = False
    symmetric = True
    narrow = False
    minimum = 0

    def __post_init__(self):
        if not 2 <= len(self.table) <= 256 or not np.isfinite(self.table).all() or not any(self.table):
            raise ValueError(f"{self.title}: a table has 2 to 256 finite levels that are not all 0")
        if self.granularity not in GRANULARITIES or (self.granularity == "block") != (self.block > 0):
            raise ValueError(f"granularity {self.granularity!r} with block {self.block}: want one of {GRANULARITIES}")

    @property
    def levels(self) -> int:
        return len(self.table)

    @property
    def maximum(self) -> int:
        return self.levels - 1

    @property
    def bits(self) -> int:
        return self.maximum.bit_length()

    @property
    def middle(self) -> int:
        """The zero point, which is not stored."""
        return 0

    @property
    def dtype(self) -> ir.DataType:
        """The type that holds a code in memory; files pack them."""
        return ir.DataType.UINT8

    @property
    def numpy_dtype(self) -> np.dtype:
        return np.dtype(np.uint8)

    @property
    def name(self) -> str:
        where = {"tensor": "", "channel": ".channel", "block": f".block{self.block}"}[self.granularity]
        return f"{self.title}{where}"

    @property
    def largest(self) -> float:
        return float(np.abs(self.table).max())

    def scale_and_zero_point(self, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scale (float32) and zero point (0) for numbers in [low, high]."""
        size = np.maximum(np.abs(np.asarray(low, np.float64)), np.abs(np.asarray(high, np.float64)))
        size = np.where(size < np.finfo(np.float32).tiny * 256, self.largest, size)
        if self.scale_fraction == 0:
            scale = np.exp2(np.floor(np.log2(size)) - np.floor(np.log2(self.largest)))
        else:
            scale = self.storable(size / self.largest)
        return scale.astype(np.float32), np.zeros(size.shape, np.int64)

    def storable(self, scale: np.ndarray) -> np.ndarray:
        """Scales (float32) as the file holds them."""
        return storable(scale, self.scale_fraction)

    def encode(self, x: np.ndarray, scale: np.ndarray, zero_point: np.ndarray) -> np.ndarray:
        """Codes (int32) of the nearest levels; of two equally near the one with the even code, as IEEE 754 rounds."""
        order, borders = _borders(self.table)
        return order[np.searchsorted(borders, x / scale, side="right")]

    def decode(self, codes: np.ndarray, scale: np.ndarray, zero_point: np.ndarray) -> np.ndarray:
        """Values (float32) that codes mean."""
        return (np.asarray(self.table, np.float32)[codes] * scale).astype(np.float32)


@functools.lru_cache(maxsize=64)
def _borders(table: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Codes in the order of their levels, each level once, and the least number that belongs to each but the first."""
    levels, first = np.unique(np.asarray(table, np.float64), return_index=True)
    middles = ((levels[1:] + levels[:-1]) / 2).astype(np.float32)
    to_upper = first[1:] % 2 == 0
    return first.astype(np.int32), np.where(to_upper, middles, np.nextafter(middles, np.float32(np.inf)))


def normal_float(bits: int) -> tuple[float, ...]:
    """NF-k: 2^(k−1) − 1 quantiles below zero, zero, 2^(k−1) above, divided by the largest."""
    half = 2 ** (bits - 1)
    edge = 1 - 0.5 * (1 / (2 * 2**bits) + 1 / (2 * (2**bits - 1)))
    above = norm.ppf(np.linspace(edge, 0.5, half + 1)[:-1])
    below = -norm.ppf(np.linspace(edge, 0.5, half)[:-1])
    levels = np.sort(np.concatenate([below, [0.0], above]))
    return tuple((levels / np.abs(levels).max()).tolist())


def minifloat(exponent: int, fraction: int, reserved: int = 0) -> tuple[float, ...]:
    """Values of codes 0, 1, … of sign, exponent and fraction bits, bias 2^(e−1) − 1; the `reserved` largest codes of
    either sign (infinity, NaN) repeat the largest number."""
    code = np.arange(2 ** (exponent + fraction))
    field, rest, bias = code >> fraction, code & (2**fraction - 1), 2 ** (exponent - 1) - 1
    value = np.where(
        field == 0, rest * 2.0 ** (1 - bias - fraction), (1 + rest / 2**fraction) * 2.0 ** (np.maximum(field, 1) - bias)
    )
    if reserved:
        value[-reserved:] = value[-reserved - 1]
    return tuple(np.concatenate([value, -value]).tolist())


def _signed(levels: np.ndarray) -> tuple[float, ...]:
    """0 and ± the given levels."""
    return tuple(np.concatenate([-levels[::-1], [0.0], levels]).tolist())


def half_integers(bits: int) -> tuple[float, ...]:
    """−(2^b − 1)/2, …, (2^b − 1)/2: no zero."""
    return tuple((np.arange(2**bits) - (2**bits - 1) / 2).tolist())


# NF4 as published (QLoRA, appendix E): normal_float(4) in float32 arithmetic, 2e-7 from it in one place.
_NF4 = (-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635)
_NF4 += (-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725)
_NF4 += (0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0)
_FP4, _E2M3, _E3M2 = minifloat(2, 1), minifloat(2, 3), minifloat(3, 2)
_E4M3, _E5M2 = minifloat(4, 3, reserved=1), minifloat(5, 2, reserved=4)

TABLES: dict[str, TableFormat] = {
    one.title: one
    for one in (
        TableFormat("nf2", normal_float(2), block=64),
        TableFormat("nf3", normal_float(3), block=64),
        TableFormat("nf4", _NF4, block=64),
        TableFormat("fp4", _FP4),
        TableFormat("fp6-e2m3", _E2M3),
        TableFormat("fp6-e3m2", _E3M2),
        TableFormat("fp8-e4m3", _E4M3),
        TableFormat("fp8-e5m2", _E5M2),
        TableFormat("mxfp4", _FP4, scale_fraction=0),
        TableFormat("mxfp6-e2m3", _E2M3, scale_fraction=0),
        TableFormat("mxfp6-e3m2", _E3M2, scale_fraction=0),
        TableFormat("mxfp8-e4m3", _E4M3, scale_fraction=0),
        TableFormat("mxfp8-e5m2", _E5M2, scale_fraction=0),
        TableFormat("nvfp4", _FP4, block=16, scale_fraction=3),
        TableFormat("pot4", _signed(np.exp2(-np.arange(6, -1, -1.0)))),
        TableFormat("sqrt2-4", _signed(np.exp2(-np.arange(6, -1, -1.0) / 2))),
        TableFormat("power4", _signed((np.arange(1, 8) / 7) ** 1.5)),
        TableFormat("half4", half_integers(4)),
        TableFormat("half3", half_integers(3)),
        TableFormat("half2", half_integers(2), block=16),
        TableFormat("ternary", (-1.0, 0.0, 1.0), block=16),
        TableFormat("binary", (-1.0, 1.0), block=16),
    )
}

"""Integer formats: uniform grids `value = scale · (code − zero_point)`.

A Format says which codes exist, who shares a scale, and which arrays are stored. Codes run from `minimum` to `maximum`
(a narrower range than the stored type is allowed: 7-bit weights, 6 bits in uint8). Rounding is half to even, as in ONNX
QuantizeLinear. Types: ONNX int2/uint2 (opset 25), int4/uint4 and int16/uint16 (opset 21), int8/uint8, int32.
"""

from __future__ import annotations

import dataclasses

import ml_dtypes
import numpy as np
import onnx_ir as ir

GRANULARITIES = ("tensor", "channel", "block")
HALF = 10  # fraction bits of float16
SCALE_BITS = {None: 32, HALF: 16, 5: 8, 3: 8, 0: 8}  # stored for a scale, by its fraction bits
FRACTIONS = {32: None, 16: HALF, 8: 5}  # the other way round; 3 is NVFP4's, 0 are powers of two
_STORAGE = {
    (2, True): (ir.DataType.INT2, ml_dtypes.int2),
    (2, False): (ir.DataType.UINT2, ml_dtypes.uint2),
    (4, True): (ir.DataType.INT4, ml_dtypes.int4),
    (4, False): (ir.DataType.UINT4, ml_dtypes.uint4),
    (8, True): (ir.DataType.INT8, np.int8),
    (8, False): (ir.DataType.UINT8, np.uint8),
    (16, True): (ir.DataType.INT16, np.int16),
    (16, False): (ir.DataType.UINT16, np.uint16),
    (32, True): (ir.DataType.INT32, np.int32),
}


def storable(scale: np.ndarray, fraction: int | None) -> np.ndarray:
    """Positive scales (float32) as a file holds them: unchanged, rounded to `fraction` bits behind the first, or for 10
    the nearest positive finite number of float16."""
    if fraction is None:
        return scale.astype(np.float32)
    if fraction == HALF:
        limits = np.finfo(np.float16)
        return np.clip(scale, limits.smallest_subnormal, limits.max).astype(np.float16).astype(np.float32)
    step = np.exp2(np.floor(np.log2(scale)) - fraction)
    return (np.rint(scale / step) * step).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class IntFormat:
    """A uniform integer grid.

    Attributes:
        bits: bits of the stored type, 2, 4, 8, 16 or 32.
        signed: two's complement if true.
        symmetric: the zero point is fixed (0 if signed, else the middle code).
        granularity: "tensor", "channel" (one scale for each output channel) or "block".
        block: elements that share a scale along the reduction axis; 0 unless granularity is "block".
        levels: number of codes in use; 0 means all 2**bits.
        narrow: leave out the most negative code, so that the grid is symmetric about zero: ±(2**(bits-1) - 1).
        scale_fraction: fraction bits of a scale: None for float32, 10 for float16, 5 for 8 bits
        (indices of at most 256 scales in 8 octaves). Only our operators read such scales beside float32 activations.
    """

    bits: int
    signed: bool
    symmetric: bool
    granularity: str = "tensor"
    block: int = 0
    levels: int = 0
    narrow: bool = False
    scale_fraction: int | None = None

    def __post_init__(self):
        if (self.bits, self.signed) not in _STORAGE:
            raise ValueError(f"no ONNX type has {self.bits} {'signed' if self.signed else 'unsigned'} bits")
        if self.granularity not in GRANULARITIES or (self.granularity == "block") != (self.block > 0):
            raise ValueError(f"granularity {self.granularity!r} with block {self.block}: want one of {GRANULARITIES}")

    @property
    def minimum(self) -> int:
        count = self.levels or 2**self.bits
        return (-(count // 2) + (1 if self.narrow else 0)) if self.signed else 0

    @property
    def maximum(self) -> int:
        count = self.levels or 2**self.bits
        return (count - count // 2 - 1) if self.signed else count - 1

    @property
    def middle(self) -> int:
        """Zero point of a symmetric grid."""
        return 0 if self.signed else (self.maximum + 1) // 2

    @property
    def dtype(self) -> ir.DataType:
        return _STORAGE[self.bits, self.signed][0]

    @property
    def numpy_dtype(self) -> np.dtype:
        return np.dtype(_STORAGE[self.bits, self.signed][1])

    @property
    def name(self) -> str:
        where = {"tensor": "", "channel": ".channel", "block": f".block{self.block}"}[self.granularity]
        used = f"/{self.levels}" if self.levels else ""
        scales = "" if self.scale_fraction is None else f".scale{SCALE_BITS[self.scale_fraction]}"
        return f"{'s' if self.signed else 'u'}{self.bits}{used}{where}{scales}"

    def scale_and_zero_point(self, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scale (float32) and zero point (int64) for ranges [low, high] of any shape; the range always includes 0.

        Asymmetric: s = (hi − lo)/(levels − 1), z = minimum + round(−lo/s). Symmetric: s = max|x| / maximum.
        """
        low = np.minimum(np.asarray(low, np.float64), 0.0)
        high = np.maximum(np.asarray(high, np.float64), 0.0)
        if self.symmetric:
            scale = np.maximum(-low, high) / (self.maximum - self.middle)
            zero_point = np.full(scale.shape, self.middle, np.int64)
        else:
            scale = (high - low) / (self.maximum - self.minimum)
            scale = np.maximum(scale, np.finfo(np.float32).tiny * 256)
            if self.scale_fraction is not None:
                scale = self.storable(scale).astype(np.float64)
            zero_point = np.clip(np.rint(self.minimum - low / scale), self.minimum, self.maximum).astype(np.int64)
        scale = np.where(scale < np.finfo(np.float32).tiny * 256, 1.0, scale).astype(np.float32)
        return self.storable(scale), zero_point

    def storable(self, scale: np.ndarray) -> np.ndarray:
        """Scales (float32) as the file holds them."""
        return storable(scale, self.scale_fraction)

    def encode(self, x: np.ndarray, scale: np.ndarray, zero_point: np.ndarray) -> np.ndarray:
        """Codes (int32) of `x`; scale and zero point broadcast against it."""
        codes = np.rint(x / scale)
        if self.bits == 32:  # float32 would round the largest code up, out of the type
            codes = codes.astype(np.float64)
        codes += np.asarray(zero_point, codes.dtype)
        return np.clip(codes, self.minimum, self.maximum, out=codes).astype(np.int32)

    def decode(self, codes: np.ndarray, scale: np.ndarray, zero_point: np.ndarray) -> np.ndarray:
        """Values (float32) that codes mean."""
        if self.bits == 32:
            return ((codes.astype(np.int32) - zero_point) * scale).astype(np.float32)
        # Differences of codes are exact in float32, so that the product is rounded once, as if it were made in float64.
        levels = codes.astype(np.float32) - np.asarray(zero_point, np.float32)
        return np.multiply(levels, np.asarray(scale, np.float32), dtype=np.float32)

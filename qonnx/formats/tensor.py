"""A QuantizedTensor: a Format and its stored arrays, in the layout of ONNX DequantizeLinear."""

from __future__ import annotations

import dataclasses

import numpy as np

from qonnx.formats.integers import SCALE_BITS, IntFormat


@dataclasses.dataclass(frozen=True)
class QuantizedTensor:
    """Codes, scale and zero point of a weight.

    codes: int32 array of the weight's shape. axis: the channel axis (granularity "channel") or the blocked axis
    ("block"). scale, zero_point: scalar, [C], or the weight's shape with ceil(K/block) along `axis`.
    """

    format: IntFormat
    codes: np.ndarray
    scale: np.ndarray
    zero_point: np.ndarray
    axis: int

    def _spread(self, parameter: np.ndarray) -> np.ndarray:
        """`parameter` broadcast to the shape of `codes`."""
        if self.format.granularity == "tensor":
            return np.asarray(parameter).reshape(())
        if self.format.granularity == "channel":
            shape = [1] * self.codes.ndim
            shape[self.axis] = -1
            return parameter.reshape(shape)
        repeated = np.repeat(parameter, self.format.block, axis=self.axis)
        return np.take(repeated, np.arange(self.codes.shape[self.axis]), axis=self.axis)

    def decode(self) -> np.ndarray:
        """The weight that the codes mean, float32, in the weight's shape."""
        return self.format.decode(self.codes, self._spread(self.scale), self._spread(self.zero_point))

    @property
    def nbytes(self) -> int:
        """Bytes stored: packed codes, scales of 4 bytes or fewer, packed zero points where they are not implied."""
        arrays = [self.codes]
        if not self.format.symmetric or self.format.middle != 0:
            arrays.append(self.zero_point)
        scales = self.scale.size * SCALE_BITS[self.format.scale_fraction] // 8
        return sum((array.size * self.format.bits + 7) // 8 for array in arrays) + scales

"""Published layouts of weights in code books, read into `CodebookWeight`: AQLM and VPTQ checkpoints.

AQLM (Egiazarian et al., 2024): codes [N, K / v, books], code books [books, levels, 1, v], scales [N, 1, 1, 1]; vectors
lie along the inputs of a linear layer, so the result is the weight [N, K] of MatMulCodebook.

VPTQ (Liu et al., 2024): indices [groups, ceil(N / v), K / groups], centroids [groups, levels, v]; vectors lie along the
outputs, so the result is the transposed weight, a row for each input of the layer, to be decoded by GatherCodebook and
multiplied as it is: x · Wᵀ = x · rows. Its columns beyond N are padding.
"""

from __future__ import annotations

import numpy as np

from qonnx.custom_ops.codebook import CodebookWeight
from qonnx.errors import QonnxError


def from_aqlm(codes: np.ndarray, codebooks: np.ndarray, scales: np.ndarray) -> CodebookWeight:
    """w[n, v·g … v·(g+1)] = scales[n] · Σ_b codebooks[b, codes[n, g, b]]; codes may be stored as signed integers.

    Raises:
        QonnxError: vectors that span several outputs.
    """
    books, levels, outputs, length = codebooks.shape
    if outputs != 1:
        raise QonnxError(
            f"AQLM code books of {outputs} outputs a vector have no kernel; quantize with out_group_size=1"
        )
    indices = codes.astype(np.int64) % levels
    scale = scales.reshape(len(codes), 1)
    return CodebookWeight(indices, codebooks.reshape(books, levels, length), scale, codes.shape[1] * length)


def unpack_vptq(packed: np.ndarray, columns: int, bits: int, residual_bits: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Indices and residual indices, int64 [groups, rows, columns], of a packed int32 array [groups, rows, words].

    A row is a stream of bits, the least significant first; each place takes bits + residual_bits of it, the main index
    in the lower ones.
    """
    words = np.ascontiguousarray(packed).view(np.uint32)
    stream = (words[..., None] >> np.arange(32, dtype=np.uint32)) & np.uint32(1)
    width = bits + residual_bits
    places = stream.reshape(*words.shape[:-1], -1)[..., : columns * width].reshape(*words.shape[:-1], columns, width)
    weight = np.left_shift(np.int64(1), np.arange(width, dtype=np.int64))
    merged = places.astype(np.int64) @ weight
    return merged & ((1 << bits) - 1), merged >> bits


def from_vptq(
    indices: np.ndarray,
    centroids: np.ndarray,
    residual_indices: np.ndarray | None = None,
    residual_centroids: np.ndarray | None = None,
    scale: np.ndarray | None = None,
) -> tuple[CodebookWeight, ...]:
    """The transposed weight of each group of columns: rows[c, v·i + t] = scale[c] · (C[i_c, t] + R[r_c, t]).

    scale: [K] in the stored order of columns (a checkpoint's weight_scale[perm]), or None for ones. The smaller of the
    two code books is filled up with zeros, since both indices take the same number of bits.
    """
    groups, _, columns = indices.shape
    scale = np.ones(groups * columns, np.float32) if scale is None else scale
    parts = []
    for group in range(groups):
        books, codes = [centroids[group]], [indices[group].T]
        if residual_indices is not None and residual_centroids is not None:
            books.append(residual_centroids[group])
            codes.append(residual_indices[group].T)
        levels = 1 << (max(len(book) for book in books) - 1).bit_length()
        filled = np.zeros((len(books), levels, centroids.shape[2]), centroids.dtype)
        for book, values in zip(filled, books, strict=True):
            book[: len(values)] = values
        stored = np.stack(codes, -1)
        part = scale[group * columns : (group + 1) * columns].reshape(-1, 1)
        parts.append(CodebookWeight(stored, filled, part, stored.shape[1] * centroids.shape[2]))
    return tuple(parts)

"""Nearest vectors of code books under a quadratic form: squared distances by one matrix product, a beam over books.

The distance (z − c) M (z − c)ᵀ with M = L Lᵀ is Euclidean after both sides are multiplied by L; of it only
‖cL‖² − 2 (zL)·(cL) depends on the choice.
"""

from __future__ import annotations

import ctypes
import functools

import numpy as np

from qonnx.custom_ops import library_path
from qonnx.errors import QonnxError

_CHUNK = 1 << 21  # distances held at a time: they stay in the L2 cache


def nearest(z: np.ndarray, book: np.ndarray) -> np.ndarray:
    """Index of the book's vector nearest to each row of z; z [n, v], book [levels, v], float32."""
    if native() is not None:
        return beam_search(z, book[None], 1)[:, 0]
    size = np.einsum("lv,lv->l", book, book)
    turned = np.ascontiguousarray(-2.0 * book.T)
    found = np.empty(len(z), np.int64)
    step = max(1, _CHUNK // len(book))
    for start in range(0, len(z), step):
        distance = z[start : start + step] @ turned
        distance += size
        found[start : start + step] = distance.argmin(1)
    return found


def beam_search(z: np.ndarray, books: np.ndarray, width: int, descents: int = 1) -> np.ndarray:
    """Indices [n, books] whose sum is near z [n, v]: the `width` best sums of the first books are extended by the next,
    then each code is chosen `descents` times more with the others fixed. Exact for one book.

    In the native library where there is one, else in numpy; both give the same up to ties of rounding. Source: AQLM
    (Egiazarian et al. 2024, section 3.2), whose beam also starts at earlier codes.
    """
    z, books = np.ascontiguousarray(z, np.float32), np.ascontiguousarray(books, np.float32)
    if (search := native()) is None:
        return descend(z, books, beam_search_numpy(z, books, width), descents)
    codes = np.empty((len(z), len(books)), np.int64)
    sizes = (len(z), z.shape[1]), (*books.shape[:2], width, descents)
    if search(z.ctypes.data, *sizes[0], books.ctypes.data, *sizes[1], codes.ctypes.data):
        raise QonnxError("QONNX_CPU names no instruction-set tier; use scalar, avx2, avx2vnni, avx512 or avx512vnni")
    return codes


@functools.cache
def native():
    """The library's beam search, or None."""
    if (path := library_path()) is None:
        return None
    found = getattr(ctypes.CDLL(path), "qonnx_beam_search", None)
    if found is not None:
        pointer, size = ctypes.c_void_p, ctypes.c_int64
        found.argtypes = [pointer, size, size, pointer, size, size, size, size, pointer]
        found.restype = ctypes.c_int32
    return found


def beam_search_numpy(z: np.ndarray, books: np.ndarray, width: int) -> np.ndarray:
    """`beam_search` without the last choices."""
    count, levels, length = books.shape
    if count == 1:
        return nearest(z, books[0])[:, None]
    n = len(z)
    step = max(1, _CHUNK // (levels * width))
    result = np.empty((n, count), np.int64)
    sizes = np.einsum("blv,blv->bl", books, books)
    for start in range(0, n, step):
        rest = z[start : start + step, None, :]  # [rows, beams, v] what is left of z on each beam
        codes = np.empty((rest.shape[0], 1, 0), np.int64)
        for b in range(count):
            rows, beams, _ = rest.shape
            distance = rest.reshape(-1, length) @ (-2.0 * books[b].T)
            distance += sizes[b]
            distance = distance.reshape(rows, beams, levels) + np.einsum("rbv,rbv->rb", rest, rest)[:, :, None]
            distance = distance.reshape(rows, beams * levels)
            kept = 1 if b == count - 1 else min(width, distance.shape[1])
            best = np.argpartition(distance, kept - 1, axis=1)[:, :kept] if kept > 1 else distance.argmin(1)[:, None]
            beam, code = best // levels, best % levels
            rest = np.take_along_axis(rest, beam[:, :, None], 1) - books[b][code]
            codes = np.concatenate([np.take_along_axis(codes, beam[:, :, None], 1), code[:, :, None]], 2)
        result[start : start + step] = codes[:, 0]
    return result


def descend(z: np.ndarray, books: np.ndarray, codes: np.ndarray, sweeps: int = 1) -> np.ndarray:
    """`codes` [n, books] improved one book at a time (iterated conditional modes); the distance never grows."""
    codes = codes.copy()
    whole = gathered(books, codes)
    for _ in range(sweeps if len(books) > 1 else 0):
        for b, book in enumerate(books):
            rest = whole - book[codes[:, b]]
            codes[:, b] = nearest(z - rest, book)
            whole = rest + book[codes[:, b]]
    return codes


def gathered(books: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Σ_b books[b, codes[…, b]]: [..., v]."""
    whole = books[0][codes[..., 0]]
    for b in range(1, len(books)):
        whole = whole + books[b][codes[..., b]]
    return whole


def scattered(values: np.ndarray, codes: np.ndarray, levels: int) -> np.ndarray:
    """The transpose of `gathered`: values [n, v] summed by code [n, books] -> float64 [books, levels, v]."""
    length = values.shape[1]
    columns = np.ascontiguousarray(values.T)
    return np.stack(
        [
            np.stack([np.bincount(codes[:, b], weights=columns[t], minlength=levels) for t in range(length)], 1)
            for b in range(codes.shape[1])
        ]
    )

"""What a kernel of a product owes where numbers overflow, computed in float64 without it.

    y[m, n] = Σ_k x[m, k] · w[n, k] + bias[n] (+ the low-rank branch),   w = scale · (value − zero_point)

Kernels take the scale out of a block's sum, so a number may leave float32 in them and not in the function body, or the
other way round. What holds for each y[m, n]:

1. Where row m of x or row n of the weight, with its bias, holds a number that is not finite, y is not finite.
2. Otherwise, where 128 · K · x · value · scale is below 2^127, each of the three the largest of its row, at least 1,
   and value with the zero point, y is that of the function body within rounding.
3. Otherwise y is right within rounding or not finite.

Other rows do not matter: the tolerances come from row m and row n alone.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from qonnx.custom_ops.lowbit import CodeLayout, unpack

PRODUCTS = ("MatMulLowBit", "DynamicQuantizeMatMulLowBit", "MatMulCodebook", "DynamicQuantizeMatMulCodebook")
OVERFLOW = 2.0**127
EPSILON = 2.0**-23


@dataclasses.dataclass(frozen=True)
class Owed:
    """Of a product's result, each [M, N]: the float64 result, what two orders of a float32 sum may lie apart, what
    rounding x and tables to 8 bits adds, and where rules 1 and 2 hold."""

    exact: np.ndarray
    rounding: np.ndarray
    quantization: np.ndarray
    spoiled: np.ndarray
    body: np.ndarray


def _wide(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64)


def _largest(array: np.ndarray, axis: int) -> np.ndarray:
    """Of finite numbers, at least 0."""
    return np.abs(np.nan_to_num(array, nan=0, posinf=0, neginf=0)).max(axis, initial=0)


def _weight(arrays: dict[str, np.ndarray], attributes: dict[str, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """w [N, K]; the largest value with zero point, and the largest scale, of each row [N]."""
    rows, columns = attributes["N"], attributes["K"]
    layout = CodeLayout(*(attributes[name] for name in ("levels", "codes_per_word", "bytes_per_word")))
    block_of = np.arange(columns) // attributes["block_size"]
    scale = _wide(arrays["scale"])
    if "codebooks" in arrays:
        books = _wide(arrays["codebooks"])
        count, _, length = books.shape
        index = unpack(arrays["codes"], columns // length * count, layout).reshape(rows, -1, count)
        value = sum(books[b][index[:, :, b]] for b in range(count)).reshape(rows, columns)
        size = np.full(rows, sum(_largest(book.ravel(), 0) for book in books))
    else:
        zero = np.broadcast_to(_wide(arrays["zero_point"]), scale.shape)
        table = _wide(arrays["table"])
        value = table[unpack(arrays["codes"], columns, layout)] - zero[:, block_of]
        size = _largest(table, 0) + _largest(zero, 1)
    return value * scale[:, block_of], size, _largest(scale, 1)


def owed(arrays: dict[str, np.ndarray], attributes: dict[str, int]) -> Owed:
    """For the inputs and attributes of one of PRODUCTS, as its kernel has accepted them."""
    with np.errstate(all="ignore"):
        x = _wide(arrays["x"]).reshape(-1, attributes["K"])
        columns = x.shape[1]
        w, value, scale = _weight(arrays, attributes)
        bias = np.broadcast_to(_wide(arrays["bias"]).ravel(), len(w))
        exact = x @ w.T + bias
        x_size = _largest(x, 1)[:, None]
        sum_size = columns * x_size * value * scale
        rounding = (columns + 16) * EPSILON * (sum_size + np.abs(bias))
        at_least = [np.maximum(size, 1) for size in (x_size, value, scale)]
        body = 128 * columns * at_least[0] * at_least[1] * at_least[2] < OVERFLOW
        finite_x = np.isfinite(x).all(1)[:, None]
        finite_w = np.isfinite(w).all(1) & np.isfinite(bias)
        a, b = (arrays.get(name) for name in ("low_rank_a", "low_rank_b"))
        if a is not None and b is not None and a.size and b.size:
            a, b = _wide(a), _wide(b)
            exact = exact + x @ a @ b
            b_size, rank = _largest(b, 0), a.shape[1]
            branch = columns * rank * x_size * _largest(a.ravel(), 0) * b_size
            rounding = rounding + (columns + rank + 16) * EPSILON * branch
            body = body & (128 * rank * columns * at_least[0] * max(_largest(a.ravel(), 0), 1) * np.maximum(b_size, 1)
                           < OVERFLOW)  # fmt: skip
            finite_x = finite_x & np.isfinite(a).all()
            finite_w = finite_w & np.isfinite(b).all(0)
        books = len(arrays["codebooks"]) if "codebooks" in arrays else 1
        return Owed(exact, rounding, (books + 1) / 127 * sum_size, ~(finite_x & finite_w), body)


def breach(op: str, owed: Owed, found: np.ndarray, body: np.ndarray, epsilon: float) -> str | None:
    """The rule that a kernel's result breaks, with the place, or None. epsilon: of the type of y, relative."""
    found, body = (_wide(y).reshape(owed.exact.shape) for y in (found, body))
    with np.errstate(all="ignore"):
        same = (found == body) | (np.isnan(found) & np.isnan(body))
        near = np.abs(found - body) <= owed.rounding + 2.02 * epsilon * np.abs(body) + 1e-30
        allowed = owed.rounding + (owed.quantization if op.startswith("Dynamic") else 0)
        right = np.abs(found - owed.exact) <= allowed + 2.02 * epsilon * np.abs(owed.exact) + 1e-30
        finite = np.isfinite(found)
        holds = np.where(owed.spoiled, ~finite, np.where(owed.body, same | near, right | ~finite))
    if holds.all():
        return None
    place = tuple(int(i) for i in np.argwhere(~holds)[0])
    rule = 1 if owed.spoiled[place] else 2 if owed.body[place] else 3
    return f"{found[place]} against rule {rule}, not {body[place]} (float64: {owed.exact[place]}), at {list(place)}"

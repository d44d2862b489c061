"""What a solution costs: the mean square error of the layer's output, row by row; and the better of two solutions."""

from __future__ import annotations

import numpy as np

from qonnx.solvers.nearest import Codes


def losses(rows: np.ndarray, codes: Codes, gram: np.ndarray) -> np.ndarray:
    """(w − ŵ)H(w − ŵ)ᵀ of every row, float64 [groups, rows], H the Gram matrix [groups, columns, columns]."""
    error = (rows - codes.decode()).astype(np.float64)
    return np.einsum("gri,gri->gr", error @ gram.astype(np.float64), error)


def better(rows: np.ndarray, gram: np.ndarray, *candidates: Codes) -> Codes:
    """Row by row the candidate of least loss, the first of equals; all are of one format."""
    best = candidates[0]
    least = losses(rows, best, gram)
    for other in candidates[1:]:
        loss = losses(rows, other, gram)
        if best.format.granularity == "tensor":  # all rows share one scale
            best, least = (other, loss) if loss.sum() < least.sum() else (best, least)
            continue
        take = (loss < least)[..., None]
        pairs = ((getattr(other, name), getattr(best, name)) for name in ("codes", "scale", "zero_point"))
        best = Codes(best.format, *(np.where(take, a, b) for a, b in pairs))
        least = np.minimum(least, loss)
    return best

"""Ridge least squares: weights that make of a layer's *quantized* inputs what the float layer makes of float ones.

In the terms of the solver protocol, rows W [groups, rows, columns] meet inputs x; x̂ are the same inputs behind their
own quantizers and behind every layer that is quantized already, y what the layer should give (W·x, or more: a target
may take over the error of the residual stream that the layer's output is added to). We look for

    W' = argmin Σ |W'·x̂ − y|² + λ·|W' − W|²,   (W' − W)·(H + λI) = T − W·H,   H = Σ x̂x̂ᵀ,  T = Σ y·x̂ᵀ,

Then W' instead of W is rounded, against H, and the mean of what is left goes into the bias. The sums are not about the
means: that would leave the solver free to let the bias repair what it breaks along the mean of these samples, and other
samples have other means (a ViT-S at 4 bits a channel: 9.5 dB on other photographs, 5.2 about the means). Matrices
needed: H [columns, columns] and T [rows, columns]. With targets y = W·x the cross matrix C = Σ x̂·xᵀ gives T = W·Cᵀ.

λ is a share ("ridge") of the mean diagonal of H and chosen on samples that the fit does not see: a small one fits the
calibration samples only (measured on a ViT-S: 0.03 gave 38 dB on them and 13 on others, 1 gave 14.6 on others). An
infinite ridge, W' = W, is among the candidates. Source: AdaQuant (Hubara et al. 2021, eq. 5) in closed form.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.linalg import cho_factor, cho_solve

RIDGES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, float("inf"))
SHRINKAGE = 1.0


@dataclasses.dataclass
class Inputs:
    """Sums over the rows of inputs x̂ [n, columns] of each group, and of the float model's x, about to grow by `add`.

    gram: Σ x̂x̂ᵀ float32 [groups, columns, columns]. quantized, true: Σ x̂ and Σ x, float64 [groups, columns]. All that a
    layer needs whose weights do not move before they are rounded; layers that read one input share it.
    """

    gram: np.ndarray
    quantized: np.ndarray
    true: np.ndarray
    count: int = 0

    @classmethod
    def zeros(cls, groups: int, columns: int) -> Inputs:
        sums = (np.zeros((groups, columns)) for _ in range(2))
        return cls(np.zeros((groups, columns, columns), np.float32), *sums)

    def add(self, x_true: np.ndarray, x: np.ndarray, weights: np.ndarray | None = None) -> None:
        """Take in the same rows of both models, [groups, n, columns]; weights [n]: of the rows in the Gram matrix."""
        weighed = x if weights is None else x * np.sqrt(weights)[:, None]
        self.gram += np.swapaxes(weighed, 1, 2) @ weighed
        self.quantized += x.sum(1, dtype=np.float64)
        self.true += x_true.sum(1, dtype=np.float64)
        self.count += x.shape[1]

    def shift(self, rows: np.ndarray, solved: np.ndarray) -> np.ndarray:
        """Mean of Ŵ·x̂ − W·x, float64 [groups, rows]: what to take out of the bias."""
        apart = (solved @ self.quantized[..., None] - rows @ self.true[..., None])[..., 0]
        return apart / max(self.count, 1)

    def noise(self, rows: np.ndarray, solved: np.ndarray) -> float:
        """Σ |Ŵ·x̂ − W·x̂|² as a share of Σ |W·x̂|²."""
        lost, whole = (float(np.sum((r @ self.gram) * r, dtype=np.float64)) for r in (rows - solved, rows))
        return max(lost, 0.0) / max(whole, 1e-30)


def shrunk(gram: np.ndarray, count: int) -> np.ndarray:
    """A Gram matrix of `count` rows, float32 [groups, K, K], moved towards a multiple of the identity as few demand.

    Of n rows of K columns, eigenvalues scatter by about √(K/n) around the true ones; a solver that believes the
    smallest of them pushes errors where other data has energy. A share K/n of the mean is added to the diagonal
    (shrinkage in the manner of Ledoit and Wolf 2004, its intensity simplified).
    """
    gram, index = gram.copy(), np.arange(gram.shape[-1])
    mean = gram[:, index, index].mean(-1, keepdims=True)
    gram[:, index, index] += SHRINKAGE * gram.shape[-1] / max(count, 1) * mean
    return gram


@dataclasses.dataclass
class Regression:
    """Sums over the rows of inputs x̂ [n, columns] and targets y [n, rows] of each group, about to grow by `add`.

    gram: Σ x̂x̂ᵀ float32 [groups, columns, columns]. targets: Σ y·x̂ᵀ float32 [groups, rows, columns]. inputs, outputs:
    Σ x̂ and Σ y, float64 [groups, columns] and [groups, rows]. power: Σ |y|². count: n. Rows may have weights, which
    count in all but `inputs`, `outputs` and n.
    """

    gram: np.ndarray
    targets: np.ndarray
    inputs: np.ndarray
    outputs: np.ndarray
    power: float = 0.0
    count: int = 0

    @classmethod
    def zeros(cls, groups: int, rows: int, columns: int) -> Regression:
        matrices = (np.zeros((groups, size, columns), np.float32) for size in (columns, rows))
        return cls(*matrices, np.zeros((groups, columns)), np.zeros((groups, rows)))

    def add(self, x: np.ndarray, y: np.ndarray, weights: np.ndarray | None = None) -> None:
        """Take in inputs [groups, n, columns] and targets [groups, n, rows]; weights [n]."""
        root = 1.0 if weights is None else np.sqrt(weights)[:, None]
        weighed_x, weighed_y = x * root, y * root
        self.gram += np.swapaxes(weighed_x, 1, 2) @ weighed_x
        self.targets += np.swapaxes(weighed_y, 1, 2) @ weighed_x
        self.inputs += x.sum(1, dtype=np.float64)
        self.outputs += y.sum(1, dtype=np.float64)
        self.power += float(np.square(weighed_y, dtype=np.float64).sum())
        self.count += x.shape[1]

    def __add__(self, other: Regression) -> Regression:
        pairs = ((getattr(self, f.name), getattr(other, f.name)) for f in dataclasses.fields(self))
        return Regression(*(a + b for a, b in pairs))

    def shrunk(self) -> np.ndarray:
        """gram, moved towards a multiple of the identity as few rows demand."""
        return shrunk(self.gram, self.count)

    def error(self, rows: np.ndarray) -> float:
        """Σ |W·x̂ − y|² of rows [groups, rows, columns]."""
        rows = rows.astype(np.float64)
        return float(np.sum((rows @ self.gram - 2 * self.targets) * rows)) + self.power

    def shift(self, rows: np.ndarray) -> np.ndarray:
        """Mean of W·x̂ − y, float64 [groups, rows]: what to take out of the bias."""
        return ((rows @ self.inputs[..., None])[..., 0] - self.outputs) / max(self.count, 1)


def fitted(rows: np.ndarray, regression: Regression, ridge: float) -> np.ndarray:
    """W' for rows W [groups, rows, columns]; float32. ridge: share of the mean diagonal; infinite gives W back."""
    if not np.isfinite(ridge):
        return rows
    gram = regression.gram.astype(np.float64)
    wanted = regression.targets - rows.astype(np.float64) @ gram
    index, moved = np.arange(gram.shape[-1]), np.empty(rows.shape)
    for g in range(len(gram)):
        gram[g, index, index] += ridge * gram[g, index, index].mean() + 1e-12
        moved[g] = cho_solve(cho_factor(gram[g], overwrite_a=True), wanted[g].T).T
    return (rows + moved).astype(np.float32)


def choose_ridge(rows: np.ndarray, fit: Regression, held_out: Regression, ridges: Sequence[float] = RIDGES) -> float:
    """The ridge whose weights, fitted on `fit`, make the least error on `held_out`."""
    return min(ridges, key=lambda ridge: held_out.error(fitted(rows, fit, ridge)))

"""Scale salient: channels that carry much take more room on the grid of the weights behind a norm (AWQ).

With x ⊘ r in front and diag(r) W behind, the same function: the norm's γ and β take 1/r, the weights r. Rounding
diag(r) W on a grid and undoing r leaves channel j an error 1/r_j times the grid's step, so that a large r_j protects
the channel at the price of its block's range. With r = (E[x²]^½)^α, scaled to √(max · min) = 1, the α of a line search
from 0 to 1 is the one of least output error

    Σ_layers tr((W − diag(r)⁻¹ Q(diag(r) W)) ᵀ H (W − diag(r)⁻¹ Q(diag(r) W))),   H = E[xxᵀ],

with Q plain rounding on the format that follows; α = 0, no change, is among them. Solvers that see H come after and
gain less from it. Source: Lin et al. 2023 (AWQ), section 3.2, with E[x²]^½ for E|x|, which Gram matrices hold.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from qonnx.formats import FORMATS
from qonnx.passes.reparameterize import Reparameterize
from qonnx.solvers.nearest import nearest
from qonnx.stats import Stats

_STEPS = 20
_STORED = {2: "u2", 3: "u4", 4: "u4", 5: "u8", 6: "u8", 8: "u8"}


@dataclasses.dataclass
class ScaleSalient(Reparameterize):
    """Fold input scales of weights into norms; needs `observe` with gram. bits, block: of the weights that follow."""

    bits: int = 4
    block: int = 32

    def _choose(self, stats: Stats, weights: list[np.ndarray], shifts: bool) -> tuple[np.ndarray, np.ndarray, float]:
        """(no shift, ratio, α). weights: [K, O]."""
        nothing = np.zeros(len(weights[0])), np.ones(len(weights[0])), 0.0
        if stats.gram is None or stats.gram.window is not None:
            return nothing
        gram = stats.gram.matrix[0].astype(np.float64) / max(stats.gram.rows, 1)
        size = np.sqrt(np.maximum(np.diagonal(gram), 0))
        size = np.maximum(size, 1e-4 * max(size.max(), 1e-30))
        format = dataclasses.replace(
            FORMATS[_STORED[self.bits]],
            levels=2**self.bits,
            granularity="block" if self.block else "channel",
            block=self.block,
        )
        least, best = np.inf, nothing
        for strength in np.arange(_STEPS) / _STEPS:
            ratio = size**strength
            ratio /= np.sqrt(ratio.max() * ratio.min())
            lost = 0.0
            for weight in weights:
                rows = np.ascontiguousarray((weight * ratio[:, None]).T, np.float32)[None]
                error = weight.T - nearest(rows, format).decode()[0] / ratio
                lost += float(np.sum((error @ gram) * error))
            if lost < least:
                least, best = lost, (nothing[0], ratio, float(strength))
        return best

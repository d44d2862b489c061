"""Rescale: the scales that serve given codes best, by least squares against the Gram matrix of the inputs.

With codes fixed, a row is linear in its scales: ŵ = Σ_b s_b · u_b, u_b the levels (code − zero point, or table entry)
of block b and 0 elsewhere. Its loss (w − ŵ)H(w − ŵ)ᵀ is least where Σ_c (u_b H u_cᵀ) s_c = u_b H wᵀ for every b: one
small system of [blocks, blocks] a row. Alternated with descent on the codes (quantease.py), neither ever adds loss: one
block's scale answers those of its neighbours, which no search of single ranges can do. Source: the alternating scheme
of AdaQuant (Hubara et al. 2021) and of binary-coding quantization, in the metric of GPTQ.

Layout: rows [groups, rows, columns], gram [groups, columns, columns], scales [groups, rows, blocks].
"""

from __future__ import annotations

import dataclasses

import numpy as np

from qonnx.solvers.loss import better
from qonnx.solvers.nearest import Codes, block_size

_TRUST = 1e-3  # pull to the scales there are, as a share of a block's own curvature: dead inputs say nothing


def rescale(rows: np.ndarray, gram: np.ndarray, codes: Codes) -> Codes:
    """`codes` with the best scales for them; a row whose loss would not fall keeps its own."""
    return better(rows, gram, codes, refitted(rows, gram, codes))


def refitted(rows: np.ndarray, gram: np.ndarray, codes: Codes) -> Codes:
    """`rescale` without the comparison at its end.

    Formats with one scale for the tensor, or whose scales are powers of two, are returned as they are.
    """
    format = codes.format
    if format.granularity == "tensor" or format.scale_fraction == 0:
        return codes
    one = np.ones((), np.float32)
    columns = rows.shape[-1]
    size = block_size(format, columns)
    blocks = codes.scale.shape[-1]
    zero_point = np.repeat(codes.zero_point, size, axis=-1)[..., :columns]
    padding = blocks * size - columns
    levels = np.pad(format.decode(codes.codes, one, zero_point), ((0, 0), (0, 0), (0, padding)))
    wide = np.pad(gram.astype(np.float32, copy=False), ((0, 0), (0, padding), (0, padding)))
    pull = np.pad(rows.astype(np.float32) @ gram.astype(np.float32, copy=False), ((0, 0), (0, 0), (0, padding)))
    groups, count = rows.shape[:2]
    scale = np.empty(codes.scale.shape, np.float32)
    for g in range(groups):
        curvature = np.empty((count, blocks, blocks))
        for b in range(blocks):
            part = levels[g, :, b * size : (b + 1) * size] @ wide[g, b * size : (b + 1) * size]
            curvature[:, b] = (part * levels[g]).reshape(count, blocks, size).sum(-1)
        wanted = (pull[g] * levels[g]).reshape(count, blocks, size).sum(-1, dtype=np.float64)
        index = np.arange(blocks)
        trust = _TRUST * curvature[:, index, index] + 1e-20
        curvature[:, index, index] += trust
        wanted += trust * codes.scale[g]
        scale[g] = np.linalg.solve(curvature, wanted[..., None])[..., 0]
    usable = np.isfinite(scale) & (scale > 0.25 * codes.scale) & (scale < 4 * codes.scale)
    return dataclasses.replace(codes, scale=format.storable(np.where(usable, scale, codes.scale)))

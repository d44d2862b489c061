"""Reparameterize: move the spread between channels of a norm's output into the weights behind it (channel → layer).

A per-tensor grid on x wastes codes where channels differ in range. With a per-channel grid (s_j, z_j), z_j an integer
that may lie far outside the codes, and one target grid (s̃, z̃), the identity
    x̃ = (x + s ⊙ r2) ⊘ r1,   r1 = s/s̃,  r2 = z − z̃,   x̃/s̃ + z̃ = x/s + z
turns the per-channel codes into those of a plain per-tensor grid (RepQ-ViT, Li et al. 2023, eq. 8–11), at no cost:
    norm:      γ̃ = γ ⊘ r1,  β̃ = (β + s ⊙ r2) ⊘ r1
    consumers: W̃ = diag(r1) W,  b̃ = b − (s ⊙ r2)ᵀ W
`strength` α takes r1^α: 1 equalises all channels, 0 changes nothing; the shift goes with it. By default a norm is
folded by α = ½ if that lowers the expected error of the outputs, in closed form, at least `gain` times:
    activations: Δ²/12 · Σ_j r̂_j² ‖W_j‖²,  weights: Σ_o Δ_o²/12 · Σ_j E[x̃_j²].
The threshold is there because a fold has a price of its own: channels whose range is small on the calibration data lose
their headroom. Measured on a DINOv2-small at 8 bits, feature SQNR with only one layer quantized: block 0, whose
channel 199 is 20 times the median, gains 9 dB; block 8, where unseen photos exceed a channel's range by 1.7, loses 18.

`rule = "smooth"` takes SmoothQuant's ratio instead, max|X_j|^α / max|W_j|^(1−α), without a shift (Xiao et al. 2022,
eq. 4; α = ½ unless `strength` says otherwise), for every norm; `rule = "outliers"` that of Outlier Suppression+ (Wei et
al. 2023, eq. 5–8): centred channels, r1 = max(1, max|X_j|/t), t by the expected error above. `noise` moves the channels
of a norm by fixed random parts of a step, so that values between two codes do not all round alike (NoisyQuant, Liu et
al. 2022, eq. 5).

`deviations` clips each channel on both sides before (the dual clipping of RepQuant, Li et al. 2024, section 3.3, by
moments in the place of its search). On the same DINOv2-small at 6 bits it only harms, as all clipping of norms does:
20.8 dB without, 18.0 at ten deviations, 13.8 at six.

Norms handled: LayerNormalization with constant γ (and β; one is added if absent), RMSNormalization (no β: r2 = 0),
GroupNormalization, a BatchNormalization that no layer in front could take. Layers behind them: passes/channel_fold.py,
also behind what only moves the tensor (a class token picked, windows cut, the mean of tokens). A norm with any other
reader, or whose reader is excluded from quantization, is left alone: the fold would have to be undone there. Norms that
a convolution reads are folded if `convolutions` says so: the last one of a DINOv2-small in front of its decoder gains
nothing (38.1 dB at the map with and without).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from qonnx.notes import note
from qonnx.passes.base import Change, Pass
from qonnx.passes.channel_fold import fold_into_layer, layers_behind, matrix
from qonnx.passes.linear import pads
from qonnx.passes.rewire import array, initializer, integer, is_constant, is_op, set_input
from qonnx.stats import Stats, affine_channels


@dataclasses.dataclass
class Reparameterize(Pass):
    """Fold per-channel ranges of norms into the linear layers behind them.

    rule: "ranges" (RepQ-ViT), "smooth" (SmoothQuant) or "outliers" (Outlier Suppression+). strength: of the fold, 0…1.
    bits: of activations and weights. gain: factor by which the default must lower the expected error. noise: steps of
    the grid by which channels are moved at random (NoisyQuant). convolutions: whether norms before them are folded.
    deviations: where channels are clipped, in standard deviations from their mean; None: nowhere.
    powers: whether ratios are rounded to powers of two, so that folding rounds nothing (LLM-FP4's form).
    """

    settings: Any = None
    rule: Literal["ranges", "smooth", "outliers"] = "ranges"
    strength: float | None = None  # None: 0 or ½, whichever the expected error says
    bits: int = 8
    gain: float = 4.0
    noise: float = 0.0
    convolutions: bool = False
    deviations: float | None = None
    powers: bool = False

    needs = ("observe",)
    tolerance = 2e-5

    def changes(self, model: ir.Model) -> Iterator[Change]:
        for node in list(model.graph):
            if not foldable(node) or note(node).folded:
                continue
            value = node.outputs[0]
            stats = note(value).stats
            if stats is None or stats.channel_minimum is None or stats.non_finite:
                continue
            if self.deviations is not None and stats.gram is not None:
                stats = _clipped(stats, self.deviations)
            layers, moved = layers_behind(value, stats, self.settings, _CHANNEL_AXIS[node.op_type])
            if not layers or (not self.convolutions and any(is_op(layer, "Conv") for layer in layers)):
                continue
            weights = [matrix(layer) for layer in layers]
            shifts = not is_op(node, "RMSNormalization") and not any(pads(layer) for layer in layers)
            shift, ratio, strength = self._choose(stats, weights, shifts)
            if self.powers:
                ratio = 2.0 ** np.rint(np.log2(ratio))
            if self.noise and shifts:
                shift = shift + self.noise * _step(stats, self.bits) * _uniform(value.name, shift.size)
            note(node).folded = True
            note(value).stats = stats
            if not shift.any() and np.ptp(ratio) == 0.0:
                continue
            _fold_into_norm(node, ratio, shift)
            for layer, weight in zip(layers, weights, strict=True):
                fold_into_layer(layer, weight, ratio, shift)
            note(value).stats = affine_channels(stats, 1.0 / ratio, shift)
            for other in moved:
                _renew(other, ratio, shift, note(value).stats)
            yield Change(
                node.name or value.name, f"channel ranges folded into {len(layers)} layers, strength {strength:g}"
            )

    def _choose(self, stats: Stats, weights: list[np.ndarray], shifts: bool) -> tuple[np.ndarray, np.ndarray, float]:
        """(shift s⊙r2, ratio r1^α, α) that make the channels' ranges alike."""
        if self.rule == "smooth":
            return self._smooth(stats, weights)
        levels = 2**self.bits - 1
        if self.rule == "outliers":
            return self._outliers(stats, weights, shifts, levels)
        shift, relative = even_channels(stats, self.bits, shifts)
        if self.strength is not None and self.strength > 0:
            return shift, relative**self.strength, self.strength
        plain = self._cost(stats, weights, np.zeros_like(shift), np.ones_like(relative), levels)
        if self.strength == 0 or self._cost(stats, weights, shift, relative**0.5, levels) * self.gain > plain:
            return np.zeros_like(shift), np.ones_like(relative), 0.0
        return shift, relative**0.5, 0.5

    def _smooth(self, stats: Stats, weights: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, float]:
        """SmoothQuant's ratio, scaled to a geometric mean of 1."""
        strength = 0.5 if self.strength is None else self.strength
        wide = np.maximum(np.maximum(-stats.channel_minimum, stats.channel_maximum), 1e-12)
        heavy = np.maximum(np.max([np.abs(weight).max(1) for weight in weights], axis=0), 1e-12)
        ratio = wide**strength / heavy ** (1 - strength)
        return np.zeros_like(ratio), ratio / np.exp(np.log(ratio).mean()), strength

    def _outliers(self, stats: Stats, weights: list[np.ndarray], shifts: bool, levels: int):
        """Outlier Suppression+: centred channels, those wider than a threshold scaled down to it. The threshold is the
        one of 32 with the least expected error, none included."""
        low, high = stats.channel_minimum, stats.channel_maximum
        shift = -(low + high) / 2 if shifts else np.zeros_like(low)
        wide = np.maximum(np.maximum(-(low + shift), high + shift), 1e-12)
        ratios = [np.maximum(1.0, wide / limit) for limit in np.geomspace(wide.max(), np.median(wide), 32)]
        best = min(ratios, key=lambda ratio: self._cost(stats, weights, shift, ratio, levels))
        return shift, best, 1.0

    def _cost(self, stats: Stats, weights, shift, ratio, levels: int) -> float:
        """Expected squared error of all layers' outputs for one row of inputs, up to a common factor."""
        moved = affine_channels(dataclasses.replace(stats, gram=None, histogram=None), 1.0 / ratio, shift)
        delta = max(moved.maximum - moved.minimum, 1e-30) / levels
        mean = moved.channel_mean
        if stats.gram is not None:
            power = np.diagonal(stats.gram.matrix[0]) / stats.gram.rows
            power = power.reshape(mean.size, -1).mean(1)  # of a convolution's taps
            power = (power + 2 * stats.channel_mean * shift + shift**2) / ratio**2
        else:  # a bell shape about the mean that spans eight deviations
            power = mean**2 + ((moved.channel_maximum - moved.channel_minimum) / 8) ** 2
        total = 0.0
        for weight in weights:  # [K, O]
            folded = weight * ratio[:, None]
            row_step = np.abs(folded).max(0) / (levels // 2)
            total += delta**2 * (folded**2).sum() + (row_step**2).sum() * power.sum()
        return float(total)


def foldable(node: ir.Node) -> bool:
    """Whether it is a norm by channels with constant parameters, of which only the first output is read."""
    if not is_op(node, *_CHANNEL_AXIS) or not all(is_constant(value) for value in node.inputs[1:3]):
        return False
    if is_op(node, "LayerNormalization", "RMSNormalization"):
        axis, shape = integer(node, "axis", -1), node.outputs[0].shape
        if axis != -1 and (shape is None or axis != len(shape) - 1):
            return False
    return not any(o.uses() for o in node.outputs[1:])


# Where the channels of a norm's output lie.
_CHANNEL_AXIS = {"LayerNormalization": -1, "RMSNormalization": -1, "GroupNormalization": 1, "BatchNormalization": 1}


def _step(stats: Stats, bits: int) -> float:
    """Of a grid of `bits` over the tensor's range."""
    return (stats.maximum - stats.minimum) / (2**bits - 1)


def _clipped(stats: Stats, deviations: float) -> Stats:
    """Ranges of channels that end so many standard deviations from the mean."""
    power = np.diagonal(stats.gram.matrix[0]) / stats.gram.rows
    mean = stats.channel_mean
    reach = deviations * np.sqrt(np.maximum(power.reshape(mean.size, -1).mean(1) - mean**2, 0.0))
    low, high = np.maximum(stats.channel_minimum, mean - reach), np.minimum(stats.channel_maximum, mean + reach)
    ends = {"minimum": float(min(low.min(), 0.0)), "maximum": float(max(high.max(), 0.0))}
    return dataclasses.replace(stats, channel_minimum=low, channel_maximum=high, **ends)


def _uniform(name: str, count: int) -> np.ndarray:
    """Numbers in [−1, 1), the same ones for the same name."""
    return np.random.default_rng(list(name.encode())).uniform(-1, 1, count)


def _renew(value: ir.Value, ratio: np.ndarray, shift: np.ndarray, source: Stats) -> None:
    """Statistics of what holds parts of a folded norm: its own where they are by channel, else the norm's range."""
    old = note(value).stats
    if old is None:
        return
    if old.channel_minimum is not None and old.channel_sum is not None and old.channel_minimum.size == ratio.size:
        note(value).stats = affine_channels(old, 1.0 / ratio, shift)
    else:
        note(value).stats = Stats(old.samples, old.elements, source.minimum, source.maximum, shape=old.shape)


def even_channels(stats: Stats, bits: int, shifts: bool) -> tuple[np.ndarray, np.ndarray]:
    """(s⊙r2, r1) that give every channel the same range on a grid of `bits`; the geometric mean of r1 is 1.

    shifts: the ranges are centred as well, by whole steps, so that codes stay those of the per-channel grid; otherwise
    each range is taken as symmetric about zero and the shift is 0.
    """
    if shifts:
        low, high = stats.channel_minimum, stats.channel_maximum
    else:
        high = np.maximum(np.maximum(-stats.channel_minimum, stats.channel_maximum), 0)
        low = -high
    width = np.maximum(high - low, 1e-6 * max((high - low).max(), 1e-30))
    step = width / (2**bits - 1)
    # r2 = z − z̃ with the target z̃ in the middle
    shift = step * (np.rint(-low / step) - 2 ** (bits - 1)) if shifts else np.zeros_like(step)
    return shift, step / np.exp(np.log(step).mean())


def _fold_into_norm(node: ir.Node, ratio: np.ndarray, shift: np.ndarray) -> None:
    gamma = array(node.inputs[1])
    scaled = (gamma / ratio).astype(gamma.dtype)
    set_input(node, 1, initializer(node.graph, f"{node.inputs[1].name}_folded", scaled))
    has_beta = len(node.inputs) > 2 and node.inputs[2] is not None
    if not has_beta and not shift.any():
        return
    beta = array(node.inputs[2]) if has_beta else np.zeros_like(gamma)
    name = node.inputs[2].name if has_beta else f"{node.name}_bias"
    moved = ((beta + shift) / ratio).astype(gamma.dtype)
    set_input(node, 2, initializer(node.graph, f"{name}_folded", moved))

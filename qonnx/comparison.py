"""What a comparison of two models found: plain records, and the bounds that a user may set on them.

`reference` is the model that is right by definition (float), `result` the one on trial. `qonnx.compare` fills these.
"""

from __future__ import annotations

import dataclasses
import math

from qonnx.differences import Figures


@dataclasses.dataclass(frozen=True)
class OutputError:
    """One graph output over all samples. `top1`: share of rows with the same largest entry; None unless the output
    looks like scores, and `top1_basis` says how that was decided."""

    name: str
    shape: str
    figures: Figures
    top1: float | None
    top1_basis: str


@dataclasses.dataclass(frozen=True)
class OracleGap:
    """How far two ways of running the *result* are from each other, on one output or (`reference`) on one node."""

    pair: str  # "runtime − unoptimized", "unoptimized − reference", …
    tensor: str
    operator: str
    figures: Figures


@dataclasses.dataclass(frozen=True)
class OracleCoverage:
    """What one oracle really looked at: `checked` of `total` outputs or nodes; `note`: what was left out, and why."""

    oracle: str
    unit: str
    checked: int
    total: int
    note: str


@dataclasses.dataclass(frozen=True)
class LayerError:
    """One layer of the reference and its counterpart.

    accumulated: the result's tensor against the reference's, each from its own run (with errors of all earlier layers).
    isolated: the result's nodes fed with the reference's tensors (this layer's own error). None without a counterpart.
    matched: how the counterpart was found: "name", "producer", "order", "rescaled" (held in other units, judged
    behind it) or "" (then `note` says why not).
    bytes_reference, bytes_result: constants that the layer stores. macs: multiply-adds for one sample, None if unknown.
    """

    node: str
    operator: str
    tensor: str
    shape: str
    matched: str
    accumulated: Figures | None
    isolated: Figures | None
    bytes_reference: int
    bytes_result: int
    macs: int | None
    numbers: str  # number types of its inputs in the result, "u8 × s8", or else of its output, "→ u8"
    note: str = ""


@dataclasses.dataclass(frozen=True)
class QuantizerError:
    """One activation quantizer of the result applied to the reference's tensor.

    low, high: the values that its codes can mean. minimum, maximum: what the tensor really spans on the data.
    clipped: share of elements outside [low, high]. histogram: counts in equal bins over [low, high] and a quarter of
    that span on either side (`quantizers.histogram_range`), the outermost bins with everything beyond.
    """

    tensor: str
    type: str
    figures: Figures
    low: float
    high: float
    minimum: float
    maximum: float
    clipped: float
    histogram: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Footprint:
    """Sizes in bytes. `memory`: constants that ONNX Runtime holds after its optimiser (None where it would not say).
    `weights`: stored weight elements; `weight_bits`: bits of their codes, scales and zero points."""

    disk: int
    memory: int | None
    weights: int
    weight_bits: int

    @property
    def bits_per_weight(self) -> float:
        return self.weight_bits / self.weights if self.weights else math.nan


@dataclasses.dataclass(frozen=True)
class RuntimeNode:
    """One compute node of the runtime's optimised graph; `origin`: the file's node that it came from, "" if unclear."""

    operator: str
    origin: str
    kind: str  # "integer", "weight-only" or "float"
    macs: int | None


@dataclasses.dataclass(frozen=True)
class Fusion:
    """What the runtime made of the result's compute nodes. `shares`: multiply-adds by kind, 0…1; empty if unknown."""

    nodes: tuple[RuntimeNode, ...]
    shares: dict[str, float]
    note: str

    def count(self, kind: str) -> int:
        return sum(node.kind == kind for node in self.nodes)


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of one model for one sample: median, tenth and ninetieth percentile."""

    median: float
    p10: float
    p90: float


@dataclasses.dataclass(frozen=True)
class Latency:
    """Both models, timed in turns. `ratio`: median over rounds of result / reference, with its p10 and p90."""

    reference: Timing
    result: Timing
    ratio: float
    ratio_p10: float
    ratio_p90: float
    rounds: int
    threads: int
    provider: str


@dataclasses.dataclass(frozen=True)
class Metric:
    """A task metric (higher is better) of both models, averaged over samples."""

    name: str
    reference: float
    result: float
    samples: int

    @property
    def drop(self) -> float:
        return self.reference - self.result


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Everything that `qonnx check` says. Tables are empty and fields None where a part was not asked for."""

    reference: str
    result: str
    samples: int
    outputs: tuple[OutputError, ...]
    oracles: tuple[OracleGap, ...] = ()
    coverage: tuple[OracleCoverage, ...] = ()
    layers: tuple[LayerError, ...] = ()
    layer_samples: int = 0
    rescaled: int = 0  # tensors in other units in the result, undone behind them: judged at the next tensor
    quantizers: tuple[QuantizerError, ...] = ()
    reference_footprint: Footprint | None = None
    result_footprint: Footprint | None = None
    fusion: Fusion | None = None
    latency: Latency | None = None
    metric: Metric | None = None
    broken: tuple[str, ...] = ()  # sentences, one for each bound that does not hold
    warnings: tuple[str, ...] = ()

    @property
    def worst_output(self) -> OutputError:
        """The output with the lowest SQNR: the one that the headline speaks of."""
        return min(self.outputs, key=lambda output: (not math.isnan(output.figures.sqnr_db), output.figures.sqnr_db))

    @property
    def blamed(self) -> tuple[LayerError, ...]:
        """Layers with an error of their own, worst first."""
        judged = [x for x in self.layers if x.isolated is not None and x.isolated.sqnr_db != math.inf]
        return tuple(sorted(judged, key=lambda x: (not math.isnan(x.isolated.sqnr_db), x.isolated.sqnr_db)))


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Limits that a user sets; None means no limit.

    min_sqnr in dB, min_cosine and min_top1 0…1, for every output. max_abs: largest absolute error. max_drop: of the
    metric, or of top-1 agreement from 1 where no metric was given. max_latency, max_size (on disk): result / reference.
    """

    min_sqnr: float | None = None
    min_cosine: float | None = None
    min_top1: float | None = None
    max_abs: float | None = None
    max_drop: float | None = None
    max_latency: float | None = None
    max_size: float | None = None

    def broken(self, comparison: Comparison) -> tuple[str, ...]:
        """One sentence for each limit that does not hold. A figure that is NaN or missing holds no limit."""
        found = [s for output in comparison.outputs for s in self._broken_by_output(output)]
        if self.max_drop is not None:
            found += self._broken_drop(comparison)
        if self.max_latency is not None and not (comparison.latency and comparison.latency.ratio <= self.max_latency):
            ratio = f"{comparison.latency.ratio:.3f}" if comparison.latency else "not measured"
            found.append(f"latency of the result is {ratio} of the reference; the bound is {self.max_latency:g}")
        if self.max_size is not None:
            before, after = comparison.reference_footprint, comparison.result_footprint
            ratio = after.disk / before.disk if before and after and before.disk else math.nan
            if not ratio <= self.max_size:
                found.append(f"size of the result is {ratio:.3f} of the reference; the bound is {self.max_size:g}")
        return tuple(found)

    def _broken_by_output(self, output: OutputError) -> list[str]:
        figures, where, found = output.figures, f"output '{output.name}'", []
        if self.min_sqnr is not None and not figures.sqnr_db >= self.min_sqnr:
            found.append(f"{where}: SQNR is {figures.sqnr_db:.2f} dB; the bound is {self.min_sqnr:g} dB")
        if self.min_cosine is not None and not figures.cosine >= self.min_cosine:
            found.append(f"{where}: cosine is {figures.cosine:.6f}; the bound is {self.min_cosine:g}")
        if self.min_top1 is not None and output.top1 is not None and not output.top1 >= self.min_top1:
            found.append(f"{where}: top-1 agreement is {output.top1:.4f}; the bound is {self.min_top1:g}")
        if self.max_abs is not None and not figures.max_abs <= self.max_abs:
            found.append(f"{where}: largest error is {figures.max_abs:.4g}; the bound is {self.max_abs:g}")
        if figures.not_finite and self != Bounds():
            found.append(f"{where}: {figures.not_finite} elements are NaN or infinite in one model only")
        return found

    def _broken_drop(self, comparison: Comparison) -> list[str]:
        if comparison.metric is not None:
            metric = comparison.metric
            if metric.drop <= self.max_drop:
                return []
            return [
                f"{metric.name} falls by {metric.drop:.4f} (from {metric.reference:.4f} to {metric.result:.4f}); "
                f"the bound is {self.max_drop:g}"
            ]
        scored = [output for output in comparison.outputs if output.top1 is not None]
        if not scored:
            return ["max_drop needs a metric: no output looks like class scores; give --metric and labelled data"]
        return [
            f"output '{x.name}': top-1 disagreement is {1 - x.top1:.4f}; the bound is {self.max_drop:g}"
            for x in scored
            if not 1 - x.top1 <= self.max_drop
        ]

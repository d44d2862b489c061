"""What passes have learned about values and nodes: roles, statistics, plans, and each node's fate.

Notes live in `.meta` of `onnx_ir` objects (never serialised), so they follow a value or node through every rewrite.
A node's Fate is its line in the coverage ledger: every eligible node ends `done` or `skipped` with a reason code.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import onnx_ir as ir

_KEY = "qonnx"

# Reason codes of the coverage ledger, and what they mean to a user.
REASONS: dict[str, str] = {
    "excluded": "excluded by name or operator type",
    "target-float": "the target runs this operator in float",
    "target-rule": "a rule of the target keeps this node in float",
    "no-constant-weight": "weight-only quantization needs a constant weight",
    "too-small": "too small to gain anything",
    "not-float": "works on integers, booleans or strings",
    "no-stats": "never ran on the calibration data",
    "not-finite": "saw NaN or infinity on the calibration data",
    "accuracy": "kept in higher precision to hold the accuracy bound",
    "shape": "shape does not fit the format",
    "already-quantized": "already quantized in the input model",
    "custom-domain": "operator of another domain, left as it is",
    "shared-weight": "its weight is also used by an operator that needs it in float",
    "float-neighbours": "stands between operators that stay in float",
    "subgraph": "inside a control-flow body or function where activations are not observed",
}


@dataclasses.dataclass
class Fate:
    """A line of the coverage ledger."""

    state: str  # "done" | "skipped"
    reason: str = ""  # a key of REASONS when skipped
    detail: str = ""  # formats when done ("u8 × s8 per channel"), the offending value when skipped


@dataclasses.dataclass
class Note:
    """What is known about one value or node; each field is written by one pass and read by later ones."""

    role: str | None = None  # value: "probabilities", "scores", "norm", "residual", "embedding", …   (label)
    stats: Any = None  # value: qonnx.stats.Stats                                                     (observe)
    after: str | None = None  # value: activation applied to it by all its consumers ("HardSwish", …)  (label)
    encodings: dict[str, Any] = dataclasses.field(default_factory=dict)  # value: format name -> Encoding   (assign)
    folded: bool = False  # node: a norm whose channel ranges were judged                       (reparameterize)
    rotated: bool = False  # node: its residual stream, heads or inputs were judged                    (rotate_*)
    split: bool = False  # node: was judged for a branch beside it, or for more channels (low_rank, split_channels …)
    plan: Any = None  # node: qonnx.plan.Plan                                                          (assign)
    solved: Any = None  # node: qonnx.formats.QuantizedTensor of its weight                     (solve_weights)
    mean_error: Any = None  # node: [O], what quantization adds to its output on average           (correct_bias)
    fate: Fate | None = None  # node: its ledger line
    macs: int | None = None  # node: multiply-adds for one sample                                     (observe)


def note(thing: ir.Value | ir.Node) -> Note:
    """The note of a value or node, created on first use."""
    found = thing.meta.get(_KEY)
    if found is None:
        found = thing.meta[_KEY] = Note()
    return found


def warn(model: ir.Model, sentence: str) -> None:
    """Leave a sentence for the report: something that a pass could not do, or that the user should know."""
    warnings(model).append(sentence)


def warnings(model: ir.Model) -> list[str]:
    """The sentences that passes left, in order."""
    return model.meta.setdefault(_KEY, [])


def clone(model: ir.Model) -> ir.Model:
    """A copy of the graph with notes of its own; tensors and statistics are shared."""
    copy = model.clone()
    for graph in copy.graphs():
        things = [*graph.inputs, *graph.initializers.values()]
        for node in graph:
            things += [node, *node.outputs]
        for thing in things:
            if _KEY in thing.meta:
                old = thing.meta[_KEY]
                thing.meta[_KEY] = dataclasses.replace(old, encodings=dict(old.encodings))
    return copy


def done(node: ir.Node, detail: str) -> None:
    note(node).fate = Fate("done", "", detail)


def skip(node: ir.Node, reason: str, detail: str = "") -> None:
    if reason not in REASONS:
        raise KeyError(f"unknown ledger reason {reason!r}; add it to REASONS")
    note(node).fate = Fate("skipped", reason, detail)

"""Laws that every entry of PASSES obeys on every tiny model: see passes/base.py. Adding a pass adds its tests."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from models.tiny import TINY, inputs
from qonnx.passes import PASSES, SPELLING
from qonnx.runtime import session
from qonnx.settings import Settings
from qonnx.targets import target

TARGET = "ort-cpu"
# What a pass does not manage yet, and why; the test fails when it does, so that the row is removed.
FAULTS: dict[tuple[str, str], str] = {}


def make(name: str, model: ir.Model):
    """The pass with its defaults; fields that a recipe fills are given here."""
    kind = PASSES[name]
    given = {
        "target": target(TARGET),
        "data": [inputs(model, seed) for seed in (1, 2)],
        "held_out": [inputs(model, 3)],
        "settings": Settings(),
    }
    names = {field.name for field in dataclasses.fields(kind)}
    return kind(**{key: value for key, value in given.items() if key in names})


def before(name: str) -> list[str]:
    """What a recipe runs before the pass: the spelling and, in order, what the pass needs."""
    if name in SPELLING:
        return []
    needed: list[str] = []
    for need in getattr(PASSES[name], "needs", ()):
        first = need.split(" | ")[0]
        needed += [n for n in (*before(first), first) if n not in needed]
    return [*SPELLING, *(n for n in needed if n not in SPELLING)]


def prepared(name: str, tiny: str) -> ir.Model:
    model = TINY[tiny]()
    for earlier in before(name):
        make(earlier, model)(model)
    return model


def outputs(model: ir.Model, seed: int = 0) -> list[np.ndarray]:
    """Without optimisation: what the graph says, not what the runtime makes of it."""
    return session(model, optimization="none", threads=1).run(None, inputs(model, seed))


def interface(model: ir.Model) -> list[tuple]:
    values = [v for v in model.graph.inputs if not v.is_initializer()] + list(model.graph.outputs)
    return [(v.name, v.dtype, None if v.shape is None else [str(d) for d in v.shape]) for v in values]


def dead(model: ir.Model) -> set[str]:
    """Names of nodes' outputs and initializers that nothing reads."""
    names = set()
    for body in model.graphs():
        values = [*body.initializers.values()]
        for node in body:
            if not any(o.uses() or o.is_graph_output() for o in node.outputs):
                values.append(node.outputs[0])
        names |= {v.name for v in values if not (v.uses() or v.is_graph_output() or v.is_graph_input())}
    return names


def serialised(model: ir.Model) -> bytes:
    return ir.to_proto(model).SerializeToString(deterministic=True)


def disagreement(expected: list[np.ndarray], found: list[np.ndarray]) -> float:
    """Largest difference relative to the largest number of that output; infinite for different shapes."""
    worst = 0.0
    for a, b in zip(expected, found, strict=True):
        if a.shape != b.shape or a.dtype != b.dtype:
            return np.inf
        a, b = a.astype(np.float64), b.astype(np.float64)
        if a.size:
            worst = max(worst, float(abs(a - b).max() / max(abs(a).max(), 1e-30)))
    return worst


def allowed(tolerance: float, model: ir.Model) -> float:
    """A half-precision model rounds at most 16 tensors in a row to 11 bits, and a rewrite moves those roundings."""
    half = any(v.dtype == ir.DataType.FLOAT16 for v in model.graph.inputs)
    return 16 * 2.0**-11 if half and tolerance else tolerance


def cases() -> list:
    """Every pass with every model; those that calibrate first are slow."""
    rows = []
    for name in PASSES:
        for tiny in TINY:
            marks = [pytest.mark.slow] if "observe" in before(name) else []
            if (name, tiny) in FAULTS:
                marks.append(pytest.mark.xfail(reason=FAULTS[name, tiny], strict=True))
            rows.append(pytest.param(name, tiny, marks=marks))
    return rows


def improves_on_data(name: str) -> bool:
    """Whether the pass measures the data and changes weights accordingly: it finds something to improve each time."""
    return PASSES[name].tolerance is None and "data" in {field.name for field in dataclasses.fields(PASSES[name])}


@pytest.mark.parametrize(("name", "tiny"), cases())
def test_laws(name: str, tiny: str):
    model = prepared(name, tiny)
    kept, was_dead, bytes_before = interface(model), dead(model), serialised(model)
    expected = outputs(model) if PASSES[name].tolerance is not None else None

    result = make(name, model)(model)

    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    if expected is not None:
        assert disagreement(expected, outputs(model)) <= allowed(PASSES[name].tolerance, model)
    assert interface(model) == kept, "inputs and outputs keep name, type and shape"
    assert dead(model) <= was_dead, "a pass leaves nothing dead behind"
    bytes_after = serialised(model)
    if not result.changes:
        assert bytes_after == bytes_before, "a pass that reports no change makes none"

    twin = prepared(name, tiny)
    make(name, twin)(twin)
    assert serialised(twin) == bytes_after, "two runs give the same bytes"

    if improves_on_data(name):
        return
    again = make(name, model)(model)
    assert not again.changes, f"a second application changes nothing, but: {again.changes[:3]}"


@pytest.mark.parametrize("tiny", TINY)
def test_the_whole_spelling_agrees_for_other_batch_sizes(tiny: str):
    model, spelt = TINY[tiny](), TINY[tiny]()
    for name in SPELLING:
        make(name, spelt)(spelt)
    for size in (1, 4):
        feeds = inputs(model, seed=5, open_dimension=size)
        expected = session(model, optimization="none", threads=1).run(None, feeds)
        found = session(spelt, optimization="basic", threads=1).run(None, feeds)
        assert disagreement(expected, found) <= allowed(1e-5, model)

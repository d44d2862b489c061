"""The Llama graph against numpy written from its equations, against itself in two steps, and rotated."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from models import llama
from qonnx.runtime import session

SHAPE = llama.Shape(layers=2, heads=4, groups=2, head_width=16)
ARRAYS = llama.random_arrays(SHAPE, tokens=40, width=64, inner=96)
# A float32 product over 96 inputs errs by about √96 · 2⁻²⁴ relative to its norm; some twenty follow one another.
CLOSE = 20 * 96**0.5 * 2**-24


def feeds(ids: np.ndarray, past: list[np.ndarray] | None = None, mask: np.ndarray | None = None) -> dict:
    batch, sequence = ids.shape
    past = past or [np.zeros((batch, SHAPE.groups, 0, SHAPE.head_width), np.float32)] * (2 * SHAPE.layers)
    before = past[0].shape[2]
    names = [f"past_key_values.{i}.{kind}" for i in range(SHAPE.layers) for kind in ("key", "value")]
    return {
        "input_ids": ids,
        "attention_mask": np.ones((batch, before + sequence), np.int64) if mask is None else mask,
        "position_ids": np.broadcast_to(np.arange(before, before + sequence), ids.shape).copy(),
        **dict(zip(names, past, strict=True)),
    }


def run(model: ir.Model, *given) -> list[np.ndarray]:
    return session(model, optimization="none", threads=1).run(None, feeds(*given))


def ids(batch: int, sequence: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 40, (batch, sequence))


def difference(expected: np.ndarray, found: np.ndarray) -> float:
    return float(abs(expected - found).max() / abs(expected).max())


def expected_logits(arrays: llama.Arrays, tokens: np.ndarray) -> np.ndarray:
    """One sequence [n] in float64, query by query: no batches, no past, rotations as complex numbers."""
    a = {name: array.astype(np.float64) for name, array in arrays.items()}
    half = SHAPE.head_width // 2
    turn = np.exp(1j * np.outer(np.arange(len(tokens)), SHAPE.theta ** (-np.arange(half) / half)))

    def norm(x: np.ndarray, gains: np.ndarray) -> np.ndarray:
        return gains * x / np.sqrt((x**2).mean(-1, keepdims=True) + SHAPE.epsilon)

    def turned(head: np.ndarray) -> np.ndarray:
        pairs = (head[:, :half] + 1j * head[:, half:]) * turn
        return np.concatenate([pairs.real, pairs.imag], axis=1)

    x = a["embed"][tokens]
    for i in range(SHAPE.layers):
        n = norm(x, a[f"{i}.norm1"])
        q, k, v = (np.split(n @ a[f"{i}.{kind}"], heads, axis=1) for kind, heads in (("q", 4), ("k", 2), ("v", 2)))
        mixed = np.zeros((len(tokens), SHAPE.heads * SHAPE.head_width))
        for head in range(SHAPE.heads):
            group = head // 2
            scores = turned(q[head]) @ turned(k[group]).T / SHAPE.head_width**0.5
            for row in range(len(tokens)):
                weights = np.exp(scores[row, : row + 1] - scores[row, : row + 1].max())
                mixed[row, head * 16 : head * 16 + 16] = weights @ v[group][: row + 1] / weights.sum()
        x = x + mixed @ a[f"{i}.o"]
        n = norm(x, a[f"{i}.norm2"])
        gate = n @ a[f"{i}.gate"]
        x = x + (gate / (1 + np.exp(-gate)) * (n @ a[f"{i}.up"])) @ a[f"{i}.down"]
    return norm(x, a["final_norm"]) @ a["embed"].T


@pytest.fixture(scope="module")
def model() -> ir.Model:
    return llama.build(ARRAYS, SHAPE)


def test_logits_are_those_of_the_equations(model):
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    tokens = ids(1, 7)
    assert difference(expected_logits(ARRAYS, tokens[0]), run(model, tokens)[0][0]) < CLOSE


def test_two_steps_through_the_past_equal_one(model):
    tokens = ids(3, 6)
    whole, *present = run(model, tokens)
    first, *past = run(model, tokens[:, :4])
    second, *both = run(model, tokens[:, 4:], past)
    assert difference(whole, np.concatenate([first, second], axis=1)) < CLOSE
    assert all(difference(a, b) < CLOSE for a, b in zip(present, both, strict=True))


def test_padding_on_the_left_is_not_seen(model):
    tokens = ids(1, 5)
    plain = feeds(tokens)
    padded = feeds(np.concatenate([[[9, 9]], tokens], axis=1), None, np.array([[0, 0, 1, 1, 1, 1, 1]]))
    padded["position_ids"] = np.array([[0, 0, 0, 1, 2, 3, 4]])
    opened = session(model, optimization="none", threads=1)
    expected, found = (opened.run(["logits"], given)[0] for given in (plain, padded))
    assert difference(expected, found[:, 2:]) < CLOSE
    padded["attention_mask"][:] = 1
    assert difference(expected, opened.run(["logits"], padded)[0][:, 2:]) > 0.01, "the mask is what hides it"


@pytest.mark.parametrize("sequence", [1, 6])
def test_a_rotation_of_the_residual_stream_keeps_the_function_and_changes_the_weights(model, sequence):
    rotation = llama.orthogonal(64, seed=3)
    assert abs(rotation @ rotation.T - np.eye(64)).max() < 64 * 2**-52 * 8
    rotated = llama.rotate(llama.fold_gains(ARRAYS), rotation)
    assert not any(name.endswith(("norm1", "norm2", "final_norm")) for name in rotated)
    assert all(difference(ARRAYS[name], rotated[name]) > 0.1 for name in set(ARRAYS) & set(rotated))
    tokens = ids(2, sequence)
    for expected, found in zip(run(model, tokens), run(llama.build(rotated, SHAPE), tokens), strict=True):
        assert difference(expected, found) < CLOSE


def test_gains_left_in_are_refused():
    with pytest.raises(ValueError, match="'norm1' does not commute"):
        llama.rotate({"0.norm1": np.ones(64)}, np.eye(64))

"""The BERT graph against numpy written from its equations, its padding, and tensors read from saved files."""

from __future__ import annotations

import math
import pickle
import sys
import types
import zipfile

import numpy as np
import pytest
from scipy.special import erf

from models import antiberty, bert, torch_file
from qonnx.errors import QonnxError
from qonnx.runtime import session

SHAPE = bert.Shape(layers=2, heads=4, epsilon=1e-6)
ARRAYS = bert.random_arrays(SHAPE, tokens=30, positions=20, width=64, inner=96)
# A float32 product over 96 inputs errs by about √96 · 2⁻²⁴ relative to its norm; some twenty follow one another.
CLOSE = 20 * 96**0.5 * 2**-24


def run(ids: np.ndarray, mask: np.ndarray) -> list[np.ndarray]:
    model = bert.build(ARRAYS, SHAPE)
    return session(model, optimization="none", threads=1).run(None, {"input_ids": ids, "attention_mask": mask})


def expected(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits and embeddings of one sequence in float64, head by head."""
    a = {name: array.astype(np.float64) for name, array in ARRAYS.items()}

    def layer(name: str, x: np.ndarray) -> np.ndarray:
        return x @ a[name] + a[f"{name}.bias"]

    def norm(name: str, x: np.ndarray) -> np.ndarray:
        unit = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + SHAPE.epsilon)
        return unit * a[f"{name}.gain"] + a[f"{name}.bias"]

    def gelu(x: np.ndarray) -> np.ndarray:
        return x * 0.5 * (1 + erf(x / math.sqrt(2)))

    x = norm("norm", a["tokens"][tokens] + a["positions"][: len(tokens)] + a["types"][0])
    for i in range(SHAPE.layers):
        heads = []
        for q, k, v in zip(*(np.split(layer(f"{i}.{n}", x), SHAPE.heads, axis=1) for n in "qkv"), strict=True):
            weights = np.exp(q @ k.T / math.sqrt(q.shape[1]))
            heads.append(weights / weights.sum(-1, keepdims=True) @ v)
        x = norm(f"{i}.norm1", x + layer(f"{i}.o", np.concatenate(heads, axis=1)))
        x = norm(f"{i}.norm2", x + layer(f"{i}.down", gelu(layer(f"{i}.up", x))))
    return norm("head.norm", gelu(layer("head", x))) @ a["tokens"].T + a["scores.bias"], x


def test_the_graph_is_the_equations():
    ids = np.random.default_rng(1).integers(0, 30, (2, 11))
    logits, embeddings = run(ids, np.ones_like(ids))
    for row in range(2):
        for found, want in zip((logits[row], embeddings[row]), expected(ids[row]), strict=True):
            assert abs(found - want).max() <= CLOSE * abs(want).max()


def test_padding_is_not_seen():
    ids = np.random.default_rng(2).integers(0, 30, (1, 9))
    padded = np.pad(ids, ((0, 0), (0, 5)), constant_values=7)
    alone, beside = run(ids, np.ones_like(ids)), run(padded, (np.arange(14) < 9).astype(np.int64)[None])
    for one, other in zip(alone, beside, strict=True):
        np.testing.assert_allclose(other[:, :9], one, atol=CLOSE * abs(one).max())


def saved(file, state: dict, monkeypatch) -> None:
    """`state` as torch.save writes it, by stand-ins for torch's names."""
    names = types.ModuleType("torch"), types.ModuleType("torch._utils")
    storage = type("FloatStorage", (), {"__module__": "torch"})

    def _rebuild_tensor_v2(*_):
        raise AssertionError("only its name is written")

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    names[0].FloatStorage, names[1]._rebuild_tensor_v2 = storage, _rebuild_tensor_v2
    for module in names:
        monkeypatch.setitem(sys.modules, module.__name__, module)

    class Storage:
        def __init__(self, key: str, size: int):
            self.key, self.size = key, size

    class Tensor:
        def __init__(self, key: str, array: np.ndarray):
            self.key, self.array = key, array

        def __reduce__(self):
            steps = tuple(stride // 4 for stride in self.array.strides)
            kept = Storage(self.key, self.array.size)
            return _rebuild_tensor_v2, (kept, 0, self.array.shape, steps, False, {})

    class Pickler(pickle.Pickler):
        def persistent_id(self, given):
            return ("storage", storage, given.key, "cpu", given.size) if isinstance(given, Storage) else None

    with zipfile.ZipFile(file, "w") as archive:
        for key, array in state.items():
            if isinstance(array, np.ndarray):
                archive.writestr(f"archive/data/{key}", array.tobytes(order="A"))
        with archive.open("archive/data.pkl", "w") as handle:
            named = {k: Tensor(k, v) if isinstance(v, np.ndarray) else v for k, v in state.items()}
            Pickler(handle, protocol=2).dump(named)


def test_tensors_come_back_with_their_strides(tmp_path, monkeypatch):
    straight = np.arange(12, dtype=np.float32).reshape(3, 4)
    state = {"a": straight, "b": np.asfortranarray(straight), "step": 3}
    saved(tmp_path / "state.bin", state, monkeypatch)
    found = torch_file.arrays(tmp_path / "state.bin")
    assert sorted(found) == ["a", "b"]
    for name in found:
        np.testing.assert_array_equal(found[name], straight)


def test_anything_else_in_a_pickle_is_refused(tmp_path, monkeypatch):
    saved(tmp_path / "state.bin", {"x": types.SimpleNamespace(y=1)}, monkeypatch)
    with pytest.raises(QonnxError, match=r"not types\.SimpleNamespace"):
        torch_file.arrays(tmp_path / "state.bin")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    with pytest.raises(QonnxError, match="holds no data"):
        torch_file.arrays(tmp_path / "empty.zip")


@pytest.mark.real
def test_the_real_encoder_fills_in_residues():
    scores = antiberty.evaluate(antiberty.path(), count=8)
    assert scores["embedding_sqnr_db"] == float("inf") and scores["same_residue"] == 1
    assert scores["float_true_residue"] > 0.7  # a twentieth by chance


@pytest.mark.real
def test_splits_share_no_sequence():
    drawn = [set(antiberty.sequences(split, 300)) for split in antiberty.SPLITS]
    assert not drawn[0] & drawn[1] and not drawn[0] & drawn[2] and not drawn[1] & drawn[2]
    with pytest.raises(QonnxError, match="no split 'test'"):
        antiberty.sequences("test", 1)

"""Text on the demo page: which inputs are tokens, what ids mean, and the page's own tokenizer in node and a browser."""

from __future__ import annotations

import json
import pathlib
import subprocess

import numpy as np
import onnx_ir as ir
import pytest

from models.tiny import build
from qonnx.__main__ import main
from qonnx.conversion import convert
from qonnx.data import Input, inputs_of
from qonnx.demo_text import text_input
from qonnx.errors import QonnxError
from qonnx.runtimes import RUNTIMES
from qonnx.runtimes.node import program

PAGE = pathlib.Path(__file__).parent.parent / "qonnx" / "demo_page"
VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "quant", "##ize", "##d", "models", "are", "small", ".", "ü", "日")
READER = """
<ir_version: 10, opset_import: ["": 21]>
g (int64[N,L] input_ids, int64[N,L] attention_mask, float[13,32] table, float[32,64] w1, float[64,13] w2)
 => (float[N,L,13] y)
{
  e = Gather(table, input_ids)
  m = Cast<to = 1>(attention_mask)
  axis = Constant<value_ints = [-1]>()
  n = Unsqueeze(m, axis)
  a = Mul(e, n)
  b = MatMul(a, w1)
  c = Relu(b)
  y = MatMul(c, w2)
}
"""
ONE = [Input("input_ids", np.dtype(np.int64), (1, 8))]


def test_inputs_are_known_by_their_names():
    names = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
    found = text_input([Input(name, np.dtype(np.int64), (1, None)) for name in names], VOCABULARY)
    assert [role for _, role, _ in found.inputs] == ["ids", "mask", "types", "positions"]
    assert (found.pad, found.unknown, found.first, found.last, found.length) == (0, 1, 2, 3, None)
    assert text_input(ONE).length == 8 and text_input(ONE).first is None
    assert text_input([Input("x", np.dtype(np.float32), (1, 8))]) is None
    assert text_input([Input("x", np.dtype(np.int64), (1, 8, 3))]) is None
    with pytest.raises(QonnxError, match="which of the inputs a, b are token ids"):
        text_input([Input(name, np.dtype(np.int64), (1, 8)) for name in "ab"])


def test_ids_become_text_without_marks():
    assert text_input(ONE, VOCABULARY).decode([2, 4, 5, 6, 7, 10, 3, 0, 0]) == "quantized models ."
    assert text_input(ONE).decode([*"größe".encode(), 0, 0]) == "größe"


def in_node(text: str, how: dict, folder: pathlib.Path) -> dict:
    """encode() of the page's text.js, run by node."""
    (folder / "text.mjs").write_text((PAGE / "text.js").read_text(encoding="utf-8"), encoding="utf-8")
    call = f"encode({json.dumps(text)}, {json.dumps(how)})"
    call = f"import {{ encode }} from './text.mjs'; console.log(JSON.stringify({call}))"
    (folder / "call.mjs").write_text(call, encoding="utf-8")
    done = subprocess.run([program(), "call.mjs"], cwd=folder, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.skipif(program() is None, reason="node is not installed")
@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("quantized models", [2, 4, 5, 6, 7, 3]),
        ("Quantize, models are SMALL.", [2, 4, 5, 1, 7, 8, 9, 10, 3]),
        ("smaller ü 日", [2, 1, 11, 12, 3]),
        ("", [2, 3]),
    ],
)
def test_words_are_cut_into_the_longest_tokens(text, ids, tmp_path):
    how = {"vocabulary": VOCABULARY, "length": None, "first": 2, "last": 3, "unknown": 1, "pad": 0}
    assert in_node(text, how, tmp_path) == {"ids": ids, "count": len(ids)}
    padded = in_node(text, {**how, "length": 5}, tmp_path)
    assert len(padded["ids"]) == 5 and padded["count"] == min(len(ids), 5)
    assert padded["ids"][padded["count"] - 1] == 3, "the mark of the end is never cut off"


@pytest.mark.skipif(program() is None, reason="node is not installed")
def test_without_a_vocabulary_ids_are_bytes(tmp_path):
    how = {"vocabulary": [], "length": None, "first": None, "last": None, "unknown": None, "pad": None}
    assert in_node("größe", how, tmp_path)["ids"] == list("größe".encode())
    assert in_node("", how, tmp_path) == {"ids": [0], "count": 1}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """(float file, quantized file, samples file, vocabulary file) of a model that guesses the next token."""
    folder = tmp_path_factory.mktemp("text")
    model = build(READER)
    assert [one.name for one in inputs_of(model)] == ["input_ids", "attention_mask"]
    ir.save(model, folder / "float.onnx")
    convert(folder / "float.onnx", output=folder / "w8.onnx", quiet=True, threads=1)
    ids = np.array([[2, 4, 5, 6, 7, 8, 9, 10, 3]], np.int64)
    np.savez(folder / "data.npz", input_ids=ids, attention_mask=np.ones_like(ids))
    (folder / "vocabulary.txt").write_text("\n".join(VOCABULARY), encoding="utf-8")
    return folder


def command(folder: pathlib.Path, out: pathlib.Path, *more: str) -> list[str]:
    words = ["demo", str(folder / "float.onnx"), str(folder / "w8.onnx"), "--data", str(folder / "data.npz")]
    return [*words, "--vocabulary", str(folder / "vocabulary.txt"), "-o", str(out), *more]


def test_the_page_is_told_how_to_read(pair, tmp_path, monkeypatch):
    dist = tmp_path / "node_modules" / "onnxruntime-web" / "dist"
    dist.mkdir(parents=True)
    for name in ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"):
        (dist / name).touch()
    assert main(command(pair, tmp_path / "out", "--node-modules", str(tmp_path / "node_modules"))) == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert config["samples"] == [{"text": "quantized models are small ."}]
    assert config["view"] == "next" and tuple(config["text"]["vocabulary"]) == VOCABULARY
    assert config["text"]["inputs"] == [["input_ids", "ids", "int64"], ["attention_mask", "mask", "int64"]]


@pytest.mark.runtimes
@pytest.mark.skipif(bool(RUNTIMES["ort-web"].missing(None)), reason=RUNTIMES["ort-web"].missing(None))
def test_words_run_through_both_models_in_a_browser(pair, tmp_path, capsys):
    picture = tmp_path / "page.png"
    assert main(command(pair, tmp_path / "out", "--screenshot", str(picture))) == 0
    assert "in the browser: float" in capsys.readouterr().out and picture.stat().st_size > 5000

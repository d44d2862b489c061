"""The demo folder: complete, self-contained, and working in a headless browser where there is one."""

from __future__ import annotations

import json
import re

import numpy as np
import onnx_ir as ir
import pytest
from PIL import Image

from models.tiny import build, inputs
from qonnx.__main__ import main
from qonnx.conversion import convert
from qonnx.demo_folder import _SCRIPTS, _view, photograph, write_demo
from qonnx.errors import QonnxError
from qonnx.preprocess import preprocess
from qonnx.runtimes import RUNTIMES
from tests.test_runtimes import NETWORK


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    model = build(NETWORK)
    ir.save(model, folder / "float.onnx")
    samples = [inputs(model, seed, open_dimension=1) for seed in range(3)]
    convert(folder / "float.onnx", data=samples, output=folder / "w8a8.onnx", quiet=True)
    np.savez(folder / "data.npz", x=np.concatenate([sample["x"] for sample in samples]))
    return folder / "float.onnx", folder / "w8a8.onnx", samples


@pytest.fixture
def modules(tmp_path):
    """A node_modules folder with files of the package's names."""
    dist = tmp_path / "node_modules" / "onnxruntime-web" / "dist"
    dist.mkdir(parents=True)
    for name in _SCRIPTS:
        (dist / name).write_text(name)
    return tmp_path / "node_modules"


def test_the_folder_holds_all_that_the_page_asks_for_and_nothing_of_the_network(pair, modules, tmp_path):
    made = write_demo(*pair, tmp_path / "out", preprocess=preprocess("imagenet"), node_modules=modules)
    config = json.loads((made.folder / "config.json").read_text())
    asked = {row["file"] for row in (*config["models"], *config["samples"])}
    script = (made.folder / "demo.js").read_text()
    asked |= {"index.html", "demo.css", "demo.js", "text.js", *(f"ort/{name}" for name in _SCRIPTS)}
    there = {str(p.relative_to(made.folder)) for p in made.folder.rglob("*") if p.is_file()}
    assert there == asked | {"config.json"}
    for file in ("index.html", "demo.js", "text.js", "demo.css"):
        assert not re.search(r"https?://", (made.folder / file).read_text()), "no network"
    assert "./ort/ort.wasm.min.mjs" in script
    assert made.bytes == sum((made.folder / name).stat().st_size for name in there)
    assert (config["view"], config["prepare"]["height"], config["prepare"]["mean"][0]) == ("classes", 16, 0.485)
    sample = np.fromfile(made.folder / config["samples"][1]["file"], "<f4").reshape(config["samples"][1]["shape"])
    np.testing.assert_array_equal(sample, pair[2][1]["x"])
    with pytest.raises(QonnxError, match="--force"):
        write_demo(*pair, tmp_path / "out", node_modules=modules)


def test_views_follow_the_shape_of_the_output():
    assert _view(np.zeros((1, 1, 8, 8)), ()) == "map"
    assert _view(np.zeros((1, 40, 5)), ("", "a", "b", "c", " ")) == "text"
    assert _view(np.zeros((1, 10)), ()) == "classes"
    assert _view(np.zeros((1, 3, 8, 8)), ()) == "numbers"


def test_what_is_missing_is_said(pair, tmp_path, monkeypatch):
    monkeypatch.delenv("QONNX_NODE_MODULES", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(QonnxError, match="npm install onnxruntime-web"):
        write_demo(*pair, tmp_path / "out")
    assert main(["demo", str(pair[0]), str(pair[1]), "-o", str(tmp_path / "out")]) == 2
    two = ir.from_onnx_text(
        '<ir_version: 10, opset_import: ["": 21]>\ng (float[2] a, float[2] b) => (float[2] y) { y = Add(a, b) }'
    )
    ir.save(two, tmp_path / "two.onnx")
    (tmp_path / "node_modules" / "onnxruntime-web" / "dist").mkdir(parents=True)
    for name in _SCRIPTS:
        (tmp_path / "node_modules" / "onnxruntime-web" / "dist" / name).touch()
    with pytest.raises(QonnxError, match="one float32 input"):
        write_demo(tmp_path / "two.onnx", tmp_path / "two.onnx", [], tmp_path / "out")


def test_two_models_that_are_no_pair_are_refused(pair, modules, tmp_path):
    renamed = ir.load(pair[0])
    renamed.graph.outputs[0].name = "other"
    ir.save(renamed, tmp_path / "renamed.onnx")
    with pytest.raises(QonnxError, match="the float model has no output 'y'"):
        write_demo(tmp_path / "renamed.onnx", *pair[1:], tmp_path / "out", node_modules=modules)
    with pytest.raises(QonnxError, match="is a file"):
        write_demo(*pair, tmp_path / "renamed.onnx", node_modules=modules)


@pytest.mark.runtimes
@pytest.mark.skipif(bool(RUNTIMES["ort-web"].missing(None)), reason=RUNTIMES["ort-web"].missing(None))
def test_the_page_runs_both_models_in_a_browser(pair, tmp_path, capsys):
    words = [
        "demo",
        str(pair[0]),
        str(pair[1]),
        "--data",
        str(pair[0].parent / "data.npz"),
        "-o",
        str(tmp_path / "out"),
    ]
    assert main([*words, "--preprocess", "imagenet", "--screenshot", str(tmp_path / "page.png")]) == 0
    assert "in the browser: float" in capsys.readouterr().out
    picture = Image.open(tmp_path / "page.png")
    assert picture.size == (1000, 800)
    assert len(picture.convert("RGB").getcolors(1 << 24)) > 20, "something is drawn"
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    (tmp_path / "out" / "config.json").write_text(json.dumps({**config, "output": "nothing"}))
    with pytest.raises(QonnxError, match="the page failed"):
        photograph(tmp_path / "out", tmp_path / "again.png")

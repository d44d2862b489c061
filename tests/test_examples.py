"""The examples run: the calibration reader, the gate, and the TensorRT recipe with ONNX Runtime in its place."""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from polygraphy.json import save_json

from models import digits

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"


@pytest.fixture
def here(tmp_path, monkeypatch):
    shutil.copyfile(digits.CNN, tmp_path / "model.onnx")
    images, _ = digits.samples("calibration", 16)
    np.savez(tmp_path / "data.npz", image=images)
    np.savez(tmp_path / "test.npz", image=images[:8])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def environment() -> dict[str, str]:
    """One in which `qonnx`, `polygraphy` and `python` are those of this interpreter."""
    programs = str(pathlib.Path(sys.executable).parent)
    root = str(EXAMPLES.parent)
    return {**os.environ, "PATH": os.pathsep.join([programs, os.environ["PATH"]]), "PYTHONPATH": root}


def run(words: list[str], **more: str) -> subprocess.CompletedProcess:
    return subprocess.run(words, capture_output=True, text=True, env={**environment(), **more}, check=False)


def test_a_calibration_reader_of_onnx_runtime_is_data(here):
    done = run([sys.executable, str(EXAMPLES / "calibration_reader.py"), "model.onnx", "data.npz", "out.onnx"])
    assert done.returncode == 0, done.stderr
    assert re.match(r"out.onnx: SQNR \d+\.\d dB", done.stdout)


@pytest.mark.slow
def test_the_commands_of_the_gate_run(here):
    text = (EXAMPLES / "github-action" / "action.yml").read_text()
    steps = re.findall(r"run: \|\n((?: {8}.*\n)+)", text)
    assert len(steps) == 2
    qonnx = shutil.which("qonnx", path=environment()["PATH"])
    assert run([qonnx, "convert", "model.onnx", "--data", "data.npz", "-o", "q.onnx", "--quiet"]).returncode == 0
    given = {"FLOAT": "model.onnx", "QUANTIZED": "q.onnx", "DATA": "test.npz", "MAX_DROP": "0.5", "RUNTIMES": "ort"}
    for name in set(re.findall(r"\$\{?([A-Z_]+)", "".join(steps))):
        assert name in given and f"{name}: ${{{{ inputs." in text
    for step in steps:
        done = run(["bash", "-euo", "pipefail", "-c", step], **given)
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_tensorrt_recipe_up_to_the_engine(here):
    """TensorRT needs a GPU: its runner is replaced by ONNX Runtime's, everything else is as written."""
    script = (EXAMPLES / "tensorrt.sh").read_text()
    assert "--trt --strongly-typed --save-engine model.engine" in script
    (here / "recipe.sh").write_text(script.replace("--trt --strongly-typed --save-engine model.engine", "--onnxrt"))
    shutil.copyfile(digits.VIT, here / "model.onnx")
    images, _ = digits.samples("evaluation", 1)
    save_json([{digits.INPUT: images}], "test.json")
    done = run(["bash", "recipe.sh", "model.onnx", "data.npz", "test.json"])
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "PASSED" in done.stdout

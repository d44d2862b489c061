"""The pass for Olive: registered among its own, fed by a path or by Olive's data, and what it measured is kept."""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import onnx
import pytest

from models import digits

ROOT = pathlib.Path(__file__).parent.parent
there = pytest.mark.skipif(importlib.util.find_spec("olive") is None, reason="Olive is not installed (pip olive-ai)")


@pytest.mark.skipif(importlib.util.find_spec("olive") is not None, reason="Olive is installed")
def test_without_olive_the_import_says_how_to_get_it():
    from qonnx.errors import QonnxError

    with pytest.raises(QonnxError, match="pip install olive-ai"):
        importlib.import_module("qonnx.olive_pass")


@there
def test_the_flow_of_the_example_runs(tmp_path):
    images, _ = digits.samples("calibration", 16)
    np.savez(tmp_path / "samples.npz", **{digits.INPUT: images})
    words = [sys.executable, str(ROOT / "examples" / "olive_flow.py"), str(digits.CNN)]
    words += [str(tmp_path / "samples.npz"), str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    (made,) = (tmp_path / "out").glob("*.onnx")
    assert "QuantizeLinear" in {node.op_type for node in onnx.load(made).graph.node}
    attributes = json.loads((tmp_path / "out" / "model_config.json").read_text())["config"]["model_attributes"]
    assert attributes["qonnx"]["target"] == "ort-cpu" and attributes["qonnx"]["sqnr"].endswith("dB")


@there
def test_data_configurations_of_olive_are_data(tmp_path):
    from olive.hardware import DEFAULT_CPU_ACCELERATOR
    from olive.model import ONNXModelHandler
    from olive.passes.olive_pass import create_pass_from_dict

    from qonnx.errors import QonnxError
    from qonnx.olive_pass import QonnxConvert

    (tmp_path / "raw" / digits.INPUT).mkdir(parents=True)
    for index, image in enumerate(digits.samples("calibration", 12)[0]):
        image.tofile(tmp_path / "raw" / digits.INPUT / f"{index}.bin")
    given = {"data_dir": str(tmp_path / "raw"), "input_names": [digits.INPUT], "input_shapes": [[1, 8, 8]]}
    raw = {"name": "raw", "type": "RawDataContainer", "load_dataset_config": {"params": given}}
    made = create_pass_from_dict(QonnxConvert, {"data_config": raw}, True, DEFAULT_CPU_ACCELERATOR)
    found = made.run(ONNXModelHandler(str(digits.CNN)), str(tmp_path / "out"))
    assert "QuantizeLinear" in {node.op_type for node in onnx.load(found.model_path).graph.node}
    both = {"data_config": raw, "data": "samples.npz"}
    made = create_pass_from_dict(QonnxConvert, both, True, DEFAULT_CPU_ACCELERATOR)
    with pytest.raises(QonnxError, match="leave one of them out"):
        made.run(ONNXModelHandler(str(digits.CNN)), str(tmp_path / "again"))

"""What a deploy needs: the native library copied, and the C++ example built against it and run without Python."""

from __future__ import annotations

import json
import pathlib
import shutil
import subprocess
from importlib import metadata

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from models import digits
from models.tiny import inputs
from qonnx.__main__ import main
from qonnx.conversion import convert
from qonnx.custom_ops import DISTRIBUTION, library_path
from qonnx.custom_ops.ops import OPS
from qonnx.runtime import session
from tests.low_bit_cases import model_of, weight_of

SOURCE = pathlib.Path(__file__).parent.parent / "examples" / "cpp" / "run_model.cpp"
COMPILER = shutil.which("c++") or shutil.which("g++")
RUNTIME = next(iter(sorted(pathlib.Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so*"))), None)
native = pytest.mark.skipif(library_path() is None, reason="the native library is not built")


def test_operators_are_listed(capsys):
    assert main(["ops"]) == 0
    assert "MatMulLowBit" in capsys.readouterr().out
    assert main(["ops", "--json"]) == 0
    names = {row["name"] for row in json.loads(capsys.readouterr().out)["operators"]}
    assert names == {op.name for op in OPS.values() if op.body is not None}


def test_without_a_library_the_copy_says_why(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("QONNX_OPS_LIBRARY", "")
    assert main(["ops", "--copy", str(tmp_path)]) == 2
    assert "C++ compiler" in capsys.readouterr().err


@native
def test_the_copied_library_is_the_one_that_loads(tmp_path):
    for _ in range(2):  # the second copy replaces the first
        assert main(["ops", "--copy", str(tmp_path / "deploy")]) == 0
    names = {path.name for path in (tmp_path / "deploy").iterdir()}
    assert names == {pathlib.Path(library_path()).name, "ort_abi.h"}
    onnxruntime.SessionOptions().register_custom_ops_library(
        str(tmp_path / "deploy" / pathlib.Path(library_path()).name)
    )


def _built(folder: pathlib.Path) -> pathlib.Path:
    """The C++ example, built against what `qonnx ops --copy` put into `folder`."""
    flags = ["-std=c++20", "-Wall", "-Werror", f"-I{folder}"]
    subprocess.run([COMPILER, *flags, str(SOURCE), "-ldl", "-o", str(folder / "run")], check=True)
    return folder / "run"


buildable = pytest.mark.skipif(
    COMPILER is None or RUNTIME is None, reason="needs a C++ compiler and ONNX Runtime's shared library"
)


@native
@pytest.mark.native
@buildable
def test_the_cpp_example_computes_what_python_does(tmp_path):
    model = model_of("MatMulLowBit", weight_of("b3", 24, 64, 32))
    ir.save(model, tmp_path / "model.onnx")
    x = inputs(model, 2, open_dimension=3)["x"]
    x.tofile(tmp_path / "in.bin")
    assert main(["ops", "--copy", str(tmp_path)]) == 0
    program = _built(tmp_path)
    words = [tmp_path / "model.onnx", "x".join(map(str, x.shape)), tmp_path / "in.bin", tmp_path / "out.bin"]
    expected = session(tmp_path / "model.onnx").run(None, {"x": x})[0]
    for library in (str(tmp_path / pathlib.Path(library_path()).name), "-"):
        done = subprocess.run([program, RUNTIME, library, *words], capture_output=True, text=True, check=True)
        assert "x -> y" in done.stdout
        found = np.fromfile(tmp_path / "out.bin", np.float32).reshape(expected.shape)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    done = subprocess.run([program, RUNTIME, "-", "nothing.onnx", *words[1:]], capture_output=True, text=True)
    assert done.returncode == 1 and "nothing.onnx" in done.stderr


@pytest.mark.native
@buildable
def test_a_converted_model_runs_on_the_library_of_the_installed_wheel(tmp_path, monkeypatch):
    """What a deploy does: library and header out of the installed package, a model out of `convert`, no Python."""
    monkeypatch.delenv("QONNX_OPS_LIBRARY", raising=False)
    installed = [
        file for file in metadata.distribution(DISTRIBUTION).files or () if file.name.startswith("libqonnx_ops")
    ]
    if not installed:
        pytest.skip("the installed package has no native library: there was no compiler")
    assert main(["ops", "--copy", str(tmp_path)]) == 0
    library = tmp_path / installed[0].name
    assert library.read_bytes() == pathlib.Path(installed[0].locate()).read_bytes()
    convert(digits.VIT, recipe="weight-int3", output=tmp_path / "model.onnx", quiet=True, threads=1)
    assert "MatMulLowBit" in {node.op_type for node in ir.load(tmp_path / "model.onnx").graph}
    images, labels = digits.samples("evaluation", 12)
    program, right = _built(tmp_path), 0
    for image, label in zip(images, labels, strict=True):
        image.astype(np.float32).tofile(tmp_path / "in.bin")
        words = [tmp_path / "model.onnx", "1x1x8x8", tmp_path / "in.bin", tmp_path / "out.bin"]
        subprocess.run([program, RUNTIME, library, *words], capture_output=True, check=True)
        scores = np.fromfile(tmp_path / "out.bin", np.float32)
        expected = session(tmp_path / "model.onnx", threads=1).run(None, {digits.INPUT: image[None]})[0]
        np.testing.assert_allclose(scores, expected.reshape(-1), rtol=0, atol=1e-4)
        right += scores.argmax() == label
    assert right >= 8

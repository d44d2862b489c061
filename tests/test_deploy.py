"""What a deploy needs: the native library copied, and the C++ example built against it and run without Python."""

from __future__ import annotations

import json
import pathlib
import shutil
import subprocess

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from models.tiny import inputs
from qonnx.__main__ import main
from qonnx.custom_ops import library_path
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


@native
@pytest.mark.native
@pytest.mark.skipif(
    COMPILER is None or RUNTIME is None, reason="needs a C++ compiler and ONNX Runtime's shared library"
)
def test_the_cpp_example_computes_what_python_does(tmp_path):
    model = model_of("MatMulLowBit", weight_of("b3", 24, 64, 32))
    ir.save(model, tmp_path / "model.onnx")
    x = inputs(model, 2, open_dimension=3)["x"]
    x.tofile(tmp_path / "in.bin")
    assert main(["ops", "--copy", str(tmp_path)]) == 0
    build = [
        COMPILER,
        "-std=c++20",
        "-Wall",
        "-Werror",
        f"-I{tmp_path}",
        str(SOURCE),
        "-ldl",
        "-o",
        str(tmp_path / "run"),
    ]
    subprocess.run(build, check=True)
    words = [
        str(tmp_path / "model.onnx"),
        "x".join(map(str, x.shape)),
        str(tmp_path / "in.bin"),
        str(tmp_path / "out.bin"),
    ]
    expected = session(tmp_path / "model.onnx").run(None, {"x": x})[0]
    for library in (str(tmp_path / pathlib.Path(library_path()).name), "-"):
        done = subprocess.run([tmp_path / "run", RUNTIME, library, *words], capture_output=True, text=True, check=True)
        assert "x -> y" in done.stdout
        found = np.fromfile(tmp_path / "out.bin", np.float32).reshape(expected.shape)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    done = subprocess.run([tmp_path / "run", RUNTIME, "-", "nothing.onnx", *words[1:]], capture_output=True, text=True)
    assert done.returncode == 1 and "nothing.onnx" in done.stderr

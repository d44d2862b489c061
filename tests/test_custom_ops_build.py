"""Builds of the native library: with sanitizers, and what an install without a compiler does."""

import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


def run(command, **options):
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.sanitize
@pytest.mark.native
@pytest.mark.skipif(not (shutil.which("cmake") and shutil.which("g++")), reason="needs cmake and g++")
def test_kernels_pass_their_tests_under_address_and_undefined_behaviour_sanitizers(tmp_path):
    run(["cmake", "-S", str(ROOT / "custom_ops"), "-B", str(tmp_path), "-DQONNX_SANITIZE=ON"])
    run(["cmake", "--build", str(tmp_path), "--parallel", "2"])
    # libstdc++ too: Python does not load it first, and without it the sanitizer stops at the first C++ exception
    runtime = " ".join(run(["g++", f"-print-file-name={name}"]).strip() for name in ("libasan.so", "libstdc++.so"))
    environment = {
        **os.environ,
        "QONNX_OPS_LIBRARY": str(tmp_path / "libqonnx_ops.so"),
        "LD_PRELOAD": runtime,
        # Python itself frees little at its end; threads of ONNX Runtime outlive the test
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    }
    tests = [str(path) for path in sorted((ROOT / "tests").glob("test_kernels_*.py"))]
    tests.append(str(ROOT / "tests" / "test_custom_ops_observe.py"))
    run([sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests], env=environment, cwd=ROOT)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("scikit_build_core") is None, reason="needs the build back end")
def test_without_a_compiler_the_package_installs_and_says_so(tmp_path):
    environment = {**os.environ, "CXX": "/bin/false", "CC": "/bin/false"}
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    options = [f"--config-settings=build-dir={tmp_path / 'build'}", "--target", str(tmp_path / "site")]
    run([*pip, *options, str(ROOT)], env=environment)
    script = "import qonnx.custom_ops as c, qonnx.custom_ops.observe as o; print(c.library_path(), o.available())"
    path = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "QONNX_OPS_LIBRARY": ""}
    assert run([sys.executable, "-c", script], env=path, cwd=tmp_path).split() == ["None", "False"]
    assert not list((tmp_path / "site").rglob("*.so"))

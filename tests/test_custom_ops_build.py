"""Builds of the native library: what an install without a compiler does."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


def run(command, **options):
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


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

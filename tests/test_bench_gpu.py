"""The benchmark of products on a GPU: its models compute products anywhere; without a GPU it says what is missing."""

import re
import subprocess
import sys

import pytest

from qonnx.custom_ops import library_path
from qonnx.custom_ops.bench import gpu
from qonnx.custom_ops.cuda.device import missing
from qonnx.runtime import session


@pytest.mark.skipif(missing() == "", reason="this machine has a GPU")
def test_without_a_gpu_a_sentence_says_what_is_missing():
    command = [sys.executable, "-m", "qonnx.custom_ops.bench.gpu"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout == f"Nothing was measured: {missing()}.\n"


@pytest.mark.native
@pytest.mark.skipif(library_path() is None, reason="no native library")
@pytest.mark.parametrize("name", gpu.FORMATS)
def test_every_candidate_computes_the_product(name):
    lines = gpu.measure(name, 256, 48, 5, open_model=session, device="cpu", seconds=0.001, cache=30_000)
    errors = {line.split(": ")[0].split(" ", 3)[3]: float(re.search(r"error (\S+),", line)[1]) for line in lines}
    assert {"ours", "ours, int8", "cuBLAS"} <= set(errors) and ("MatMulNBits" in errors) == (name[1] in "48")
    bound = {"ours, int8": 0.03, "MatMulNBits": 0.03}  # the CPU's MatMulNBits rounds X to 8 bits too
    assert all(error < bound.get(key, 2e-3) for key, error in errors.items()), lines

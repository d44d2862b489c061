"""The benchmark on a GPU: its models compute the same anywhere; without a GPU it says what is missing."""

import re
import subprocess
import sys

import pytest

from qonnx.custom_ops import library_path, ops
from qonnx.custom_ops.bench import gpu, gpu_operators
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


# Small sizes, and the largest error of a candidate that rounds to 8 bits.
SIZES = {"attention": (2, 9, 20, 16), "rotation": (3, 96, 32), "rows": (5, 100), "gathering": (7, 64, 30)}


@pytest.mark.native
@pytest.mark.skipif(library_path() is None, reason="no native library")
@pytest.mark.parametrize("family", gpu_operators.FAMILIES)
def test_every_operator_and_its_peer_compute_what_they_should(family):
    lines = gpu.measure_operators(family, SIZES[family], open_model=session, device="cpu", seconds=0.001)
    errors = {line.split(": ")[0].split(" ", 2)[2]: float(re.search(r"error (\S+),", line)[1]) for line in lines}
    rounds = ("Quantize", "standard operators")
    assert all(error < (0.012 if any(r in key for r in rounds) else 2e-3) for key, error in errors.items()), lines


def test_every_operator_that_runs_on_a_gpu_is_measured():
    """Static products and quantizers on a logarithmic scale have no float node in their place."""
    made = [build(*SIZES[family]) for family, (build, _) in gpu_operators.FAMILIES.items()]
    measured = {node.op_type for family in made for candidate in family.values() for node in candidate.model.graph}
    products = {op for op in ops.OPS if "MatMul" in op or "LowBit" in op}
    assert set(ops.OPS) - measured - products == {
        "LogQuantize",
        "LogQuantizeDequantize",
        "LookupQuantize",
        "ObserveSink",
    }


def test_an_operator_that_computes_something_else_has_an_error():
    candidate = gpu_operators.rotation(3, 96, 32)["HadamardDynamicQuantize"]
    codes, scale = session(candidate.model).run(None, candidate.feeds)
    assert candidate.error([codes, scale]) < 0.012 < candidate.error([codes, scale[::-1]])

"""A node on the GPU computes without calls that a CUDA graph cannot hold: nothing allocated, copied or waited for."""

import ctypes
import pathlib
import re

import numpy as np
import pytest

from qonnx.runtime import session
from tests.cuda_build import CUDA, build, needs_compiler
from tests.operator_cases import EXAMPLES, Size, model_of

# Of the CUDA runtime, what computing may call: launches, which have no name here, and what only asks.
ALLOWED = {"cudaFuncSetAttribute", "cudaFuncAttributeMaxDynamicSharedMemorySize", "cudaGetLastError"}
ALLOWED |= {"cudaGetErrorString", "cudaSuccess", "cudaError_t"}
OPERATORS = [op for op in EXAMPLES if op not in ("ObserveSink", "ConvLowBit")]  # these run on the CPU


def test_only_one_file_calls_the_runtime_for_more_than_launches():
    files = [path for path in CUDA.iterdir() if path.suffix in (".cu", ".cuh", ".h", ".cc")]
    calls = {path.name: set(re.findall(r"\bcuda[A-Z]\w*", code_of(path))) - ALLOWED for path in files}
    assert {name for name, found in calls.items() if found} == {"runtime.cu"}


def code_of(path: pathlib.Path) -> str:
    return re.sub(r"//.*", "", path.read_text(encoding="utf-8"))


@pytest.fixture
def calls(monkeypatch):
    """How often nodes have called the emulated runtime so far."""
    path = build(plugin=True)
    monkeypatch.setenv("QONNX_OPS_LIBRARY", path)
    function = ctypes.CDLL(path).emulated_runtime_calls
    function.restype = ctypes.c_uint64
    return function


@needs_compiler
@pytest.mark.parametrize("op", OPERATORS)
def test_a_run_calls_nothing_of_the_runtime(calls, op):
    model, feeds = model_of(EXAMPLES[op](op, Size(dtype=np.float16, rank=4, lead=(9,))))
    opened = session(model)
    before = calls()
    for _ in range(2):
        opened.run(None, feeds)
    assert before and calls() == before


@needs_compiler
def test_a_weight_that_is_no_constant_is_noticed(calls):
    """It is packed and copied at each call, which the count above must see."""
    case = EXAMPLES["MatMulLowBit"]("MatMulLowBit", Size())
    model, feeds = model_of(type(case)(case.op, case.arrays, case.attributes, frozenset({"table", "bias"})))
    opened = session(model)
    before = calls()
    opened.run(None, feeds)
    assert calls() > before

"""Every operator of the CPU provider has its CUDA twin: the same name, types and optional inputs.

ONNX Runtime merges operators of one name that differ in types and provider; others it refuses, all of the library.
"""

import ctypes
import os
import pathlib
import subprocess
import sys

import pytest
from onnx.parser import parse_model

from qonnx.custom_ops import library_path
from tests.cuda_build import CUDA, build, needs_compiler

# Not among the CUDA operators. ObserveSink: the CPU's own is registered for both providers, on a copy in the host's
# memory. ConvLowBit has no CUDA kernel: ONNX Runtime runs it on the CPU and copies its image and result.
ON_THE_HOST = {"ObserveSink", "ConvLowBit"}
_PLAIN = '<ir_version: 10, opset_import: ["": 21]> g (float[1] x) => (float[1] y) { y = Neg(x) }'
_CREATE_DOMAIN, _ADD, _ADD_DOMAIN = 26, 27, 28  # slots of OrtApi
_POINTER = ctypes.c_void_p
_TEXT = ctypes.CFUNCTYPE(ctypes.c_char_p, _POINTER)
_COUNT = ctypes.CFUNCTYPE(ctypes.c_size_t, _POINTER)
_OF_INPUT = ctypes.CFUNCTYPE(ctypes.c_int, _POINTER, ctypes.c_size_t)


class CustomOp(ctypes.Structure):
    """The fields of OrtCustomOp up to the arity of outputs (custom_ops/ort_abi.h)."""

    _fields_ = (
        ("version", ctypes.c_uint32),
        ("create", _POINTER),
        ("name", _TEXT),
        ("provider", _TEXT),
        ("input_type", _OF_INPUT),
        ("inputs", _COUNT),
        ("output_type", _OF_INPUT),
        ("outputs", _COUNT),
        ("compute", _POINTER),
        ("destroy", _POINTER),
        ("input_arity", _OF_INPUT),
        ("output_arity", _OF_INPUT),
    )


def registered(library: str) -> list[tuple]:
    """(name, types and arities of inputs, of outputs) of each operator that the library adds to a domain of its own."""
    found = []

    @ctypes.CFUNCTYPE(_POINTER, _POINTER, _POINTER)
    def add(_, op):
        it = ctypes.cast(op, ctypes.POINTER(CustomOp)).contents
        inputs = tuple((it.input_type(op, i), it.input_arity(op, i)) for i in range(it.inputs(op)))
        outputs = tuple((it.output_type(op, i), it.output_arity(op, i)) for i in range(it.outputs(op)))
        found.append((it.name(op).decode(), inputs, outputs))

    @ctypes.CFUNCTYPE(_POINTER, _POINTER, _POINTER)
    def succeed(*_):
        return None

    slots = (_POINTER * 512)()
    for slot, function in ((_CREATE_DOMAIN, succeed), (_ADD, add), (_ADD_DOMAIN, succeed)):
        slots[slot] = ctypes.cast(function, _POINTER)
    get_api = ctypes.CFUNCTYPE(_POINTER, ctypes.c_uint32)(lambda _: ctypes.addressof(slots))
    base = (_POINTER * 2)(ctypes.cast(get_api, _POINTER), None)
    register = ctypes.CDLL(library).RegisterCustomOps
    register.restype, register.argtypes = _POINTER, (_POINTER, _POINTER)
    assert register(None, ctypes.addressof(base)) is None
    return found


def is_stale(library: str) -> bool:
    """True for a library built before the last edit of an adaptor: it says nothing about the sources."""
    sources = [path.stat().st_mtime for path in CUDA.parent.glob("cpu/*.cc")]
    return pathlib.Path(library).stat().st_mtime < max(sources)


@pytest.mark.native
@needs_compiler
@pytest.mark.skipif(library_path() is None, reason="no native library")
def test_cpu_and_cuda_operators_are_the_same():
    if is_stale(library_path()):
        pytest.skip("the native library is older than its sources: install it again")
    cpu = {op for op in registered(library_path()) if op[0] not in ON_THE_HOST}
    cuda = registered(build(plugin=True))
    assert len(cuda) == len(set(cuda)), "an operator is registered twice"
    assert set(cuda) == cpu


_REGISTER = """
import sys
import onnxruntime as ort
options = ort.SessionOptions()
options.register_custom_ops_library(sys.argv[1])
session = ort.InferenceSession(sys.argv[2], options, providers=ort.get_available_providers()[-2:])
print(session.get_providers()[-1])
"""


@needs_compiler
def test_onnx_runtime_takes_every_operator_for_its_cuda_provider(tmp_path):
    """With onnxruntime or onnxruntime-gpu, and with or without a GPU: types and arities fit, the session opens."""
    model = tmp_path / "model.onnx"
    model.write_bytes(parse_model(_PLAIN).SerializeToString())
    environment = {**os.environ, "QONNX_EMULATED_PROVIDER": "CUDAExecutionProvider"}
    command = [sys.executable, "-c", _REGISTER, build(plugin=True), str(model)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.stdout.split() == ["CPUExecutionProvider"], done.stderr[-2000:]

"""CUDAExecutionProvider: the CPU's takes its place where there is no GPU; on a GPU, the emulated device's cases."""

import numpy as np
import onnxruntime as ort
import pytest

from qonnx.custom_ops.hadamard import HADAMARD, QUANTIZE_ROWS
from qonnx.custom_ops.lowbit import EXACT, INT8
from qonnx.runtime import session
from tests import test_kernels_hadamard as rotations
from tests.cuda_product_cases import KINDS, LARGE, SHAPES, check, numbers
from tests.low_bit_cases import model_of, weight_of

PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")
has_provider = "CUDAExecutionProvider" in ort.get_available_providers()


@pytest.mark.skipif(has_provider, reason="this ONNX Runtime has the CUDA provider")
def test_without_the_provider_a_session_says_so_and_runs_on_the_cpu():
    weight = weight_of("b4", 40, 64, 32)
    x = numbers((1, 3, 64))
    with pytest.warns(UserWarning, match="'CUDAExecutionProvider' is not in available provider names"):
        opened = session(model_of(EXACT, weight), providers=PROVIDERS)
    assert opened.get_providers() == ["CPUExecutionProvider"]
    check(EXACT, opened.run(None, {"x": x})[0], x, weight)


def on_gpu(model):
    """A session whose nodes of ai.qonnx run on the GPU; skips where that cannot be."""
    if not has_provider:
        pytest.skip("needs onnxruntime-gpu")
    opened = session(model, providers=PROVIDERS)
    if opened.get_providers()[0] != PROVIDERS[0]:
        pytest.skip("needs a GPU")
    return opened


@pytest.mark.cuda
@pytest.mark.parametrize("op", [EXACT, INT8])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES + LARGE, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_products_on_the_gpu(op, kind, shape, dtype):
    outputs, columns, block, rows, _ = shape
    weight = weight_of(kind, outputs, columns, block)
    x, bias = numbers((1, rows, columns), dtype), numbers(outputs, dtype)
    element = "FLOAT" if dtype is np.float32 else "FLOAT16"
    y = on_gpu(model_of(op, weight, element=element, bias=bias)).run(None, {"x": x})[0]
    check(op, y, x, weight, bias)


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("order", [8, 96, 224, 1024, 4096])
def test_rows_on_the_gpu(order, dtype):
    x = rotations.rows((5, 2 * order), dtype)
    y = on_gpu(rotations.model_of(HADAMARD, 2, dtype, order)).run(None, {"x": x})[0]
    rotations.check_rotated(y, x, order)
    codes = on_gpu(rotations.model_of(QUANTIZE_ROWS, 2, dtype, block=100)).run(None, {"x": x})
    rotations.check_codes(codes, x.astype(np.float64), 100)

"""OpenVINO's own product with 4-bit weights, as a further column of the benchmark where `openvino` is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import numpy as np

from qonnx.custom_ops.lowbit import LowBitWeight


def installed() -> bool:
    return importlib.util.find_spec("openvino") is not None


def call_of(weight: LowBitWeight, x: np.ndarray, threads: int) -> tuple[Callable[[], object], np.ndarray]:
    """A call of x · wᵀ with activations quantized by the weight's block, and the array that it writes.

    weight: 16 levels, one zero point. OpenVINO's CPU plug-in keeps the weight compressed when it meets this pattern: u4
    constant, Convert, Subtract, Multiply, Reshape, MatMul.
    """
    import openvino
    from openvino import opset13 as opset

    rows, columns = weight.codes.shape
    grouped = [rows, columns // weight.block, weight.block]
    codes = weight.codes.astype(np.uint8).reshape(-1, 2)
    packed = openvino.Tensor(codes[:, 0] | (codes[:, 1] << 4), grouped, openvino.Type.u4)
    half, single = openvino.Type.f16, openvino.Type.f32
    zero = opset.constant(np.full((1, 1, 1), float(weight.zero_point)), half)
    w = opset.subtract(opset.convert(opset.constant(packed), half), zero)
    w = opset.multiply(w, opset.constant(weight.scale.astype(np.float16)[..., None], half))
    w = opset.convert(opset.reshape(w, opset.constant([rows, columns]), False), single)
    source = opset.parameter([len(x), columns], single)
    model = openvino.Model([opset.matmul(source, w, False, True)], [source])
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": weight.block,
    }
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
    request.set_input_tensor(openvino.Tensor(x, True))
    return request.infer, request.get_output_tensor().data

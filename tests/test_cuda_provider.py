"""CUDAExecutionProvider: the CPU's takes its place where there is no GPU; on a GPU, the emulated device's cases."""

import contextlib

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from models import digits
from qonnx.conversion import convert
from qonnx.custom_ops import observe
from qonnx.custom_ops.cuda.device import gpu_session, missing
from qonnx.custom_ops.hadamard import HADAMARD, QUANTIZE_ROWS
from qonnx.custom_ops.lowbit import EXACT, INT8
from qonnx.runtime import session
from tests import test_kernels_hadamard as rotations
from tests.cuda_product_cases import KINDS, LARGE, SHAPES, check, numbers
from tests.low_bit_cases import model_of, weight_of
from tests.operator_cases import EXAMPLES, FLOATS, Size, disagreement
from tests.operator_cases import model_of as case_model_of

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


@pytest.mark.slow
@pytest.mark.native
@pytest.mark.parametrize(
    ("recipe", "target", "operator"),
    [
        ("weight-int4", "ort-cuda", "MatMulNBits"),
        ("weight-int3", "ort-cpu", "MatMulLowBit"),
        ("weight-codebook-2bit", "ort-cuda", "MatMulCodebook"),
    ],
)
def test_a_converted_model_falls_back_to_the_cpu_with_a_notice(tmp_path, recipe, target, operator):
    images, _ = digits.samples("calibration", 40)
    samples = [{digits.INPUT: image[None]} for image in images]
    convert(digits.VIT, data=samples, recipe=recipe, target=target, output=tmp_path / "quantized.onnx", quiet=True)
    assert operator in {node.op_type for node in onnx.load(tmp_path / "quantized.onnx").graph.node}
    right = session(tmp_path / "quantized.onnx").run(None, {digits.INPUT: images})[0]
    with no_device(), pytest.warns(UserWarning) if not has_provider else contextlib.nullcontext():
        opened = session(tmp_path / "quantized.onnx", providers=PROVIDERS)
    assert opened.get_providers() == ["CPUExecutionProvider"]
    np.testing.assert_array_equal(opened.run(None, {digits.INPUT: images})[0], right)


@contextlib.contextmanager
def no_device():
    """Skips where a GPU could be used."""
    if not missing():
        pytest.skip("this machine has a GPU")
    yield


def on_gpu(model):
    """A session whose nodes all run on the GPU; skips where that cannot be, and says why."""
    if sentence := missing():
        pytest.skip(sentence)
    return gpu_session(model)


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", FLOATS, ids=lambda dtype: np.dtype(dtype).name)
@pytest.mark.parametrize("op", [op for op in EXAMPLES if op != "ObserveSink"])
def test_every_operator_on_the_gpu(op, dtype):
    """Forms and shapes of every operator, against its specification on the CPU."""
    for kind in range(8):
        for lead in ((1,), (3, 5), (70,)):
            size = Size(rows=70, columns=130, kind=kind, dtype=dtype, lead=lead, rank=4 if kind % 2 else None)
            model, feeds = case_model_of(case := EXAMPLES[op](op, size))
            right = session(model, native=False).run(None, feeds)
            found = on_gpu(model).run(None, feeds)
            assert (difference := disagreement(case, found, right)) is None, difference


@pytest.mark.cuda
def test_what_is_observed_on_the_gpu_is_what_the_cpu_sees():
    seen = []
    for open_model in (on_gpu, session):
        x = ir.Value(name="x", shape=ir.Shape(["n", 67]), type=ir.TensorType(ir.DataType.FLOAT))
        nodes = [ir.node("Neg", [x], name="neg")]
        nodes.append(observe.sink(nodes[0].outputs[0], "gpu/x", axis=-1))
        y = nodes[0].outputs[0]
        y.name, y.type, y.shape = "y", x.type, x.shape
        opsets = {"": 21, "ai.qonnx": 1}
        model = ir.Model(ir.Graph([x], [y], nodes=nodes, opset_imports=opsets, name="observed"), ir_version=10)
        open_model(model).run(None, {"x": numbers((300, 67))})
        seen.append(observe.read("gpu/x"))
        observe.free("gpu/")
    on_the_gpu, on_the_cpu = seen
    assert on_the_gpu.count == on_the_cpu.count and on_the_gpu.maximum == on_the_cpu.maximum
    np.testing.assert_array_equal(on_the_gpu.channel_minimum, on_the_cpu.channel_minimum)


@pytest.mark.cuda
@pytest.mark.parametrize("op", ["MatMulLowBit", "MatMulCodebook", "LogAttention", "HadamardDynamicQuantize"])
def test_a_cuda_graph_gives_the_same_bits(op):
    model, feeds = case_model_of(EXAMPLES[op](op, Size(rows=64, columns=256, dtype=np.float16)))
    plain, captured = on_gpu(model).run(None, feeds), gpu_session(model, graph=True)
    binding = captured.io_binding()
    for name, array in feeds.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array, "cuda", 0))
    for output, array in zip(captured.get_outputs(), plain, strict=True):
        binding.bind_ortvalue_output(output.name, ort.OrtValue.ortvalue_from_numpy(np.zeros_like(array), "cuda", 0))
    for _ in range(3):  # captured once, then replayed
        captured.run_with_iobinding(binding)
    for found, right in zip(binding.copy_outputs_to_cpu(), plain, strict=True):
        np.testing.assert_array_equal(found, right)


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

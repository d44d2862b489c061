"""Hadamard transforms and rows rounded to int8: kernel = function body = onnx.reference = numpy, on every tier."""

import math

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx.reference import ReferenceEvaluator

from qonnx.custom_ops import library_path, ops
from qonnx.custom_ops.hadamard import HADAMARD, QUANTIZE_ROWS, ROTATE_AND_QUANTIZE, hadamard, rotation_of, signs
from qonnx.errors import QonnxError
from qonnx.runtime import session

TIERS = ("scalar", "avx2", "avx512", "avx512vnni")
EPSILON = {np.dtype(np.float32): 2.0**-24, np.dtype(np.float16): 2.0**-11, np.dtype(ml_dtypes.bfloat16): 2.0**-8}
ORDERS = (1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 48, 64, 80, 128, 192, 224, 256, 384, 640, 1024, 2048)
native = pytest.mark.skipif(library_path() is None, reason="no native library")


def model_of(op, rank, dtype, order=None, block=None, **wrong):
    element = ir.DataType.from_numpy(np.dtype(dtype))
    x = ir.Value(name="x", shape=ir.Shape([None] * rank), type=ir.TensorType(element))
    inputs, initializers, attributes = [x], [], {}
    if order is not None:
        rotation = rotation_of(order)
        initializers = [ir.Value(name="base", const_value=ir.tensor(wrong.pop("base", rotation.base), name="base"))]
        attributes |= rotation.attributes()
    if block is not None:
        attributes |= {"block_size": block}
    node = ops.node(op, [*inputs, *initializers], node_name="rows", **{**attributes, **wrong})
    types = (element,) if op == HADAMARD else (ir.DataType.INT8, ir.DataType.FLOAT)
    for output, name, each in zip(node.outputs, ops.OPS[op].outputs, types, strict=True):
        output.name, output.type, output.shape = name, ir.TensorType(each), ir.Shape([None] * rank)
    graph = ir.Graph(inputs, node.outputs, nodes=[node], initializers=initializers, opset_imports={"": 21}, name="g")
    model = ir.Model(graph, ir_version=10)
    ops.add_to_model(model, op)
    return model


def run(model, x):
    opened = session(model, threads=2)
    if x.dtype != ml_dtypes.bfloat16:
        return opened.run(None, {"x": x})
    # numpy has no bfloat16: ONNX Runtime reads and writes arrays of the same bits
    binding, wide = opened.io_binding(), np.zeros(x.shape, np.uint16)
    of_bits = ort.OrtValue.ortvalue_from_numpy_with_onnx_type
    binding.bind_ortvalue_input("x", of_bits(x.view(np.uint16), ir.DataType.BFLOAT16.value))
    names = [output.name for output in opened.get_outputs()]
    if names == ["y"]:
        binding.bind_ortvalue_output("y", of_bits(wide, ir.DataType.BFLOAT16.value))
        opened.run_with_iobinding(binding)
        return [wide.view(ml_dtypes.bfloat16)]
    for name in names:
        binding.bind_output(name)
    opened.run_with_iobinding(binding)
    return binding.copy_outputs_to_cpu()


def rows(shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def rotated(x, order):
    """x · Hᵀ / √n by blocks of a row in float64, and the bound of what float32 sums may be off."""
    matrix = rotation_of(order).matrix() / math.sqrt(order)
    cut = x.astype(np.float64).reshape(*x.shape[:-1], -1, order)
    # at most order − 1 additions one after another, and the factor twice (its own rounding, its multiplication)
    bound = (order + 2) * 2.0**-24 * np.abs(cut).sum(-1, keepdims=True) / math.sqrt(order) + np.zeros_like(cut)
    return (cut @ matrix.T).reshape(x.shape), bound.reshape(x.shape)


def check_rotated(y, x, order):
    wanted, bound = rotated(x, order)
    assert y.dtype == x.dtype and y.shape == x.shape
    error = np.abs(y.astype(np.float64) - wanted)
    bound = bound + 1.01 * EPSILON[x.dtype] * (np.abs(wanted) + bound)
    assert (error <= bound).all(), f"error {error.max():.3g}, allowed {bound.max():.3g}"


def check_codes(outputs, wanted, block, bound=0.0):
    """Scale and codes of float64 numbers that the kernel knows up to `bound`."""
    codes, scale = outputs
    blocks = -(-wanted.shape[-1] // block)
    assert codes.dtype == np.int8 and codes.shape == wanted.shape
    assert scale.dtype == np.float32 and scale.shape == (*wanted.shape[:-1], blocks)
    for b in range(blocks):
        part = slice(b * block, (b + 1) * block)
        off = np.broadcast_to(bound, wanted.shape)[..., part]
        step = np.maximum(np.abs(wanted[..., part]).max(-1), 2.0**-100) / 127
        assert (np.abs(scale[..., b] - step) <= 2.0**-23 * step + off.max(-1, initial=0) / 127).all()
        found = codes[..., part] * scale[..., b : b + 1].astype(np.float64)
        # half a step, and 127 times what the step's reciprocal and the product are rounded by
        allowed = scale[..., b : b + 1].astype(np.float64) * (0.5 + 127 * 2.0**-22) + off
        assert (np.abs(found - wanted[..., part]) <= allowed).all()
        assert (np.abs(codes[..., part]).max(-1, initial=127) == 127).all() or not wanted[..., part].any()


@pytest.mark.parametrize("k", [1, 12, 20, 28])
def test_tables_are_hadamard_matrices(k):
    matrix = hadamard(k)
    assert (np.abs(matrix) == 1).all()
    np.testing.assert_array_equal(matrix @ matrix.T, k * np.eye(k))


@pytest.mark.parametrize("order", ORDERS)
def test_rotations_are_orthogonal(order):
    rotation = rotation_of(order)
    assert rotation.order == order
    matrix = rotation.matrix()
    np.testing.assert_array_equal(matrix @ matrix.T, order * np.eye(order))


@pytest.mark.parametrize("order", [0, -4, 3, 6, 9, 36, 44, 11008])
def test_unknown_orders_are_refused(order):
    with pytest.raises(QonnxError, match=f"order {order} is known here: use 1, 12, 20 or 28 times a power of two"):
        rotation_of(order)


def test_signs_follow_the_seed():
    assert set(signs(256, 0)) == {-1, 1}
    np.testing.assert_array_equal(signs(256, 3), signs(256, 3))
    assert (signs(256, 3) != signs(256, 4)).any()


@pytest.mark.native
@native
@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("order", ORDERS)
def test_kernels_compute_the_transform(monkeypatch, tier, order):
    monkeypatch.setenv("QONNX_CPU", tier)
    for shape in [(3, order), (2, 5, 3 * order), (order,)]:
        x = rows(shape)
        check_rotated(run(model_of(HADAMARD, len(shape), np.float32, order), x)[0], x, order)


@pytest.mark.native
@native
@pytest.mark.parametrize("order", [8, 12, 64, 96])
def test_unit_vectors_read_the_matrix_exactly(order):
    model = model_of(HADAMARD, 2, np.float32, order, factor=1.0)
    np.testing.assert_array_equal(run(model, np.eye(order, dtype=np.float32))[0].T, rotation_of(order).matrix())


@pytest.mark.native
@native
@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_types(monkeypatch, tier, dtype):
    monkeypatch.setenv("QONNX_CPU", tier)
    x = rows((7, 192), dtype)
    check_rotated(run(model_of(HADAMARD, 2, dtype, 96), x)[0], x, 96)
    check_codes(run(model_of(QUANTIZE_ROWS, 2, dtype, block=64), x), x.astype(np.float64), 64)
    check_codes(run(model_of(ROTATE_AND_QUANTIZE, 2, dtype, 96, 192), x), *[rotated(x, 96)[0], 192, rotated(x, 96)[1]])


@pytest.mark.native
@native
@pytest.mark.parametrize("tier", TIERS)
def test_rows_become_int8(monkeypatch, tier):
    monkeypatch.setenv("QONNX_CPU", tier)
    for shape, block in [
        ((3, 64), 64),
        ((2, 5, 37), 37),
        ((4, 100), 32),
        ((9,), 4),
        ((1, 300), 1000),
        ((600, 130), 130),
    ]:
        x = rows(shape)
        x[..., :1] *= 30
        check_codes(run(model_of(QUANTIZE_ROWS, len(shape), np.float32, block=block), x), x.astype(np.float64), block)
    for order in (16, 48, 256):
        x = rows((11, 2 * order))
        wanted, bound = rotated(x, order)
        check_codes(run(model_of(ROTATE_AND_QUANTIZE, 2, np.float32, order, order), x), wanted, order, bound)


@pytest.mark.native
@native
def test_rounding_takes_ties_to_even_and_every_code_is_reached():
    x = np.arange(-127, 128, dtype=np.float32)[None]
    codes, scale = run(model_of(QUANTIZE_ROWS, 2, np.float32, block=255), x)
    np.testing.assert_array_equal(codes, x)
    assert scale == 1
    x = np.array([[127, 0.5, 1.5, -0.5, -2.5]], np.float32)
    np.testing.assert_array_equal(run(model_of(QUANTIZE_ROWS, 2, np.float32, block=5), x)[0], [[127, 0, 2, 0, -2]])


@pytest.mark.parametrize("where", ["ort", "reference", pytest.param("kernel", marks=[pytest.mark.native, native])])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("order", [1, 8, 12, 40, 56, 128])
def test_function_body_reference_and_kernel_agree(where, dtype, order):
    x = rows((2, 3, 2 * order), dtype)
    wanted, bound = rotated(x, order)
    for op, options in [
        (HADAMARD, {"order": order}),
        (ROTATE_AND_QUANTIZE, {"order": order, "block": order}),
        (QUANTIZE_ROWS, {"block": max(1, order - 1)}),
    ]:
        model = model_of(op, 3, dtype, **options)
        proto = ir.to_proto(model)
        onnx.checker.check_model(proto, full_check=True)
        if where == "ort":
            outputs = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(
                None, {"x": x}
            )
        elif where == "reference":
            with np.errstate(invalid="ignore"):
                outputs = ReferenceEvaluator(proto).run(None, {"x": x})
        else:
            outputs = run(model, x)
        if op == HADAMARD:
            check_rotated(outputs[0], x, order)
        elif op == ROTATE_AND_QUANTIZE:
            check_codes(outputs, wanted, order, bound)
        else:
            check_codes(outputs, x.astype(np.float64), max(1, order - 1))


@pytest.mark.parametrize("where", ["ort", pytest.param("kernel", marks=[pytest.mark.native, native])])
def test_zeros_tiny_numbers_no_rows_and_numbers_that_are_not_finite(where):
    x = rows((5, 12))
    x[0], x[1], x[2, 7], x[3, 2], x[4] = 0, 1e-38, np.nan, -np.inf, 1e38
    model = model_of(QUANTIZE_ROWS, 2, np.float32, block=6)
    if where == "ort":
        opened = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    else:
        opened = session(model)
    codes, scale = opened.run(None, {"x": x})
    np.testing.assert_array_equal(np.isnan(scale), [[0, 0], [0, 0], [0, 1], [1, 0], [0, 0]])
    assert not codes[2, 6:].any() and not codes[3, :6].any() and not codes[:2].any()
    x[2, 6:], x[3, :6], scale[2, 1], scale[3, 0] = 0, 0, 2.0**-100 / 127, 2.0**-100 / 127
    check_codes([codes, scale], x.astype(np.float64), 6)
    empty = opened.run(None, {"x": np.zeros((0, 12), np.float32)})
    assert empty[0].shape == (0, 12) and empty[1].shape == (0, 2)


@pytest.mark.native
@native
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"outer": 3}, "outer=3 and inner=4 must be powers of two"),
        ({"inner": 0}, "attribute inner=0 is missing or not a positive number"),
        ({"factor": float("inf")}, "attribute factor is missing or not finite"),
        ({"inner": 16}, r"x has shape \[3, 16\], but its last dimension must be a multiple of n="),
        ({"base": np.ones((2, 3), np.float32)}, r"base has shape \[2, 3\], but a square matrix is wanted"),
        ({"block": 0}, "attribute block_size=0 is missing or not a positive number"),
    ],
)
def test_bad_attributes_are_refused_with_a_sentence(options, sentence):
    op = ROTATE_AND_QUANTIZE
    with pytest.raises(Exception, match=sentence):
        run(model_of(op, 2, np.float32, 16, **{"block": 16, **options}), rows((3, 16)))


def test_a_transposed_base_is_noticed():
    """The check of this file sees the fault that it is there for: Paley's matrices are not symmetric."""
    x = rows((3, 24))
    base = np.ascontiguousarray(rotation_of(24).base.T)
    with pytest.raises(AssertionError, match="error"):
        check_rotated(run(model_of(HADAMARD, 2, np.float32, 24, base=base), x)[0], x, 24)

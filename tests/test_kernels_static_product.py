"""Low-bit products with static activation scales: kernel = function body = onnx.reference = integers, on every tier."""

import concurrent.futures

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx.reference import ReferenceEvaluator

from qonnx.custom_ops import library_path, ops
from qonnx.custom_ops.lowbit import LowBitWeight
from qonnx.custom_ops.static_product import QLINEAR, QUANTIZED, STATIC, StaticGrid, attributes_of, inputs_of
from qonnx.errors import QonnxError
from qonnx.runtime import session
from tests.low_bit_cases import EPSILON, weight_of

TIERS = ("scalar", "avx2", "avx2vnni", "avx512", "avx512vnni")
OPERATORS = (QUANTIZED, QLINEAR, STATIC)
KINDS = ("b1", "b2", "b3", "b4", "b5", "b6", "b7", "b8", "b2/half", "b4/rows", "b4/bytes", "b8/bytes")
KINDS += ("ternary", "nf4", "fp4/rows")
U8 = StaticGrid(0.031, 117)
GRIDS = {
    "u8": U8,
    "u8 at an end": StaticGrid(0.5, 255),
    "6 levels": StaticGrid(0.11, 29, 0, 63),
    "s8": StaticGrid(0.02, -3, -128, 127, ir.DataType.INT8),
    "u4": StaticGrid(0.4, 7, 0, 15, ir.DataType.UINT4),
    "s4": StaticGrid(0.4, 1, -8, 7, ir.DataType.INT4),
}
Y = StaticGrid(0.9, 131)
native = pytest.mark.skipif(library_path() is None, reason="no native library")


def model_of(op, weight, grid=U8, bias=None, element="FLOAT", constant=True, y_grid=Y, **wrong):
    dtype = ir.DataType[element]
    rows, columns = weight.codes.shape
    four_bits = op != STATIC and grid.dtype in (ir.DataType.UINT4, ir.DataType.INT4)
    x_type = dtype if op == STATIC or four_bits else grid.dtype
    x = ir.Value(name="x", shape=ir.Shape(["batch", "tokens", columns]), type=ir.TensorType(x_type))
    bias = None if bias is None else bias.astype(dtype.numpy())
    if bias is None:
        bias = np.zeros(1, dtype.numpy())
    y_grid = y_grid if op == QLINEAR else None
    arrays = inputs_of(weight, grid, bias, y_grid)
    values = []
    for name, array in arrays.items():
        tensor = ir.tensor(array, name=name)
        if constant:
            values.append(ir.Value(name=name, const_value=tensor))
        else:
            values.append(ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype)))
    attributes = attributes_of(weight, grid if op == STATIC else None, y_grid)
    codes, before = x, []
    if four_bits:  # numpy has no such type to feed, so the graph makes the codes
        unit = {"one": np.float32(1), "nought": np.array(0, grid.dtype.numpy())}
        unit = [ir.Value(name=name, const_value=ir.tensor(array, name=name)) for name, array in unit.items()]
        before = [ir.node("QuantizeLinear", [x, *unit], name="to codes")]
        codes, values = before[0].outputs[0], [*values, *unit]
    node = ops.node(op, [codes, *values[: len(arrays)]], node_name="product", **{**attributes, **wrong})
    (y,) = node.outputs
    y.name, y.shape = "y", ir.Shape(["batch", "tokens", rows])
    y.type = ir.TensorType(y_grid.dtype if y_grid else dtype)
    inputs, initializers = ([x], values) if constant else ([x, *values], [])
    graph = ir.Graph(inputs, [y], nodes=[*before, node], initializers=initializers, opset_imports={"": 21}, name="g")
    model = ir.Model(graph, ir_version=10)
    ops.add_to_model(model, op)
    return model


def x_for(op, grid, shape, element="FLOAT", seed=1):
    rng = np.random.default_rng(seed)
    if op == STATIC:
        return (rng.standard_normal(shape) * 40 * grid.scale).astype(ir.DataType[element].numpy())
    codes = rng.integers(grid.minimum, grid.maximum + 1, shape)
    return codes.astype(np.float32 if grid.dtype in (ir.DataType.UINT4, ir.DataType.INT4) else grid.dtype.numpy())


def run(model, x, rows, dtype, **feeds):
    opened = session(model, threads=2)
    arrays = {"x": x, **feeds}
    if all(array.dtype.type.__module__ == "numpy" for array in arrays.values()) and dtype != ml_dtypes.bfloat16:
        return opened.run(None, arrays)[0]
    return run_bound(opened, arrays, np.zeros((*x.shape[:-1], rows), dtype))


def run_bound(opened, arrays, y):
    """numpy lacks bfloat16 and 4-bit types: ONNX Runtime reads and writes arrays of the same bits."""
    binding = opened.io_binding()
    for name, array in arrays.items():
        kind = ir.tensor(array).dtype
        if array.dtype == ml_dtypes.bfloat16:
            value = ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), kind.value)
        else:
            value = ort.OrtValue.ortvalue_from_numpy(array)
        binding.bind_ortvalue_input(name, value)
    bits = y.view(np.uint16) if y.dtype == ml_dtypes.bfloat16 else y
    kind = ir.tensor(y).dtype.value
    binding.bind_ortvalue_output("y", ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, kind))
    opened.run_with_iobinding(binding)
    return y


def rounded_weight(weight):
    """The weight with its table rounded as integer sums need it."""
    if weight.table is None:
        return weight
    step = np.float32(np.abs(weight.table).max() / np.float32(127))
    table = np.rint(weight.table / step).astype(np.float64) * step
    return LowBitWeight(weight.codes, weight.scale, weight.zero_point, weight.block, weight.levels, table)


def expected(op, x, weight, grid, bias):
    """y before requantization, in float64, and the bound of its float32 error."""
    codes = (grid.quantize(x) if op == STATIC else x).astype(np.float64)
    rows = (codes - grid.zero_point).reshape(-1, x.shape[-1]) * np.float64(np.float32(grid.scale))
    weight = rounded_weight(weight)
    w = weight.decode()
    blocks = np.arange(w.shape[1]) // weight.block
    value = np.abs(weight.codes if weight.table is None else weight.table[weight.codes]).astype(np.float64)
    zero = np.abs(np.broadcast_to(weight.zero_point, weight.scale.shape).astype(np.float64))[:, blocks]
    offset = 128 * np.abs(weight.table).max() / 127 if weight.table is not None else 0.0
    size = (value + zero + offset) * np.abs(weight.scale.astype(np.float64))[:, blocks]
    y = rows @ w.T + bias.astype(np.float64)
    bound = (w.shape[1] + 8) * 2.0**-24 * (np.abs(rows) @ size.T) + 2.0**-23 * np.abs(y)
    shape = (*x.shape[:-1], w.shape[0])
    return y.reshape(shape), bound.reshape(shape) + 1e-30


def check(op, y, x, weight, grid=U8, bias=None, y_grid=Y):
    bias = np.zeros(1, np.float32) if bias is None else bias
    wanted, bound = expected(op, x, weight, grid, bias)
    assert y.shape == wanted.shape
    if op == QLINEAR:  # a code may differ only where the exact value lies within the bound of another one's range
        low, high = (
            np.clip(np.rint((wanted + s * bound) / np.float32(y_grid.scale)) + y_grid.zero_point, 0, 255)
            for s in (-1, 1)
        )
        assert ((low <= y) & (y <= high)).all() and (y != y_grid.quantize(wanted)).mean() <= 0.02
    else:
        bound = bound + 1.01 * EPSILON[y.dtype] * np.abs(wanted)
        worst = np.abs(y.astype(np.float64) - wanted)
        assert (worst <= bound).all(), f"error {worst.max():.3g}, allowed {bound.max():.3g}"


@pytest.mark.native
@native
@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("kind", KINDS)
def test_kernels_compute_the_specification(monkeypatch, op, tier, kind):
    monkeypatch.setenv("QONNX_CPU", tier)
    # one panel, several, a short one; one block, several, a short one; more than one group of 512 to a block
    for rows, columns, block, tokens in [(32, 64, 64, 1), (100, 200, 64, 13), (7, 7, 16, 3), (33, 1100, 1100, 9)]:
        weight = weight_of(kind, rows, columns, block, scale_type=np.float16 if rows == 100 else np.float32)
        bias = np.random.default_rng(2).standard_normal(rows).astype(np.float32)
        x = x_for(op, U8, (1, tokens, columns))
        y_grid = StaticGrid(float(np.float32(expected(op, x, weight, U8, bias)[0].std() / 40)), 131)
        y = run(model_of(op, weight, bias=bias, y_grid=y_grid), x, rows, np.float32)
        check(op, y, x, weight, U8, bias, y_grid)


@pytest.mark.native
@native
@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("kind", ["b4", "b8/zero", "ternary"])
@pytest.mark.parametrize("grid", GRIDS)
def test_sums_are_exact_integers_whatever_the_tier(monkeypatch, tier, kind, grid):
    monkeypatch.setenv("QONNX_CPU", tier)
    grid, zero_point = GRIDS[grid], np.uint8(255 if kind == "b8/zero" else 3)
    weight = weight_of(kind.partition("/")[0], 70, 1300, 1300)
    weight = LowBitWeight(weight.codes, weight.scale, zero_point, 1300, weight.levels)
    bias = np.linspace(-1, 1, 70, dtype=np.float32)
    for tokens in (1, 4, 21):
        for worst in (False, True):  # the largest sums that there are
            x = x_for(QUANTIZED, grid, (1, tokens, 1300))
            if worst:
                x = np.full_like(x, grid.maximum if grid.zero_point < 50 else grid.minimum)
                weight.codes[:] = weight.levels - 1 if zero_point == 3 else 0
            total = (x.astype(np.int64) - grid.zero_point) @ (weight.codes.astype(np.int64) - int(zero_point)).T
            wanted = total.astype(np.float32) * weight.scale[:, 0] * np.float32(grid.scale) + bias
            y = run(model_of(QUANTIZED, weight, grid, bias), x, 70, np.float32)
            np.testing.assert_array_equal(y, wanted)
            y_grid = StaticGrid(float(np.float32(wanted.std() / 30 + 1)), 4, -128, 127, ir.DataType.INT8)
            codes = run(model_of(QLINEAR, weight, grid, bias, y_grid=y_grid), x, 70, np.int8)
            np.testing.assert_array_equal(codes, y_grid.quantize(wanted))


@pytest.mark.native
@native
@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("kind", ["b1", "b4", "b4/rows", "b8", "b8/bytes", "ternary", "nf4"])
def test_rows_of_zeros_give_the_bias_exactly(monkeypatch, tier, kind):
    """Whatever the zero point of X is: it is taken off in integers, in every block."""
    monkeypatch.setenv("QONNX_CPU", tier)
    weight, bias = weight_of(kind, 70, 150, 32), np.linspace(-1, 1, 70, dtype=np.float32)
    for grid in (GRIDS["u8"], GRIDS["u8 at an end"], GRIDS["s8"]):
        x = np.full((1, 7, 150), grid.zero_point, grid.dtype.numpy())
        np.testing.assert_array_equal(run(model_of(QUANTIZED, weight, grid, bias), x, 70, np.float32)[0], [bias] * 7)


@pytest.mark.native
@native
@pytest.mark.parametrize("tier", TIERS)
def test_numbers_become_the_codes_of_quantize_linear(monkeypatch, tier):
    """With the identity as weight the operator returns what it has quantized."""
    monkeypatch.setenv("QONNX_CPU", tier)
    weight = LowBitWeight(np.eye(70, dtype=np.int64), np.ones((70, 1), np.float32), np.uint8(0), 70, 2)
    for grid in GRIDS.values():
        steps = np.arange(grid.minimum - 5, grid.maximum + 6, 0.25) - grid.zero_point  # ties and both ends
        x = np.concatenate([steps * grid.scale, [np.inf, -np.inf, 1e30, -1e30, 0, -0.0, 1e-40]]).astype(np.float32)
        x = np.resize(x, (-(-x.size // 70), 70))[None]
        y = run(model_of(STATIC, weight, grid), x, 70, np.float32)
        wanted = (grid.quantize(x) - np.float32(grid.zero_point)) * np.float32(grid.scale)
        np.testing.assert_array_equal(y, wanted)


@pytest.mark.native
@native
@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize("element", ["FLOAT", "FLOAT16", "BFLOAT16"])
@pytest.mark.parametrize("tokens", [0, 1, 2, 3, 4, 5, 6, 7, 11, 64, 257, 264, 265, 531])
def test_any_number_of_tokens_and_type(op, element, tokens):
    if op == QLINEAR and element != "FLOAT":
        pytest.skip("codes in, codes out: no float type")
    dtype = ir.DataType[element].numpy()
    weight = weight_of("b4", 70, 130, 130)
    bias = np.linspace(-3, 3, 70).astype(dtype)
    x = x_for(op, U8, (1, tokens, 130), element)
    y = run(model_of(op, weight, bias=bias, element=element), x, 70, np.uint8 if op == QLINEAR else dtype)
    if tokens:
        check(op, y, x, weight, bias=bias)
    assert y.shape == (1, tokens, 70)


@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize("kind", ["b1", "b3", "b4/rows", "b5", "b8/bytes", "ternary", "nf4", "b2/half"])
@pytest.mark.parametrize("grid", ["u8", "6 levels", "s8"])
@pytest.mark.parametrize("tokens", [0, 3])
def test_the_function_body_computes_the_specification(op, kind, grid, tokens):
    """In ONNX Runtime without our library and in onnx.reference."""
    grid, weight = GRIDS[grid], weight_of(kind, 9, 50, 16)
    bias = np.linspace(-1, 1, 9, dtype=np.float32)
    x = x_for(op, grid, (2, tokens, 50))
    y_grid = StaticGrid(float(np.float32(200 * grid.scale)), 120)
    proto = ir.to_proto(model_of(op, weight, grid, bias, y_grid=y_grid))
    onnx.checker.check_model(proto, full_check=True)
    plain = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for y in (plain.run(None, {"x": x})[0], ReferenceEvaluator(proto).run(None, {"x": x})[0]):
        if tokens:
            check(op, y, x, weight, grid, bias, y_grid)
        assert y.shape == (2, tokens, 9)


@pytest.mark.native
@native
@pytest.mark.parametrize("op", OPERATORS)
def test_everything_may_be_a_graph_input(op):
    weight = weight_of("b3", 20, 70, 32)
    x = x_for(op, U8, (1, 4, 70))
    feeds = inputs_of(weight, U8, None, Y if op == QLINEAR else None)
    y = run(model_of(op, weight, constant=False), x, 20, np.uint8 if op == QLINEAR else np.float32, **feeds)
    check(op, y, x, weight)


def test_a_nan_spoils_its_row_only():
    weight = weight_of("b4", 40, 64, 64)
    x = x_for(STATIC, U8, (1, 11, 64))
    x[0, 1, 5] = np.nan
    proto = ir.to_proto(model_of(STATIC, weight))
    outputs = [
        ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    ]
    if library_path():
        outputs.append(run(model_of(STATIC, weight), x, 40, np.float32))
    for y in outputs:
        assert np.isnan(y[0, 1]).all()
        check(STATIC, y[:, 2:], x[:, 2:], weight)


@pytest.mark.native
@native
def test_calls_in_threads_agree():
    weight = weight_of("b4", 96, 256, 256)
    opened = session(model_of(STATIC, weight), threads=2)
    inputs = [x_for(STATIC, U8, (1, m, 256), seed=m) for m in range(1, 17)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        outputs = list(pool.map(lambda x: opened.run(None, {"x": x})[0], inputs * 3))
    for x, y in zip(inputs * 3, outputs, strict=True):
        check(STATIC, y, x, weight)


@pytest.mark.native
@native
@pytest.mark.parametrize(
    ("op", "wrong", "sentence"),
    [
        (QUANTIZED, {"K": 0}, "attribute K=0 is missing or not a positive number"),
        (QUANTIZED, {"levels": 17}, "levels=17 codes, 2 of them in a word of 1 bytes, do not fit"),
        (QUANTIZED, {"K": 40}, r"input codes has shape \[9, 16\], but the attributes ask for \[9, 20\]"),
        (STATIC, {"x_minimum": 9, "x_maximum": 9}, "x_minimum=9 and x_maximum=9 are no range of 8-bit codes"),
        (STATIC, {"x_minimum": -1}, "x_minimum=-1 and x_maximum=255 are no range"),
        (QLINEAR, {"y_maximum": 256}, "y_minimum=0 and y_maximum=256 are no range"),
    ],
)
def test_bad_attributes_are_refused_with_a_sentence(op, wrong, sentence):
    with pytest.raises(Exception, match=sentence):
        session(model_of(op, weight_of("b4", 9, 32, 16), **wrong))


@pytest.mark.native
@native
@pytest.mark.parametrize(
    ("name", "array", "sentence"),
    [
        ("x_scale", np.float32(-1), "input x_scale is -1.000000, not a positive number"),
        ("x_scale", np.float32(np.nan), "input x_scale is .*nan, not a positive number"),
        ("x_scale", np.ones(3, np.float32), r"input x_scale has shape \[3\], but one number is wanted"),
        ("x_zero_point", np.int8(3), "X is uint8 and x_zero_point int8; both must have one type"),
        ("bias", np.zeros(5, np.float32), r"bias has shape \[5\], but one number or N=9 of them are wanted"),
    ],
)
def test_bad_inputs_are_refused_with_a_sentence(name, array, sentence):
    weight = weight_of("b4", 9, 32, 16)
    model = model_of(QUANTIZED, weight)
    model.graph.initializers[name].const_value = ir.tensor(array, name=name)
    with pytest.raises(Exception, match=sentence):
        session(model).run(None, {"x": x_for(QUANTIZED, U8, (1, 2, 32))})


@pytest.mark.parametrize("wrong", [{"scale": 0.0}, {"zero_point": 256}, {"minimum": 5, "maximum": 5}, {"minimum": -1}])
def test_impossible_grids_are_refused(wrong):
    with pytest.raises(QonnxError, match="are no grid of UINT8 codes"):
        StaticGrid(**{"scale": 0.1, "zero_point": 3, **wrong})


def test_a_zero_point_off_by_one_is_noticed():
    """The check of this file sees the fault that it is there for."""
    weight = weight_of("b4", 8, 32, 32)
    x = x_for(QUANTIZED, U8, (1, 2, 32))
    proto = ir.to_proto(model_of(QUANTIZED, weight, StaticGrid(U8.scale, U8.zero_point + 1)))
    y = ReferenceEvaluator(proto).run(None, {"x": x})[0]
    with pytest.raises(AssertionError, match="error"):
        check(QUANTIZED, y, x, weight)

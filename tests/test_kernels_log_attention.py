"""Logarithmic attention: kernel = function body = onnx.reference = numpy, on every tier."""

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx.reference import ReferenceEvaluator

from qonnx.custom_ops import library_path, ops
from qonnx.custom_ops.log_attention import OPERATOR, codes_of, weight_table
from qonnx.errors import QonnxError
from qonnx.runtime import session

TIERS = ("scalar", "avx2", "avx512", "avx512vnni")
EPSILON = {np.dtype(np.float32): 2.0**-24, np.dtype(np.float16): 2.0**-11, np.dtype(ml_dtypes.bfloat16): 2.0**-8}
# levels, codes per octave: bytes exact in integers (the first two), short tables, repeating ones, AdaLog's odd bases
TABLES = [(16, 1.0), (16, 2.0), (8, 1.0), (64, 4.0), (256, 16.0), (256, 1.0), (16, 37 / 25), (40, 37 / 60), (2, 1.0)]
native = pytest.mark.skipif(library_path() is None, reason="no native library")


def model_of(scores, value, scale, table, per_octave, constant=True):
    arrays = {"scores": scores, "value": value, "value_scale": scale, "table": table}
    values = {
        name: ir.Value(name=name, shape=ir.Shape([None] * array.ndim), type=ir.TensorType(ir.tensor(array).dtype))
        for name, array in arrays.items()
    }
    initializers = []
    if constant:
        for name in ("value_scale", "table"):
            values[name] = ir.Value(name=name, const_value=ir.tensor(arrays[name], name=name))
            initializers.append(values[name])
    node = ops.node(OPERATOR, list(values.values()), node_name="attention", codes_per_octave=per_octave)
    (y,) = node.outputs
    rank = max(scores.ndim, value.ndim)
    y.name, y.type, y.shape = "y", values["scores"].type, ir.Shape([None] * rank)
    inputs = [value for value in values.values() if value not in initializers]
    graph = ir.Graph(inputs, [y], nodes=[node], initializers=initializers, opset_imports={"": 21}, name="g")
    model = ir.Model(graph, ir_version=10)
    ops.add_to_model(model, OPERATOR)
    return model, {value.name: arrays[value.name] for value in inputs}


def expected(scores, value, scale, table, per_octave):
    """y in float64 and the bound of what float32 sums may be off."""
    code = codes_of(scores, len(table), per_octave)
    weight = table.astype(np.float64)[code]
    total = weight.sum(-1, keepdims=True)
    weight = weight / np.where(total > 0, total, 1)
    value = value.astype(np.float64) * scale
    y = weight @ value
    size = np.abs(weight) @ np.abs(value)
    return y, (2 * scores.shape[-1] + 8) * 2.0**-24 * size + 1.01 * EPSILON[scores.dtype] * np.abs(y) + 1e-30


def check(y, case):
    wanted, bound = expected(*case)
    assert y.shape == wanted.shape
    worst = np.abs(y.astype(np.float64) - wanted)
    assert (worst <= bound).all(), f"error {worst.max():.3g}, allowed {bound.max():.3g}"


def case_of(shape, d, levels=16, per_octave=1.0, dtype=np.float32, int8=False, seed=0, value_shape=None):
    rng = np.random.default_rng(seed)
    scores = (rng.standard_normal(shape) * 3).astype(dtype)
    scores[..., rng.random(shape[-1]) < 0.2] = -np.inf
    value_shape = (*shape[:-2], shape[-1], d) if value_shape is None else value_shape
    scale = np.ones(1, np.float32)
    if int8:
        value = rng.integers(-128, 128, value_shape, dtype=np.int8)
        scale = (rng.random(d) + 0.5).astype(np.float32)
    else:
        value = rng.standard_normal(value_shape).astype(dtype)
    return scores, value, scale, weight_table(levels, per_octave), per_octave


def run(case, constant=True):
    model, feeds = model_of(*case, constant=constant)
    opened = session(model, threads=2)
    if feeds["scores"].dtype != ml_dtypes.bfloat16:
        return opened.run(None, feeds)[0]
    # numpy has no bfloat16: ONNX Runtime reads and writes arrays of the same bits
    y = np.zeros((*feeds["scores"].shape[:-1], feeds["value"].shape[-1]), np.uint16)
    binding = opened.io_binding()
    of_bits = ort.OrtValue.ortvalue_from_numpy_with_onnx_type
    for name, array in feeds.items():
        if array.dtype == ml_dtypes.bfloat16:
            binding.bind_ortvalue_input(name, of_bits(array.view(np.uint16), ir.DataType.BFLOAT16.value))
        else:
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
    binding.bind_ortvalue_output("y", of_bits(y, ir.DataType.BFLOAT16.value))
    opened.run_with_iobinding(binding)
    return y.view(ml_dtypes.bfloat16)


@pytest.mark.parametrize(("levels", "per_octave"), TABLES)
def test_the_table_is_a_power_at_each_code_and_ends_in_zero(levels, per_octave):
    table = weight_table(levels, per_octave)
    wanted = 2.0 ** (-np.arange(levels - 1) / per_octave)
    assert table[-1] == 0
    np.testing.assert_allclose(table[:-1].astype(np.float64), wanted, rtol=2.0**-23, atol=2.0**-149)


@pytest.mark.parametrize(("levels", "per_octave"), [(1, 1.0), (257, 1.0), (16, 0.0), (16, -2.0)])
def test_impossible_tables_are_refused(levels, per_octave):
    with pytest.raises(QonnxError, match="use"):
        weight_table(levels, per_octave)


@pytest.mark.parametrize(("levels", "per_octave"), TABLES)
def test_each_code_has_its_own_range_of_scores(levels, per_octave):
    """Scores at the middle of code k get code k; those just short of the border to k + 1 too."""
    code = np.arange(levels, dtype=np.float64)
    for offset in (0.0, 0.49, -0.49):
        distance = np.maximum(code + offset, 0) / per_octave * np.log(2)
        scores = np.concatenate([[0.0], -distance]).astype(np.float32)
        np.testing.assert_array_equal(codes_of(scores, levels, per_octave)[1:], code)


@pytest.mark.native
@native
@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize(("levels", "per_octave"), TABLES)
def test_kernels_compute_the_specification(monkeypatch, tier, int8, levels, per_octave):
    monkeypatch.setenv("QONNX_CPU", tier)
    sizes = [((2, 3, 7, 13), 16), ((1, 1), 1), ((257, 61), 64), ((2, 12, 16), 80), ((3, 25, 130), 9), ((5, 3), 33)]
    for shape, d in sizes:
        case = case_of(shape, d, levels, per_octave, int8=int8)
        check(run(case), case)


@pytest.mark.native
@native
@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize(("levels", "per_octave"), TABLES)
def test_every_code_has_its_weight(monkeypatch, tier, levels, per_octave):
    """Row k has one place at code k beside the largest; unit values read the two weights apart."""
    monkeypatch.setenv("QONNX_CPU", tier)
    scores = np.full((levels, 37), -np.inf, np.float32)
    scores[:, 5] = 1.5
    scores[:, 31] = np.float32(1.5) - np.arange(levels) / np.float32(per_octave) * np.float32(np.log(2))
    for value in (np.eye(37, dtype=np.float32), np.eye(37, dtype=np.int8)):
        case = scores, value, np.ones(1, np.float32), weight_table(levels, per_octave), per_octave
        check(run(case), case)


@pytest.mark.native
@native
@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("int8", [False, True])
def test_half_types(monkeypatch, tier, dtype, int8):
    monkeypatch.setenv("QONNX_CPU", tier)
    for shape, d in [((2, 7, 30), 16), ((1, 29, 64), 21)]:
        case = case_of(shape, d, 16, 2.0, dtype, int8)
        check(run(case), case)


@pytest.mark.native
@native
@pytest.mark.parametrize("int8", [False, True])
def test_leading_dimensions_broadcast(int8):
    for shape, value_shape in [((2, 3, 4, 5), (3, 5, 6)), ((4, 5), (2, 5, 6)), ((2, 1, 4, 5), (1, 3, 5, 6))]:
        case = case_of(shape, 6, int8=int8, value_shape=value_shape)
        check(run(case), case)
    assert run(case_of((0, 4, 5), 6, int8=int8)).shape == (0, 4, 6)
    assert run(case_of((2, 0, 5), 6, int8=int8)).shape == (2, 0, 6)


@pytest.mark.parametrize("where", ["ort", "reference", pytest.param("kernel", marks=[pytest.mark.native, native])])
@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_function_body_reference_and_kernel_agree(where, int8, dtype):
    for levels, per_octave in TABLES:
        case = case_of((2, 3, 9, 20), 5, levels, per_octave, dtype, int8)
        scores = case[0]
        scores[0, 0, 2], scores[1, 2, 4, 3], scores[1, 0, 0, 1], scores[0, 1, 1, 0] = -np.inf, np.nan, np.inf, -np.nan
        model, feeds = model_of(*case)
        proto = ir.to_proto(model)
        onnx.checker.check_model(proto, full_check=True)
        with np.errstate(invalid="ignore"):
            if where == "ort":
                opened = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
                (y,) = opened.run(None, feeds)
            elif where == "reference":
                (y,) = ReferenceEvaluator(proto).run(None, feeds)
            else:
                y = run(case)
        assert not y[0, 0, 2].any(), "a row that is masked everywhere gives 0"
        spoiled = np.zeros(y.shape[:-1], bool)
        spoiled[1, 2, 4] = spoiled[1, 0, 0] = spoiled[0, 1, 1] = True
        np.testing.assert_array_equal(np.isnan(y), np.broadcast_to(spoiled[..., None], y.shape))
        scores[spoiled], y[spoiled] = -np.inf, 0
        check(y, case)


@pytest.mark.native
@native
def test_everything_may_be_a_graph_input():
    case = case_of((2, 9, 20), 5)
    check(run(case, constant=False), case)


@pytest.mark.native
@native
def test_far_scores_and_huge_ones_are_safe():
    for size in (1e-30, 1e5, 3e38):
        case = case_of((1, 9, 40), 16)
        case[0][~np.isinf(case[0])] *= np.float32(size / 12)
        check(run(case), case)


@pytest.mark.native
@native
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({4: 0.0}, "attribute codes_per_octave=0.000000 is missing or not a positive number"),
        ({4: float("nan")}, "codes_per_octave=-?nan"),
        ({3: np.ones(1, np.float32)}, r"table has shape \[1\], but float32 of 2 to 256 weights"),
        ({3: np.ones(300, np.float32)}, r"table has shape \[300\]"),
        ({2: np.ones(3, np.float32)}, r"value_scale has shape \[3\], but one number or D=6"),
        ({1: np.ones((2, 7, 6), np.float32)}, r"scores \[2, 4, 5\] and value \[2, 7, 6\] do not fit"),
        ({1: np.ones((3, 5, 6), np.float32)}, r"do not broadcast in dimension 0"),
        ({1: np.ones(5, np.float32)}, "need at least two dimensions each"),
        ({1: np.ones((2, 5, 6), np.float16)}, "value is float16, but scores are float32"),
    ],
)
def test_bad_inputs_are_refused_with_a_sentence(change, sentence):
    case = list(case_of((2, 4, 5), 6))
    for index, wrong in change.items():
        case[index] = wrong
    with pytest.raises(Exception, match=sentence):
        run(case)


def test_a_code_off_by_one_is_noticed():
    """The check of this file sees the fault that it is there for."""
    case = case_of((2, 9, 20), 5)
    wrong = np.roll(case[3], 1)
    model, feeds = model_of(*case[:3], wrong, case[4])
    (y,) = session(model).run(None, feeds)
    with pytest.raises(AssertionError, match="error"):
        check(y, case)

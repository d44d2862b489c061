"""Place Q/DQ: ONNX text in, nodes, grids and codes out."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest

from models.tiny import inputs
from models.tiny_texts import TEXTS
from qonnx.formats import FORMATS, QuantizedTensor
from qonnx.linter import lint
from qonnx.notes import note
from qonnx.passes.bias_codes import with_room
from qonnx.passes.place_qdq import PlaceQDQ
from qonnx.passes.protect import widen
from qonnx.passes.solve_weights import SolveWeights
from qonnx.plan import encoding
from qonnx.runtime import optimized, session
from qonnx.settings import Settings
from qonnx.targets import TARGETS, target
from tests.qdq_cases import HEAD, assigned, fates, grid, kinds, made_by, node_of, placed, run, spelt

CONV = f"""{HEAD} g (float[B,3,6,6] x, float[4,3,3,3] w, float[4] b) => (float[B,4,4,4] y) {{
    c = Conv(x, w, b)
    y = Relu(c)
}}"""
SHARED = f"""{HEAD} g (float[B,8] x, float[8,8] w, float[8,8] w2) => (float[B,8] y) {{
    r = Tanh(x)
    a = MatMul(r, w)
    b = MatMul(r, w)
    s = Sub(a, b)
    t = Add(s, r)
    y = MatMul(t, w2)
}}"""


def quantize(x: np.ndarray, scale, zero_point: int = 0, low: int = -127, high: int = 127) -> np.ndarray:
    """Codes as ONNX defines them, written out once more."""
    return np.clip(np.rint(x / np.float32(scale)) + zero_point, low, high)


def test_a_convolution_becomes_the_unit_that_the_runtime_fuses():
    model = placed(spelt(CONV))
    assert [node.op_type for node in model.graph] == [
        *("QuantizeLinear", "DequantizeLinear"),  # x
        *("DequantizeLinear", "DequantizeLinear"),  # weight and bias
        *("Conv", "Relu", "QuantizeLinear", "DequantizeLinear"),
    ]
    assert [made_by(node_of(model, "c"), i) for i in range(3)] == ["DequantizeLinear"] * 3
    assert kinds(ir.from_proto(optimized(model)))["QLinearConv"] == 1


def test_a_graph_output_behind_a_pair_keeps_its_name_and_type():
    model = placed(spelt(CONV))
    (output,) = model.graph.outputs
    assert (output.name, output.dtype, output.producer().op_type) == ("y", ir.DataType.FLOAT, "DequantizeLinear")
    assert node_of(model, "y_float").op_type == "Relu"


def test_codes_of_weight_and_bias_are_exact():
    float_model = spelt(CONV)
    weight, bias = (float_model.graph.initializers[name].const_value.numpy() for name in ("w", "b"))
    model = placed(float_model)
    conv = node_of(model, "c")
    sides = [value.producer() for value in conv.inputs]
    scale_x, _ = grid(sides[0])
    codes, scale, zero_point = (value.const_value.numpy() for value in sides[1].inputs)
    np.testing.assert_array_equal(scale, (np.abs(weight).max((1, 2, 3)) / 127).astype(np.float32))
    np.testing.assert_array_equal(codes, quantize(weight, scale[:, None, None, None]))
    assert not zero_point.any()
    codes, scale_b, _ = (value.const_value.numpy() for value in sides[2].inputs)
    np.testing.assert_array_equal(scale_b, np.float32(scale_x) * scale)
    np.testing.assert_array_equal(codes, np.rint(bias.astype(np.float64) / scale_b))
    assert codes.dtype == np.int32


def test_codes_of_an_activation_are_those_of_its_grid():
    model = placed(spelt(CONV))
    first = next(node for node in model.graph if node.op_type == "QuantizeLinear")
    scale, zero_point = grid(first)
    x = inputs(model, 7)["x"]
    model.graph.outputs.append(first.outputs[0])
    found = run(model, 7)[1]
    np.testing.assert_array_equal(found, quantize(x, scale, zero_point, 0, 255))


def test_a_tensor_and_a_weight_that_two_nodes_read_are_quantized_once():
    model = placed(spelt(SHARED))
    a, b = node_of(model, "a"), node_of(model, "b")
    assert a.inputs[0] is b.inputs[0]
    assert a.inputs[1] is b.inputs[1]
    assert sum(name.startswith("w_codes") for name in model.graph.initializers) == 1


def test_the_residual_branch_keeps_the_float_value():
    model = placed(spelt(SHARED))
    assert made_by(node_of(model, "t"), 1) == "Tanh"
    assert made_by(node_of(model, "a"), 0) == "DequantizeLinear"


def test_attention_values_are_read_in_float():
    model = placed(spelt(TEXTS["attention"]))
    product = node_of(model, "o1")
    assert made_by(product, 0) == "Softmax"
    assert made_by(product, 1) != "DequantizeLinear"
    assert fates(model)["o1"] == ("skipped", "accuracy")


def test_an_excluded_node_reads_float_and_keeps_its_weight():
    model = placed(spelt(SHARED), settings=Settings(nodes_to_exclude=("MatMul_y*",)))
    last = node_of(model, "y")
    assert last.inputs[1].const_value.dtype == ir.DataType.FLOAT
    assert made_by(last, 0) == "Add"


def test_a_clip_behind_a_convolution_closes_its_unit():
    text = CONV.replace(
        "y = Relu(c)",
        "low = Constant<value = float {0.0}>()\n high = Constant<value = float {6.0}>()\n y = Clip(c, low, high)",
    )
    model = placed(spelt(text))
    assert node_of(model, "y_float").op_type == "Clip"
    assert [user.op_type for user in node_of(model, "c").outputs[0].consumers()] == ["Clip"]


@pytest.mark.parametrize(
    ("why", "change"),
    [
        ("someone else reads the convolution", ("y = Relu(c)", "r = Relu(c)\n y = Sub(c, r)")),
        ("the bounds are computed", ("y = Relu(c)", "low = ReduceMin<keepdims: int = 0>(x)\n y = Clip(c, low)")),
    ],
)
def test_near_misses_of_an_activation_that_closes_a_unit(why: str, change: tuple[str, str]):
    model = placed(spelt(CONV.replace(*change)))
    conv = next(node for node in model.graph if node.op_type == "Conv")
    assert [user.op_type for user in conv.outputs[0].consumers()] == ["QuantizeLinear"], why


def test_a_layer_that_is_float_on_the_target_reads_a_stored_weight_and_float_activations():
    model = placed(
        spelt(f"""{HEAD} g (float[B,4,5,5] x, float[4,6,2,2] w) => (float[B,6,6,6] y) {{
        y = ConvTranspose(x, w)
    }}""")
    )
    layer = node_of(model, "y")
    assert [made_by(layer, i) for i in range(2)] == ["", "DequantizeLinear"]
    assert layer.inputs[1].producer().attributes.get_int("axis") == 1
    assert "QuantizeLinear" not in kinds(model)


def test_groups_of_a_transposed_convolution_share_scales_that_its_bias_repeats():
    model = placed(
        spelt(f"""{HEAD} g (float[B,4,5,5] x, float[4,3,2,2] w, float[6] b) => (float[B,6,6,6] y) {{
            y = ConvTranspose<group: int = 2>(x, w, b)
        }}"""),
        "qnn",
    )
    weight, bias = (node_of(model, "y_float").inputs[i].producer().inputs[1].const_value.numpy() for i in (1, 2))
    assert (weight.shape, bias.shape) == ((3,), (6,))
    np.testing.assert_array_equal(bias[:3], bias[3:])


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("operator", ["Conv", "ConvTranspose"])
def test_a_dead_channel_keeps_its_bias_and_room_for_the_products(operator, per_channel):
    """Weights that all but vanish make a grid of products on which a bias of 3 has no int32 code."""
    model = spelt(f"""{HEAD} g (float[B,4,6,6] x, float[4,2,3,3] w, float[4] b) => (float[B,4,H,W] y) {{
        y = {operator}<group: int = 2>(x, w, b)
    }}""")
    weight, bias = (model.graph.initializers[name] for name in ("w", "b"))
    w = weight.const_value.numpy().copy()
    channel = (1,) if operator == "Conv" else (slice(None), 1)
    w[channel if per_channel else ...] *= 1e-9
    weight.const_value = ir.tensor(w, name="w")
    bias.const_value = ir.tensor(np.array([0.5, 3.0, -0.25, -3.0], np.float32), name="b")
    expected = run(model)[0]
    model = placed(model, "ort-cpu" if operator == "Conv" else "qnn", Settings(per_channel=per_channel))
    (unit,) = (node for node in model.graph if node.op_type == operator)
    scale, codes = (unit.inputs[2].producer().inputs[i].const_value.numpy() for i in (1, 0))
    assert 2**29 < np.abs(codes.astype(np.int64)).max() < 2**30
    np.testing.assert_allclose(codes * scale.astype(np.float64), [0.5, 3, -0.25, -3], atol=scale.max())
    step = grid(node_of(model, "y"))[0]
    for optimization in ("none", "all"):
        found = run(model, optimization=optimization)[0]
        assert np.abs(found - expected).max() <= (0.6 * step if not per_channel else 4 * step)


def test_weights_whose_biases_fit_stay_the_same_object():
    format = dataclasses.replace(FORMATS["s8"], granularity="channel")
    scale = np.array([1e-3, 2e-3], np.float32)
    weight = QuantizedTensor(format, np.array([[1, 2], [3, 4]]), scale, np.zeros(2, np.int64), 0)
    assert with_room(weight, np.array([5.0, -5.0]), 0.1) is weight
    assert with_room(weight, np.zeros(0), 0.1) is weight
    wide = with_room(weight, np.array([5.0, -1e6]), 1e-2)
    assert (wide.scale[0], wide.codes[0].tolist()) == (scale[0], [1, 2])
    np.testing.assert_allclose(wide.decode()[1], weight.decode()[1], atol=wide.scale[1] / 2)
    assert 0.99 * 2**30 < 1e6 / (wide.scale[1] * 1e-2) < 2**30


def test_fewer_levels_than_the_type_has_are_clipped_to_before_rounding():
    model = assigned(spelt(SHARED))
    node = node_of(model, "y")
    seven = dataclasses.replace(note(node).plan.inputs[0], levels=128)
    note(node.inputs[0]).encodings[seven.name] = encoding(seven, -1.0, 1.0)
    note(node).plan = dataclasses.replace(note(node).plan, inputs={0: seven})
    SolveWeights()(model)
    PlaceQDQ()(model)
    quantizer = node_of(model, "y").inputs[0].producer().inputs[0].producer()
    assert made_by(quantizer, 0) == "Clip"
    model.graph.outputs.append(quantizer.outputs[0])
    assert run(model, 1)[1].max() <= 127


@pytest.mark.parametrize(
    "move",
    [
        "m = MaxPool<kernel_shape: ints = [2,2]>(r)",
        "m = Transpose<perm: ints = [0,1,3,2]>(r)",
        "one = Constant<value_ints = [0]>()\n two = Constant<value_ints = [3]>()\n m = Slice(r, one, two)",
    ],
)
def test_a_moved_value_takes_the_grid_again(move: str):
    text = f"""{HEAD} g (float[2,3,6,6] x, float[4,3,3,3] w, float[4,4,1,1] w2) => (float[B,4,H,W] y) {{
        c = Conv(x, w)
        r = Relu(c)
        {move}
        y = Conv(m, w2)
    }}"""
    model = placed(spelt(text))
    moved = node_of(model, "m")
    assert made_by(moved, 0) == "DequantizeLinear"
    behind = next(iter(moved.outputs[0].consumers()))
    assert grid(behind) == grid(moved.inputs[0].producer())


def test_near_miss_a_scaled_value_has_a_grid_of_its_own():
    text = f"""{HEAD} g (float[B,3,6,6] x, float[4,3,3,3] w, float[4,4,1,1] w2) => (float[B,4,4,4] y) {{
        c = Conv(x, w)
        r = Relu(c)
        m = Mul(r, r)
        y = Conv(m, w2)
    }}"""
    model = placed(spelt(text))
    assert grid(next(iter(node_of(model, "m").outputs[0].consumers()))) != grid(
        node_of(model, "m").inputs[0].producer()
    )


def test_a_reader_of_more_bits_reads_the_float_value_not_the_pair():
    text = f"""{HEAD} g (float[B,3,6,6] x, float[4,3,3,3] w, float[4,4,1,1] w2) => (float[B,4,4,4] y) {{
        c = Conv(x, w)
        y = Conv(c, w2)
    }}"""
    model = assigned(spelt(text))
    widen(node_of(model, "y"))
    SolveWeights()(model)
    PlaceQDQ()(model)
    wide = node_of(model, "y_float").inputs[0].producer().inputs[0]
    assert wide.dtype == ir.DataType.UINT16
    assert made_by(wide.producer(), 0) == "Conv", "one rounding, not two"


def test_constant_operands_of_node_units_become_codes():
    model = placed(
        spelt(f"""{HEAD} g (float[B,4,8] x, float[8] w, float[8] gamma, float[8] beta) => (float[B,4,8] y) {{
            m = Mul(x, w)
            y = LayerNormalization(m, gamma, beta)
        }}"""),
        "qnn",
    )
    norm = node_of(model, "y_float")
    types = [value.producer().inputs[0].dtype for value in norm.inputs]
    assert types == [ir.DataType.UINT8, ir.DataType.UINT8, ir.DataType.INT32]
    scales = [grid(value.producer())[0] for value in norm.inputs]
    assert scales[2] == np.float32(scales[0]) * np.float32(scales[1])
    assert {"w", "gamma", "beta"}.isdisjoint(model.graph.initializers)


@pytest.mark.parametrize("where", TARGETS)
@pytest.mark.parametrize("dtype", ["float", "float16"])
def test_the_result_is_near_the_float_model_on_every_target(where: str, dtype: str):
    """Each of the few tensors in a row is rounded by half a step of 1/255 (1/127 symmetric) of its range."""
    float_model = spelt(
        CONV.replace(",3,", ",16,")
        .replace("[4,", "[16,")
        .replace("B,4,", "B,16,")
        .replace("[4]", "[16]")
        .replace("float[", f"{dtype}[")
    )
    expected = run(float_model, 2)[0].astype(np.float64)
    found = run(placed(float_model, where), 2)[0].astype(np.float64)
    assert 0 < np.abs(found - expected).max() <= 8 / 127 * np.abs(expected).max()


def test_a_second_run_has_nothing_to_say():
    model = placed(spelt(SHARED))
    assert not PlaceQDQ()(model).changes


# ONNX Runtime quantizes the float weight of a Conv or Gemm that stands between DQ and Q.

FLOAT_MIDDLES = {
    "Conv": "middle = Conv(a, w2, b2)",
    "Conv without bias": "middle = Conv(a, w2)",
    "Conv and Relu": "conv = Conv(a, w2, b2)\n middle = Relu(conv)",
    "grouped Conv": "middle = Conv<group: int = 2>(a, w4, b2)",
    "Conv behind a pooled value": "m = MaxPool<kernel_shape: ints = [2,2]>(a)\n middle = Conv(m, w2, b2)",
    "Conv behind a transposed value": "m = Transpose<perm: ints = [0,1,3,2]>(a)\n middle = Conv(m, w2, b2)",
    "Conv in front of pooling": "c = Conv(a, w2, b2)\n middle = MaxPool<kernel_shape: ints = [2,2]>(c)",
    "ConvTranspose": "middle = ConvTranspose(a, w2, b2)",
}
LEVELS = ("none", "basic", "extended", "all")


def with_float_middle(name: str = "Conv") -> ir.Model:
    """A layer kept in float between two integer ones; channels of its weight differ so much that one scale ruins it."""
    text = f"""{HEAD} g (float[B,8,6,6] x, float[8,8,1,1] w1, float[8,8,3,3] w2, float[8] b2, float[8,8,1,1] w3,
        float[8,4,3,3] w4) => (float[B,8,H,W] y) {{
        a = Conv(x, w1)
        {FLOAT_MIDDLES[name]}
        y = Conv(middle, w3)
    }}"""
    settings = Settings(
        nodes_to_exclude=("Conv_middle*", "Conv_conv*", "Conv_c_*") if "Transpose" not in name else ("ConvTr*",)
    )
    model = assigned(spelt(text), settings=settings)
    layer = next(n for n in model.graph if note(n).fate is not None)
    weights = layer.inputs[1].const_value.numpy()
    weights[...] *= np.geomspace(1, 100, 8, dtype=np.float32)[:, None, None, None]
    SolveWeights()(model)
    return model


def worst(model: ir.Model) -> float:
    """Largest difference between any level of optimisation and none, in steps of the output's grid."""
    step = grid(model.graph.outputs[0].producer())[0]
    results = [run(model, 3, level)[0] for level in LEVELS]
    return max(float(np.abs(results[0] - other).max()) for other in results[1:]) / step


@pytest.mark.parametrize("name", FLOAT_MIDDLES)
def test_a_float_layer_between_dq_and_q_means_the_same_at_every_level(name: str):
    """Up to one step of the last grid: integer kernels round ties of products otherwise."""
    model = with_float_middle(name)
    PlaceQDQ()(model)
    layer = next(n for n in model.graph if note(n).fate is not None and note(n).fate.state == "skipped")
    assert layer.inputs[1].const_value.dtype == ir.DataType.FLOAT
    assert made_by(layer, 0) == "DequantizeLinear"
    assert worst(model) <= 1.001
    assert not [one for one in lint(model, target("ort-cpu")) if one.severity == "error"]


def test_without_the_guard_the_runtime_changes_the_numbers(monkeypatch):
    """The trap is real: this fails when ONNX Runtime no longer does it, and the guard may then go."""
    monkeypatch.setattr("qonnx.passes.qdq_writer.QDQWriter.guard_float_weights", lambda self: iter(()))
    model = with_float_middle()
    PlaceQDQ()(model)
    assert worst(model) > 3


def test_the_guard_spells_the_same_grid_for_each_channel():
    model = with_float_middle()
    PlaceQDQ()(model)
    guard = node_of(model, "middle").inputs[0].producer()
    twin = next(n for n in guard.inputs[0].consumers() if n is not guard) if len(guard.inputs[0].uses()) > 1 else None
    scales, zero_points = (value.const_value.numpy() for value in guard.inputs[1:])
    assert (guard.attributes.get_int("axis"), scales.shape) == (1, (8,))
    assert len(set(scales)) == len(set(zero_points)) == 1
    assert twin is None or grid(twin) == (scales[0], zero_points[0])


@pytest.mark.parametrize("optimization", LEVELS)
def test_the_guarded_graph_opens_at_every_level(optimization: str):
    model = with_float_middle()
    PlaceQDQ()(model)
    session(model, optimization=optimization)


def test_what_stood_between_integers_leaves_with_them():
    """A layer that is put back into float takes the residual rule of the Add behind it along."""
    from tests.test_assign import RESIDUAL

    for back, expected in ((None, "DequantizeLinear"), ("c2", "Relu")):
        model = assigned(spelt(RESIDUAL), "tensorrt")
        if back is not None:
            note(node_of(model, back)).plan = None
        SolveWeights()(model)
        PlaceQDQ(target("tensorrt"))(model)
        assert made_by(node_of(model, "s"), 1) == expected

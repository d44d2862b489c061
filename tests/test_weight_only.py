"""Weight-only quantization: every weight's fate, plans carried out, and MatMulNBits equal to DequantizeLinear."""

import dataclasses

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.tiny import build
from qonnx import runtime
from qonnx.errors import QonnxError
from qonnx.notes import note
from qonnx.passes.assign_weights import AssignWeights
from qonnx.passes.lower import Lower, pack_bits
from qonnx.passes.place_low_bit import PlaceLowBit
from qonnx.passes.place_qdq import PlaceQDQ
from qonnx.passes.solve_weights import SolveWeights
from qonnx.passes.tidy import Tidy
from qonnx.recipe import RECIPES, recipe
from qonnx.settings import Settings
from qonnx.targets import TARGETS, target

HEAD = '<ir_version: {ir}, opset_import: ["": {opset}]> g '
NBITS = dataclasses.replace(TARGETS["ort-cpu"], weight_only={b: "matmulnbits" for b in "842"})

NET = """(float[N,64] x, float[64,96] w1, float[96] b1, float[40,96] w2, float[40] b2) => (float[N,40] y) {
    a = MatMul(x, w1)
    c = Add(a, b1)
    d = Relu(c)
    y = Gemm<transB = 1>(d, w2, b2)
}"""


def model_of(text: str, opset: int = 25) -> ir.Model:
    return build(HEAD.format(ir=13 if opset >= 25 else 10, opset=opset) + text)


def quantize(model: ir.Model, *more, target=TARGETS["ort-cpu"], settings=None, **options) -> ir.Model:
    for one in (AssignWeights(target, settings, **options), SolveWeights(), PlaceQDQ(), *more, Tidy()):
        one(model)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    return model


def run(model: ir.Model, feeds: dict, optimization: str = "none") -> np.ndarray:
    return runtime.session(model, optimization=optimization, threads=1).run(None, feeds)[0]


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for graph in model.graphs() for node in graph]


def fate(model: ir.Model, kind: str = "", name: str = ""):
    """The ledger line of the first node of an operator type or with an output of that name."""
    nodes = (node for graph in model.graphs() for node in graph)
    return next(note(n).fate for n in nodes if (kind and n.op_type == kind) or n.outputs[0].name == name)


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def sqnr(reference: np.ndarray, result: np.ndarray) -> float:
    return float(10 * np.log10((reference**2).sum() / ((reference - result) ** 2).sum()))


# A uniform grid of b bits over a range R has noise R²/(12·4^b); normal weights in rows of 64 span about ±2.4 σ (blocks
# of 32: ±2.1 σ, of 16: ±1.8 σ), which gives 43, 19 and 8 dB a layer. Two layers add their noise: 3 dB less, and 2 for
# luck.
@pytest.mark.parametrize(("bits", "least"), [(8, 38), (4, 14), (2, 3)])
@pytest.mark.parametrize("symmetric", [None, True, False])
def test_the_result_is_as_exact_as_its_bits(bits, least, symmetric):
    least -= 4 if symmetric and bits == 2 else 0  # three of four codes are left: no code for the largest weight
    x, model = normal(5, 64), model_of(NET)
    before = run(model, {"x": x})
    quantize(model, bits=bits, symmetric=symmetric)
    assert sqnr(before, run(model, {"x": x})) > least
    assert fate(model, "MatMul").state == fate(model, "Gemm").state == "done"


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("block", [None, 16, 64])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("inputs", [64, 70])  # 70: the last block is not full
def test_matmulnbits_means_what_dequantize_linear_meant(bits, block, symmetric, inputs):
    text = NET.replace("64", str(inputs))
    x, plain, lowered = normal(5, inputs), model_of(text), model_of(text)
    quantize(plain, bits=bits, block=block, symmetric=symmetric)
    quantize(lowered, Lower(NBITS), target=NBITS, bits=bits, block=block, symmetric=symmetric)
    assert operators(lowered).count("MatMulNBits") == 2 and "DequantizeLinear" not in operators(lowered)
    for node in lowered.graph:
        if node.op_type == "MatMulNBits":
            assert node.attributes.get_int("accuracy_level") == 1
            assert note(node).fate.state == "done"
    want = run(plain, {"x": x})
    for optimization in ("none", "all"):
        # Two sums of 64 to 96 products each in another order: 100 ε of the largest output is generous.
        np.testing.assert_allclose(run(lowered, {"x": x}, optimization), want, atol=100 * 2**-24 * np.abs(want).max())


@pytest.mark.parametrize("bits", [3, 5, 6])
@pytest.mark.parametrize("symmetric", [None, True])
@pytest.mark.parametrize("granularity", ["block", "channel"])
def test_bits_that_no_type_has_are_packed_in_our_operator(bits, symmetric, granularity):
    x, plain, lowered = normal(5, 64), model_of(NET), model_of(NET)
    options = {"bits": bits, "symmetric": symmetric, "granularity": granularity}
    before = run(plain, {"x": x})
    quantize(plain, **options)
    quantize(lowered, Lower(TARGETS["ort-cpu"]), **options)
    if bits > 4 and granularity == "channel":  # one scale a channel: stays a byte
        assert "MatMulLowBit" not in operators(lowered)
        return
    assert operators(lowered).count("MatMulLowBit") == 2 and "DequantizeLinear" not in operators(lowered)
    want = run(plain, {"x": x})
    assert sqnr(before, want) > 6 * bits - 10 - (4 if granularity == "channel" else 0)
    for optimization in ("none", "all"):
        np.testing.assert_allclose(run(lowered, {"x": x}, optimization), want, atol=100 * 2**-24 * np.abs(want).max())
    packed = {name: v.const_value for name, v in lowered.graph.initializers.items() if name.endswith("/codes")}
    assert sorted(t.nbytes for t in packed.values()) == sorted([64 * 96 * bits // 8, 40 * 96 * bits // 8])


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("block", [8, 16, 64])
@pytest.mark.parametrize("symmetric", [None, True])
@pytest.mark.parametrize("inputs", [64, 70])
def test_half_scales_are_stored_in_two_bytes_and_mean_what_was_solved(bits, block, symmetric, inputs):
    x, model = normal(5, inputs), model_of(NET.replace("64", str(inputs)))
    AssignWeights(TARGETS["ort-cpu"], bits=bits, block=block, symmetric=symmetric, scale_bits=16)(model)
    SolveWeights("nearest-searched")(model)
    first, second = (note(node).solved.decode() for node in model.graph if note(node).solved is not None)
    biases = [model.graph.initializers[name].const_value.numpy() for name in ("b1", "b2")]
    want = np.maximum(x @ first + biases[0], 0) @ second.T + biases[1]
    for one in (PlaceLowBit(), PlaceQDQ(), Lower(TARGETS["ort-cpu"]), Tidy()):
        one(model)
    assert operators(model).count("MatMulLowBit") == 2
    scales = [v.const_value for name, v in model.graph.initializers.items() if name.endswith("/scale")]
    assert [t.dtype for t in scales] == [ir.DataType.FLOAT16] * 2
    assert sorted(t.size for t in scales) == sorted([96 * -(-inputs // block), 40 * -(-96 // block)])
    for optimization in ("none", "all"):
        np.testing.assert_allclose(run(model, {"x": x}, optimization), want, atol=200 * 2**-24 * np.abs(want).max())


def test_edges_keep_bytes():
    """What reads the input, behind a reshape or not, and convolutions; the rest has the bits asked for."""
    text = """(float[N,64] x, float[64,96] w1, float[96,64] w2, float[64,64,1,1] w3) => (float[N,64,1,1] y) {
        s = Constant<value_ints = [-1, 64]>()
        a = Reshape(x, s)
        b = MatMul(a, w1)
        c = Relu(b)
        d = MatMul(c, w2)
        t = Constant<value_ints = [-1, 64, 1, 1]>()
        e = Reshape(d, t)
        y = Conv(e, w3)
    }"""
    plans = {}
    for edges in ("same", "8"):
        model = model_of(text)
        AssignWeights(TARGETS["ort-cpu"], bits=4, edges=edges)(model)
        plans[edges] = [str(note(node).plan) for node in model.graph if note(node).plan is not None]
    assert plans["same"] == ["float × u4.block32"] * 3
    assert plans["8"] == ["float × s8.channel", "float × u4.block32", "float × s8.channel"]


def test_scales_stay_whole_where_nothing_reads_half_ones():
    model = model_of(NET)
    AssignWeights(target("openvino"), bits=4, scale_bits=8)(model)
    assert {str(note(node).plan) for node in model.graph if note(node).plan} == {"float × s4.block32"}
    for where, bits in (("openvino", 16), ("ort-cpu", 32)):
        with pytest.raises(QonnxError, match="at least 16"):
            AssignWeights(target(where), bits=4, block=8, scale_bits=bits)


def test_a_swapped_nibble_would_be_noticed():
    """A seeded fault: high bits first."""
    model = quantize(model_of(NET), Lower(NBITS), target=NBITS, bits=4)
    x = normal(5, 64)
    before = run(model, {"x": x})
    packed = next(v for name, v in model.graph.initializers.items() if name.endswith("_packed"))
    data = packed.const_value.numpy()
    packed.const_value = ir.tensor((data >> 4) | (data << 4), name=packed.name)
    assert sqnr(before, run(model, {"x": x})) < 10


@given(st.integers(1, 9), st.integers(1, 40), st.sampled_from([2, 4, 8]), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_packed_bits_unpack_low_first(rows, count, bits, seed):
    codes = np.random.default_rng(seed).integers(0, 2**bits, (rows, count)).astype(np.uint8)
    packed = pack_bits(codes, bits)
    assert packed.shape == (rows, -(-count * bits // 8))
    unpacked = [(packed[:, (i * bits) // 8] >> (i * bits % 8)) & (2**bits - 1) for i in range(count)]
    np.testing.assert_array_equal(np.stack(unpacked, 1), codes)


def test_a_turned_gemm_means_the_same_and_is_fused():
    x, plain, turned = normal(5, 64), model_of(NET), model_of(NET)
    quantize(plain, bits=4)
    quantize(turned, Lower(TARGETS["ort-cpu"]), bits=4)
    gemm = next(node for node in turned.graph if node.op_type == "Gemm")
    assert gemm.attributes.get_int("transB", 0) == 0
    want = run(plain, {"x": x})
    np.testing.assert_allclose(run(turned, {"x": x}), want, atol=100 * 2**-24 * np.abs(want).max())


@pytest.mark.parametrize("index", ["int64[3]", "int64[2,3]", "int32"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_a_table_is_gathered_as_codes(index, symmetric):
    shape = {"int64[3]": (3,), "int64[2,3]": (2, 3), "int32": ()}[index]
    result = ",".join(map(str, (*shape, 48)))
    text = f"(float[100,48] table, {index} i) => (float[{result}] y) {{ y = Gather(table, i) }}"
    kind = np.int32 if "32" in index else np.int64
    i = np.random.default_rng(0).integers(-100, 100, shape).astype(kind)
    plain, lowered = model_of(text), model_of(text)
    quantize(plain, symmetric=symmetric)
    quantize(lowered, Lower(TARGETS["ort-cpu"]), symmetric=symmetric)
    assert "DequantizeLinear" in operators(plain) and "DequantizeLinear" not in operators(lowered)
    np.testing.assert_allclose(run(lowered, {"i": i}), run(plain, {"i": i}), rtol=2**-22)
    assert next(note(node).fate.state for node in lowered.graph if node.outputs[0].name == "y") == "done"


KERNELS = {
    "Conv": ("(float[1,64,6,6] x, float[48,64,3,3] w) => (float[1,48,4,4] y) { y = Conv(x, w) }", "u4.block32"),
    "Conv, few inputs": (
        "(float[1,20,6,6] x, float[48,20,3,3] w) => (float[1,48,4,4] y) { y = Conv(x, w) }",
        "s8.channel",
    ),
    "Conv, 1×1": ("(float[1,70,6,6] x, float[48,70,1,1] w) => (float[1,48,6,6] y) { y = Conv(x, w) }", "u4.block32"),
    "Conv, groups": (
        "(float[1,128,6,6] x, float[48,64,3,3] w) => (float[1,48,4,4] y) { y = Conv<group = 2>(x, w) }",
        "u4.block32",
    ),
    "ConvTranspose": (
        "(float[1,64,5,5] x, float[64,8,3,3] w) => (float[1,8,7,7] y) { y = ConvTranspose(x, w) }",
        "u4.block32",
    ),
    "ConvTranspose, groups": (
        "(float[1,128,5,5] x, float[128,8,3,3] w) => (float[1,16,7,7] y) { y = ConvTranspose<group = 2>(x, w) }",
        "u4.block32",
    ),
}


@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.parametrize("bits", [8, 4])
def test_kernels(kind, bits):
    text, want = KERNELS[kind]
    model = model_of(text)
    x = normal(*model.graph.inputs[0].shape.numpy())
    before = run(model, {"x": x})
    quantize(model, bits=bits)
    assert fate(model, name="y").detail == f"float × {want if bits == 4 else 's8.channel'}"
    for optimization in ("none", "all"):
        assert sqnr(before, run(model, {"x": x}, optimization)) > (15 if "block" in want and bits == 4 else 38)


SKIPPED = {
    "left factor": ("(float[64,64] w, float[64,3] x) => (float[64,3] y) { y = MatMul(w, x) }", "no-constant-weight"),
    "two activations": (
        "(float[3,64] x) => (float[3,3] y) { t = Transpose(x)  y = MatMul(x, t) }",
        "no-constant-weight",
    ),
    "small": ("(float[3,8] x, float[8,8] w) => (float[3,8] y) { y = MatMul(x, w) }", "too-small"),
    "depthwise": (
        "(float[1,512,6,6] x, float[512,1,3,3] w) => (float[1,512,4,4] y) { y = Conv<group = 512>(x, w) }",
        "too-small",
    ),
    "columns of a table": (
        "(float[40,200] table, int64[3] i) => (float[40,3] y) { y = Gather<axis = 1>(table, i) }",
        "shape",
    ),
    "double": ("(double[3,64] x, double[64,64] w) => (double[3,64] y) { y = MatMul(x, w) }", "not-float"),
    "shared": (
        "(float[64,64] x, float[64,64] w) => (float[64,64] y) { a = MatMul(x, w) y = Add(a, w) }",
        "shared-weight",
    ),
    "two axes of one weight": (
        "(float[3,64] x, float[64,64] w) => (float[3,64] y) { a = MatMul(x, w) y = Gemm<transB = 1>(a, w) }",
        "shared-weight",
    ),
}


@pytest.mark.parametrize("case", SKIPPED)
def test_what_stays_float_says_why(case):
    text, reason = SKIPPED[case]
    model = quantize(model_of(text))
    states = [note(n).fate for n in model.graph if note(n).fate is not None]
    assert states and {(f.state, f.reason) for f in states} == {("skipped", reason)}
    assert "DequantizeLinear" not in operators(model)


def test_a_gather_of_sizes_is_no_weight():
    model = model_of("(float[N,64] x) => (int64 y) { s = Shape(x) i = Constant<value_int = 0>() y = Gather(s, i) }")
    quantize(model)
    assert all(note(node).fate is None for node in model.graph)


def test_infinite_weights_are_left():
    model = model_of("(float[3,64] x, float[64,64] w) => (float[3,64] y) { y = MatMul(x, w) }")
    weight = model.graph.initializers["w"]
    data = weight.const_value.numpy().copy()
    data[3, 3] = np.inf
    weight.const_value = ir.tensor(data, name="w")
    assert fate(quantize(model), "MatMul").reason == "not-finite"


def test_exclusion_is_said():
    model = quantize(model_of(NET), settings=Settings(nodes_to_exclude=("a",)))
    assert fate(model, "MatMul").reason == "excluded" and fate(model, "Gemm").state == "done"


def test_readers_that_agree_share_one_stored_weight():
    model = model_of("(float[3,64] x, float[64,64] w) => (float[3,64] y) { a = MatMul(x, w) y = MatMul(a, w) }")
    quantize(model)
    assert operators(model) == ["DequantizeLinear", "MatMul", "MatMul"] and len(model.graph.initializers) == 3
    packed = model_of("(float[3,64] x, float[64,64] w) => (float[3,64] y) { a = MatMul(x, w) y = MatMul(a, w) }")
    quantize(packed, Lower(NBITS), target=NBITS)
    assert operators(packed) == ["MatMulNBits", "MatMulNBits"] and len(packed.graph.initializers) == 2


BRANCH = """(bool flag, float[3,64] x, float[64,64] w) => (float[3,64] y) {
    y = If(flag) <
        then_branch = t () => (float[3,64] a) { a = MatMul(x, w) },
        else_branch = e () => (float[3,64] b) { c = MatMul(x, w) b = Relu(c) }>
}"""


@pytest.mark.parametrize("lowering", [(), (Lower(NBITS),)], ids=["dq", "matmulnbits"])
def test_bodies_are_quantized_with_weights_of_the_graph_around_them(lowering):
    model, x = model_of(BRANCH), normal(3, 64)
    before = {flag: run(model, {"flag": np.array(flag), "x": x}) for flag in (True, False)}
    quantize(model, *lowering, target=NBITS if lowering else TARGETS["ort-cpu"])
    kind = "MatMulNBits" if lowering else "DequantizeLinear"
    assert operators(model).count(kind) == (2 if lowering else 1)  # decoded once, outside of the bodies
    assert len(model.graph.initializers) == (2 if lowering else 3) and "w" not in model.graph.initializers
    for flag, want in before.items():
        for optimization in ("none", "all"):
            assert sqnr(want, run(model, {"flag": np.array(flag), "x": x}, optimization)) > 35


@pytest.mark.parametrize("bits", [8, 4])
def test_half_precision_models_keep_their_type(bits):
    text = "(float16[3,64] x, float16[64,64] w) => (float16[3,64] y) { y = MatMul(x, w) }"
    model, x = model_of(text), normal(3, 64).astype(np.float16)
    before = run(model, {"x": x})
    quantize(model, bits=bits)
    scale = next(v for name, v in model.graph.initializers.items() if name.endswith("_scale"))
    assert scale.dtype == ir.DataType.FLOAT16
    assert sqnr(before.astype(np.float32), run(model, {"x": x}).astype(np.float32)) > (38 if bits == 8 else 15)


@pytest.mark.parametrize(
    ("name", "options", "opset", "words"),
    [
        ("onnx", {"bits": 2}, 21, "takes no 2-bit weights"),
        ("ort-cpu", {"bits": 2}, 21, "need opset 25 and the model has 21"),
        ("ort-cpu", {"bits": 4}, 17, "need opset 21 and the model has 17"),
        ("ort-cpu", {"bits": 4, "block": 24}, 21, "not a power of two"),
    ],
)
def test_what_cannot_be_written_is_refused(name, options, opset, words):
    model = model_of(NET, opset)
    with pytest.raises((QonnxError, ir.passes.PassError)) as caught:
        quantize(model, target=target(name), **options)
    assert words in str(caught.value) or words in str(caught.value.__cause__)
    assert "DequantizeLinear" not in operators(model)


def test_targets_choose_symmetry_and_granularity():
    assert "s4" in fate(quantize(model_of(NET), target=target("tensorrt"), bits=4), "MatMul").detail
    assert "u4.block32" in fate(quantize(model_of(NET), target=target("onnx"), bits=4), "MatMul").detail
    qnn = quantize(model_of(NET), target=target("qnn"), bits=4)
    assert not any(node.attributes.get_int("block_size", 0) for node in qnn.graph if node.op_type == "DequantizeLinear")


@pytest.mark.parametrize("name", [n for n in RECIPES if n.startswith("weight-") and not recipe(n).needs_data])
def test_presets_run_end_to_end(name):
    model, x = model_of(NET, 17), normal(5, 64)
    before = run(model, {"x": x})
    recipe(name).run(model, target=target("ort-cpu"))
    assert [note(n).fate.state for n in model.graph if note(n).fate is not None] == ["done", "done"]
    least = {"weight-int8": 38, "weight-int4": 14, "weight-int3": 8, "weight-int2": 3}
    assert sqnr(before, run(model, {"x": x})) > least[name]

"""The linter: every rule finds its fault in a sound graph, and stays silent on the sound graph and on a near miss."""

import json

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from qonnx.__main__ import main
from qonnx.linter import RULES, lint
from qonnx.linter.view import View
from qonnx.targets import TARGETS

# u8 activations, s8 weight by channel, int32 bias (0.5 · 0.25 and 0.5 · 0.125), output quantized: sound on ort-cpu.
CONV = """
<ir_version: 10, opset_import: ["": 21, "com.microsoft": 1]>
agraph (float[1,2,4,4] x) => (float[1,2,4,4] y)
<float xs = {0.5}, uint8 xz = {128}, int8[2,2,1,1] wq = {1, 2, 3, 4}, float[2] ws = {0.25, 0.125}, int8[2] wz = {0, 0},
 int32[2] bq = {5, 6}, float[2] bs = {0.125, 0.0625}, int32[2] bz = {0, 0}, float ys = {0.5}, uint8 yz = {128}>
{
  xq = QuantizeLinear(x, xs, xz)
  xd = DequantizeLinear(xq, xs, xz)
  wd = DequantizeLinear<axis = 0>(wq, ws, wz)
  bd = DequantizeLinear<axis = 0>(bq, bs, bz)
  c = Conv(xd, wd, bd)
  cq = QuantizeLinear(c, ys, yz)
  y = DequantizeLinear(cq, ys, yz)
}
"""
# The same with symmetric s8 and a float bias: sound on TensorRT (but for its size).
CONV_TRT = (
    CONV.replace("uint8 xz = {128}", "int8 xz = {0}")
    .replace("uint8 yz = {128}", "int8 yz = {0}")
    .replace("int32[2] bq = {5, 6}, float[2] bs = {0.125, 0.0625}, int32[2] bz = {0, 0}", "float[2] bd = {1, 2}")
    .replace("  bd = DequantizeLinear<axis = 0>(bq, bs, bz)\n", "")
    .replace("  cq = QuantizeLinear(c, ys, yz)\n  y = DequantizeLinear(cq, ys, yz)", "  y = Identity(c)")
)
# Residual branch quantized, the convolution's branch not: sound on TensorRT.
RESIDUAL = CONV_TRT.replace(
    "  y = Identity(c)", "  rq = QuantizeLinear(x, ys, yz)\n  r = DequantizeLinear(rq, ys, yz)\n  y = Add(c, r)"
)
MATMUL = """
<ir_version: 10, opset_import: ["": 21]>
agraph (float[3,4] x) => (float[3,2] y)
<float xs = {0.5}, uint8 xz = {128}, int8[4,2] wq = {1, 2, 3, 4, 5, 6, 7, 8}, float ws = {0.25}, int8 wz = {0}>
{
  xq = QuantizeLinear(x, xs, xz)
  xd = DequantizeLinear(xq, xs, xz)
  wd = DequantizeLinear(wq, ws, wz)
  y = MatMul(xd, wd)
}
"""
RESHAPE = """
<ir_version: 10, opset_import: ["": 21]>
agraph (float[2,2] x) => (float[4] y)
<float xs = {0.5}, uint8 xz = {128}, float ys = {0.5}, uint8 yz = {128}, int64[1] to = {4}>
{
  xq = QuantizeLinear(x, xs, xz)
  xd = DequantizeLinear(xq, xs, xz)
  r = Reshape(xd, to)
  rq = QuantizeLinear(r, ys, yz)
  y = DequantizeLinear(rq, ys, yz)
}
"""
SIGMOID = """
<ir_version: 10, opset_import: ["": 21]>
agraph (float[4] x) => (float[4] y)
<float ys = {0.0000152587890625}, uint16 yz = {0}>
{
  s = Sigmoid(x)
  sq = QuantizeLinear(s, ys, yz)
  y = DequantizeLinear(sq, ys, yz)
}
"""
RELU = CONV.replace("cq = QuantizeLinear(c, ys, yz)", "r = Relu(c)\n  cq = QuantizeLinear(r, ys, yz)").replace(
    "uint8 yz = {128}", "uint8 yz = {0}"
)
BIG_GEMM = """
<ir_version: 10, opset_import: ["": 21]>
agraph (float[32,16] x) => (float[32,16] y)
<float xs = {0.5}, int8 xz = {0}, float ws = {0.25}, int8 wz = {0}, int8[16,16] wq>
{
  xq = QuantizeLinear(x, xs, xz)
  xd = DequantizeLinear(xq, xs, xz)
  wd = DequantizeLinear(wq, ws, wz)
  y = Gemm(xd, wd)
}
"""
AGAIN = "y = DequantizeLinear(cq, ys, yz)", "d = DequantizeLinear(cq, ys, yz)\n  dq = QuantizeLinear(d, xs, xz)\n  "
INT4 = MATMUL.replace("int8[4,2] wq", "int4[4,2] wq").replace("int8 wz", "int4 wz")
BLOCKS = MATMUL.replace(
    "float ws = {0.25}, int8 wz = {0}", "float[2,2] ws = {1, 2, 3, 4}, int8[2,2] wz = {0, 0, 0, 0}"
).replace("DequantizeLinear(wq", "DequantizeLinear<axis = 0, block_size = 2>(wq")
BY_CHANNEL = MATMUL.replace("float ws = {0.25}, int8 wz = {0}", "float[2] ws = {1, 2}, int8[2] wz = {0, 0}").replace(
    "DequantizeLinear(wq", "DequantizeLinear<axis = 1>(wq"
)

# rule -> target, sound graph, (old, new) that seeds the fault, (old, new) that is a near miss.
CASES = {
    "bad-scale": ("ort-cpu", CONV, ("ys = {0.5}", "ys = {0}"), ("ys = {0.5}", "ys = {1e-30}")),
    "scale-count": (
        "ort-cpu",
        CONV,
        ("float[2] ws = {0.25, 0.125}, int8[2] wz = {0, 0}", "float[3] ws = {1, 2, 3}, int8[3] wz = {0, 0, 0}"),
        ("float[2] ws = {0.25, 0.125}, int8[2] wz = {0, 0}", "float[1] ws = {0.25}, int8[1] wz = {0}"),
    ),
    "wrong-axis": ("ort-cpu", CONV, ("axis = 0>(wq", "axis = 1>(wq"), ("axis = 0>(wq", "axis = -4>(wq")),
    "bias-scale": ("ort-cpu", CONV, ("{0.125, 0.0625}", "{0.125, 0.125}"), ("{0.125, 0.0625}", "{0.125, 0.06250001}")),
    "opset-too-low": ("ort-cpu", INT4, ('"": 21', '"": 19'), ('"": 21', '"": 23')),
    "opset-too-high": ("ort-cpu", MATMUL, ('"": 21', '"": 26'), ('"": 21', '"": 25')),
    "type-not-taken": ("tensorrt", CONV_TRT, ("int8 xz = {0}", "uint8 xz = {0}"), ("int8 xz = {0}", "int8 xz = {3}")),
    "float-weight": (
        "ort-cpu",
        CONV,
        ("c = Conv(xd, wd, bd)", "c = Conv(xd, wf)"),
        ("c = Conv(xd, wd, bd)", "c = Conv(x, wf)"),
    ),
    "nonzero-zero-point": (
        "tensorrt",
        CONV_TRT,
        ("int8 xz = {0}", "int8 xz = {3}"),
        ("float xs = {0.5}", "float xs = {3}"),
    ),
    "blocked-scale": ("qnn", MATMUL, (MATMUL, BLOCKS), (MATMUL, BY_CHANNEL)),
    "per-channel-not-taken": ("qnn", MATMUL, (MATMUL, BY_CHANNEL), (MATMUL, CONV)),
    "fixed-scale": ("qnn", SIGMOID, ("0.0000152587890625", "0.00002"), ("Sigmoid", "HardSigmoid")),
    "contrib-operator": (
        "onnx",
        MATMUL.replace('"": 21', '"": 21, "com.microsoft": 1'),
        ("xq = Quant", "xq = com.microsoft.Quant"),
        ("y = MatMul", "y = com.acme.MatMul"),
    ),
    "integer-operator": (
        "tensorrt",
        BIG_GEMM,
        ("y = Gemm(xd, wd)", "m = MatMulInteger(xq, wq)\n  y = Cast<to = 1>(m)"),
        ("y = Gemm(xd, wd)", "y = MatMul(xd, wd)"),
    ),
    "unfusable-matmul": (
        "ort-cpu",
        MATMUL,
        ("uint8 xz = {128}", "uint16 xz = {128}"),
        ("uint8 xz = {128}", "int8 xz = {0}"),
    ),
    "unquantized-output": (
        "ort-cpu",
        CONV,
        ("cq = QuantizeLinear(c, ys, yz)", "e = Exp(c)\n  cq = QuantizeLinear(e, ys, yz)"),
        ("c = Conv(xd, wd, bd)", "c0 = Conv(xd, wd, bd)\n  c = Relu(c0)"),
    ),
    "relu-not-absorbed": ("ort-cpu", RELU, ("uint8 yz = {0}", "uint8 yz = {7}"), ("Relu(c)", "Neg(c)")),
    "output-without-reader": (
        "tensorrt",
        CONV_TRT,
        ("y = Identity(c)", "cq = QuantizeLinear(c, ys, yz)\n  d = DequantizeLinear(cq, ys, yz)\n  y = Relu(d)"),
        ("y = Identity(c)", "cq = QuantizeLinear(c, ys, yz)\n  d = DequantizeLinear(cq, ys, yz)\n  y = Conv(d, wd)"),
    ),
    "residual-both-branches": (
        "tensorrt",
        RESIDUAL,
        ("y = Add(c, r)", "cq = QuantizeLinear(c, xs, xz)\n  d = DequantizeLinear(cq, xs, xz)\n  y = Add(d, r)"),
        ("y = Add(c, r)", "cq = QuantizeLinear(x, xs, xz)\n  d = DequantizeLinear(cq, xs, xz)\n  y = Add(d, r)"),
    ),
    "residual-not-quantized": ("tensorrt", RESIDUAL, ("Add(c, r)", "Add(c, x)"), ("Add(c, r)", "Add(c, ws)")),
    "scale-changes": ("ort-cpu", RESHAPE, ("ys = {0.5}", "ys = {0.25}"), ("r = Reshape(xd, to)", "r = Exp(xd)")),
    "quantized-bias": ("tensorrt", CONV_TRT, (CONV_TRT, CONV), ("float[2] bd = {1, 2}", "float[2] bd = {0, 0}")),
    "asymmetric-weight": (
        "openvino",
        CONV,
        ("int8[2] wz = {0, 0}", "int8[2] wz = {0, 3}"),
        ("uint8 xz = {128}", "uint8 xz = {9}"),
    ),
    "small-range": ("qnn", RESHAPE, ("{0.5}", "{3e-7}"), ("{0.5}", "{4e-7}")),
    "small-operator": ("tensorrt", BIG_GEMM, ("[32,16]", "[1,16]"), ("[32,16]", "[N,16]")),
    "double-quantization": (
        "ort-cpu",
        CONV,
        (AGAIN[0], AGAIN[1] + "y = DequantizeLinear(dq, xs, xz)"),
        (AGAIN[0], AGAIN[1].replace("(d,", "(c,") + "y = Identity(d)"),
    ),
    "dangling": (
        "ort-cpu",
        MATMUL,
        ("y = MatMul(xd, wd)", "y = MatMul(x, wd)"),
        ("=> (float[3,2] y)", "=> (float[3,2] y, float[4,2] wd)"),
    ),
    "saturating-range": ("ort-cpu", CONV, ("{1, 2, 3, 4}", "{1, 2, 3, -65}"), ("{1, 2, 3, 4}", "{1, 2, 3, -64}")),
    "weight-stored-float": (
        "ort-cpu",
        MATMUL,
        ("wd = Deq", "wq0 = QuantizeLinear(wf, ws, wz)\n  wd = Deq"),
        ("xq = Quant", "u = QuantizeLinear(wf, ws, wz)\n  xq = Quant"),
    ),
}
# Faults that need more than one replacement.
EXTRA = {
    "float-weight": [("uint8 yz = {128}>", "uint8 yz = {128}, float[2,2,1,1] wf = {1, 2, 3, 4}>")],
    "weight-stored-float": [("int8 wz = {0}>", "int8 wz = {0}, float[4,2] wf = {1, 2, 3, 4, 5, 6, 7, 8}>")],
}
FAULT_ONLY = {"weight-stored-float": [("DequantizeLinear(wq,", "DequantizeLinear(wq0,")]}


def build(text: str, replacements=()) -> ir.Model:
    for old, new in replacements:
        assert old in text, f"the sound graph has no '{old}'"
        text = text.replace(old, new)
    model = onnx.parser.parse_model(text.replace("int8[16,16] wq", f"int8[16,16] wq = {{{', '.join(['1'] * 256)}}}"))
    return ir.from_proto(model)


def found(model: ir.Model, target: str) -> set[str]:
    return {finding.rule for finding in lint(model, TARGETS[target])}


@pytest.fixture(autouse=True)
def no_vnni(monkeypatch):
    monkeypatch.setattr("qonnx.cpu.has_vnni", lambda: False)


def test_every_rule_has_a_case_and_every_case_a_rule():
    assert set(CASES) == set(RULES)


@pytest.mark.parametrize("rule", RULES)
def test_rule_fires_on_its_fault_and_not_on_a_near_miss(rule):
    target, sound, fault, miss = CASES[rule]
    extra = EXTRA.get(rule, [])
    assert rule not in found(build(sound, extra), target)
    assert rule in found(build(sound, [*extra, fault, *FAULT_ONLY.get(rule, [])]), target)
    assert rule not in found(build(sound, [*extra, miss]), target)


@pytest.mark.parametrize("rule", RULES)
def test_rule_says_what_and_how_to_cure_it(rule):
    assert RULES[rule].remedy
    assert RULES[rule].summary.endswith((".", ")"))


@pytest.mark.parametrize("rule", [name for name, rule in RULES.items() if not rule.everywhere])
def test_rule_of_a_target_is_forbidden_somewhere_and_silent_elsewhere(rule):
    target, sound, fault, _ = CASES[rule]
    broken = build(sound, [*EXTRA.get(rule, []), fault, *FAULT_ONLY.get(rule, [])])
    for other in TARGETS.values():
        assert (rule in found(broken, other.name)) <= (rule in other.forbid)
    assert rule in TARGETS[target].forbid


def test_sound_graphs_have_no_errors_and_no_warnings():
    for text, target in (
        (CONV, "ort-cpu"),
        (MATMUL, "ort-cpu"),
        (RELU, "ort-cpu"),
        (RESIDUAL, "tensorrt"),
        (CONV, "qnn"),
    ):
        assert [one for one in lint(build(text), TARGETS[target]) if one.severity != "hint"] == []


def test_a_dequantizer_shared_by_several_readers_is_no_finding():
    shared = build(MATMUL, [("y = MatMul(xd, wd)", "a = MatMul(xd, wd)\n  b = MatMul(xd, wd)\n  y = Add(a, b)")])
    assert found(shared, "ort-cpu") == set()


def test_faults_inside_a_branch_are_found():
    inner = CONV.strip().split("agraph")[1]
    body = inner[inner.index("{\n") + 2 : inner.rindex("}")].replace("ys, yz)\n  y =", "ys, zero)\n  y =")
    text = f"""
    <ir_version: 10, opset_import: ["": 21]>
    outer (bool flag, float[1,2,4,4] x) => (float[1,2,4,4] z)
    <float xs = {{0.5}}, uint8 xz = {{128}}, int8[2,2,1,1] wq = {{1, 2, 3, 4}}, float[2] ws = {{0.25, 0.125}},
     int8[2] wz = {{0, 0}}, int32[2] bq = {{5, 6}}, float[2] bs = {{9, 9}}, int32[2] bz = {{0, 0}}, float ys = {{0.5}},
     uint8 zero = {{0}}, uint8 yz = {{128}}>
    {{
      z = If (flag) <
        then_branch = a () => (float[1,2,4,4] y) {{ {body} }},
        else_branch = b () => (float[1,2,4,4] e) {{ e = Identity(x) }}
      >
    }}"""
    assert "bias-scale" in found(ir.from_proto(onnx.parser.parse_model(text)), "ort-cpu")


class Reader(CalibrationDataReader):
    def __init__(self):
        self.samples = iter(
            [{"x": np.random.default_rng(seed).normal(size=(1, 8, 6, 6)).astype(np.float32)} for seed in range(3)]
        )

    def get_next(self):
        return next(self.samples, None)


@pytest.fixture(scope="module")
def other_tool(tmp_path_factory):
    """A residual block quantized by onnxruntime.quantization with its defaults for the CPU (u8, asymmetric)."""
    folder = tmp_path_factory.mktemp("lint")
    draw = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(draw.normal(size=(8, 8, 1, 1)).astype(np.float32), name) for name in ("w1", "w2")
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["r"], name="relu"),
        helper.make_node("Conv", ["r", "w2"], ["b"], name="second"),
        helper.make_node("Add", ["b", "x"], ["y"], name="residual"),
    ]
    ends = [helper.make_tensor_value_info(name, 1, [1, 8, 6, 6]) for name in ("x", "y")]
    model = helper.make_model(
        helper.make_graph(nodes, "g", ends[:1], ends[1:], weights),
        opset_imports=[helper.make_opsetid("", 21)],
        ir_version=10,
    )
    onnx.save(model, folder / "float.onnx")
    quantize_static(
        folder / "float.onnx", folder / "quant.onnx", Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip
    return folder


def test_a_model_of_onnxruntime_is_clean_on_the_cpu_and_not_on_tensorrt(other_tool):
    model = ir.load(other_tool / "quant.onnx")
    assert [one for one in lint(model, TARGETS["ort-cpu"]) if one.severity == "error"] == []
    rules = found(model, "tensorrt")
    assert {"nonzero-zero-point", "type-not-taken", "residual-both-branches"} <= rules


def optimised(model: ir.Model, tmp_path) -> list[str]:
    """Operator types that ONNX Runtime really runs."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]


@pytest.mark.parametrize("rule", ["unfusable-matmul", "relu-not-absorbed", "unquantized-output", "bias-scale"])
def test_what_the_rule_says_is_what_onnxruntime_does(rule, tmp_path):
    """The sound graph runs on integers, the faulty one in float."""
    _, sound, fault, _ = CASES[rule]
    integer = {"QLinearConv", "QLinearMatMul", "MatMulIntegerToFloat"}
    assert integer & set(optimised(build(sound), tmp_path))
    assert not integer & set(optimised(build(sound, [fault]), tmp_path))


def test_onnxruntime_quantizes_a_float_weight_by_itself(tmp_path):
    faulty = build(CONV, [CASES["float-weight"][2], *EXTRA["float-weight"]])
    assert "QLinearConv" in optimised(faulty, tmp_path)


def test_onnxruntime_reads_scales_along_a_wrong_axis_wrongly(tmp_path):
    faulty = build(
        CONV, [CASES["wrong-axis"][2], ("{0.25, 0.125}", "{0.25, 0.0625}"), ("{0.125, 0.0625}", "{0.125, 0.03125}")]
    )
    x = np.random.default_rng(1).normal(size=(1, 2, 4, 4)).astype(np.float32) * 8
    outputs = []
    for level in (ort.GraphOptimizationLevel.ORT_DISABLE_ALL, ort.GraphOptimizationLevel.ORT_ENABLE_ALL):
        options = ort.SessionOptions()
        options.graph_optimization_level = level
        session = ort.InferenceSession(
            ir.to_proto(faulty).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        outputs.append(session.run(None, {"x": x})[0])
    assert np.abs(outputs[0] - outputs[1]).max() > 1  # two steps of the output's grid


def test_view_reads_types_without_shape_inference():
    view = View(build(INT4))
    assert sorted(linear.type for linear in view.linears.values()) == ["s4", "u8", "u8"]


def test_command_prints_findings_and_fails_on_errors(other_tool, capsys):
    path = str(other_tool / "quant.onnx")
    assert main(["lint", path]) == 0
    assert main(["lint", path, "--target", "tensorrt"]) == 1
    printed = capsys.readouterr().out
    assert "nonzero-zero-point" in printed and "→" in printed
    assert main(["lint", path, "--target", "tensorrt", "--json"]) == 1
    rows = json.loads(capsys.readouterr().out)
    assert {"rule", "severity", "node", "sentence", "remedy"} <= set(rows[0])
    errors = sorted({row["rule"] for row in rows if row["severity"] == "error"})
    assert main(["lint", path, "--target", "tensorrt", "--ignore", *errors]) == 0


def test_command_lists_its_rules(capsys):
    assert main(["lint", "--rules"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("wrong-axis", "saturating-range"))


@pytest.mark.parametrize(
    "words", [["lint"], ["lint", "m.onnx", "--target", "tensort"], ["lint", "m.onnx", "--ignore", "axis"]]
)
def test_command_says_what_is_wrong_with_its_arguments(words, capsys):
    assert main(words) == 2
    assert capsys.readouterr().err.startswith("qonnx: ")

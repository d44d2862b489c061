"""Code books in models: what the passes plan, place and leave alone, and that the graph computes what was solved."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from qonnx.codebooks import CODEBOOKS
from qonnx.notes import note
from qonnx.passes import PASSES, SPELLING
from qonnx.recipe import Recipe, Step
from qonnx.runtime import session
from qonnx.targets import target


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


NET = """<ir_version: 10, opset_import: ["" : 21]>
net (int64[N] ids, float[K, 4] other) => (float[N, 96] z, float[N, 4] s) {
  x = Gather (table, ids)
  a = MatMul (x, w1)
  h = Add (a, b1)
  r = Relu (h)
  g = Gemm <transB = 1> (r, w2, b2)
  z = Add (g, h)
  s = MatMul (z, small)
}"""
SHAPES = {"table": (40, 64), "w1": (64, 96), "b1": (96,), "w2": (96, 96), "b2": (96,), "small": (96, 4)}
PRE = tuple(Step(name) for name in SPELLING)


def net(text=NET, **arrays):
    made = {name: normal(*shape) / shape[0] ** 0.5 for name, shape in SHAPES.items()} | arrays
    model = ir.from_onnx_text(text)
    reads = {value.name: [] for node in model.graph for value in node.inputs}
    for node in model.graph:
        for index, value in enumerate(node.inputs):
            reads[value.name].append((node, index))
    for name, data in made.items():
        if reads.get(name):
            value = ir.Value(name=name, shape=ir.Shape(data.shape), const_value=ir.tensor(data, name=name))
            value.type = ir.TensorType(value.const_value.dtype)
            model.graph.register_initializer(value)
            for node, index in reads[name]:
                node.replace_input_with(index, value)
    return model


def quantized(model, format="1x8v4", data=True, solver="gptq", **options):
    options = {"format": format, "most": 60.0, **options}
    steps = (Step("assign_codebooks", options), Step("solve_in_turn", {"solver": solver}), Step("place_codebooks"))
    samples = [feeds(seed) for seed in range(6)] if data else None
    Recipe("t", "t", (*PRE, *steps, Step("tidy"))).run(model, target=target("ort-cpu"), data=samples or [feeds()])
    return model


def feeds(seed=9, other=np.float32):
    return {"ids": np.random.default_rng(seed).integers(0, 40, 50), "other": np.zeros((2, 4), other)}


def run(model, other=np.float32):
    return session(model, optimization="none", threads=1).run(None, feeds(other=other))


def kinds(model):
    return [node.op_type for node in model.graph]


def sqnr(true, found):
    return 10 * np.log10((true**2).sum() / ((true - found) ** 2).sum())


def test_products_and_tables_become_operators_with_their_biases():
    model = net()
    before = run(model)
    quantized(model)
    assert kinds(model) == [
        "GatherCodebook",
        "Cast",
        "MatMulCodebook",
        "Relu",
        "MatMulCodebook",
        "Add",
        "MatMulCodebook",
    ]
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert sqnr(before[0], run(model)[0]) > 8
    fates = {note(node).fate.detail for node in model.graph if note(node).fate is not None}
    assert fates == {"float × 1×8-bit books of 4"}


def test_the_file_holds_nothing_twice():
    model = quantized(net())
    held = sum(value.const_value.nbytes for value in model.graph.initializers.values())
    bits = sum(CODEBOOKS["1x8v4"].stored_bits(*shape) for shape in [(40, 64), (96, 64), (96, 96), (4, 96)])
    assert held == bits // 8 + 4 * (96 + 96 + 4)


def test_the_graph_computes_what_the_solver_decoded():
    model = net()
    options = {"format": "1x8v4", "most": 60.0}
    steps = [Step("assign_codebooks", options), Step("solve_in_turn", {"solver": "gptq"})]
    Recipe("t", "t", (*PRE, *steps)).run(model, target=target("ort-cpu"), data=[feeds(s) for s in range(3)])
    decoded = [note(node).solved.decode() for node in model.graph if note(node).solved is not None]
    shifts = [note(node).mean_error for node in model.graph if note(node).mean_error is not None]
    PASSES["place_codebooks"]()(model)
    table, w1, w2 = decoded[:3]
    b1, b2 = (normal(96) / 96**0.5 - shift for shift in shifts[:2])
    h = table[feeds()["ids"]] @ w1 + b1
    z = np.maximum(h, 0) @ w2.T + b2 + h
    np.testing.assert_allclose(run(model)[0], z, rtol=0, atol=2.0**-9 * np.abs(z).max())  # float16 rows of the table


@pytest.mark.parametrize("format", ["vptq-2x8v8", "2x8v8"])
def test_vptq_rows_are_gathered_and_multiplied(format):
    model = net()
    before = run(model)
    quantized(model, format)
    gathered = [node for node in model.graph if node.op_type == "GatherCodebook"]
    across = format.startswith("vptq")
    assert len(gathered) == (3 if across else 1)  # books would not pay for the matrix of 4 outputs
    assert kinds(model).count("MatMulCodebook") == (0 if across else 2)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert sqnr(before[0], run(model)[0]) > 15


def test_half_precision_stays_half():
    text = NET.replace("float[", "float16[")
    half = {name: (normal(*shape) / shape[0] ** 0.5).astype(np.float16) for name, shape in SHAPES.items()}
    model = net(text, **half)
    before = run(model, other=np.float16)
    samples = [feeds(seed, np.float16) for seed in range(6)]
    steps = (
        Step("assign_codebooks", {"format": "1x8v4", "most": 60.0}),
        Step("solve_in_turn"),
        Step("place_codebooks"),
    )
    Recipe("t", "t", (*PRE, *steps)).run(model, target=target("ort-cpu"), data=samples)
    after = run(model, other=np.float16)
    assert after[0].dtype == np.float16
    assert sqnr(before[0].astype(np.float64), after[0].astype(np.float64)) > 8


def test_a_weight_of_two_readers_is_stored_once():
    text = NET.replace("g = Gemm <transB = 1> (r, w2, b2)", "y = MatMul (r, w3)\n  g = MatMul (y, w3)")
    model = quantized(net(text, w3=normal(96, 96) / 10))
    codes = [node.inputs[1] for node in model.graph if node.op_type == "MatMulCodebook"]
    assert len(codes) == 4 and codes[1] is codes[2]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("g = Gemm <transB = 1> (r, w2, b2)", "g = Gemm <transB = 1, alpha = 2.0> (r, w2, b2)"),
        ("g = Gemm <transB = 1> (r, w2, b2)", "q = Add (r, w2)\n  g = MatMul (q, w2)"),  # read as numbers too
        ("g = Gemm <transB = 1> (r, w2, b2)", "g = MatMul (w2, r)"),  # the constant on the left
    ],
    ids=["alpha", "other reader", "left"],
)
def test_near_misses_stay_as_they_are(old, new):
    model = net(NET.replace(old, new))
    changes = Recipe("t", "t", (*PRE, Step("assign_codebooks", {"most": 60.0, "format": "1x8v4"}))).run(
        model, target=target("ort-cpu")
    )
    assert changes[-1].changes == 3
    assert all(note(v.producer()).plan is None for v in model.graph.outputs[:1])


def test_what_books_would_not_pay_for_is_left_to_other_passes():
    model = net()
    Recipe("t", "t", (*PRE, Step("assign_codebooks", {"format": "1x8v4", "most": 6.0}))).run(
        model, target=target("ort-cpu")
    )
    planned = [node.op_type for node in model.graph if note(node).plan is not None]
    assert planned == ["MatMul", "Gemm"]  # 40 × 64 entries and 96 × 4 are smaller than their book

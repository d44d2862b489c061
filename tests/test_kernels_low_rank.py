"""Low-rank branches of products, y += (x · A) · B: kernel = function body = onnx.reference."""

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx.reference import ReferenceEvaluator

from qonnx.custom_ops import codebook, library_path, lowbit, ops
from qonnx.runtime import session
from tests import low_bit_cases, test_kernels_codebook

OPERATORS = (lowbit.EXACT, lowbit.INT8, codebook.EXACT, codebook.INT8)
TIERS = ("scalar", "avx2", "avx512", "avx512vnni")
native = pytest.mark.skipif(library_path() is None, reason="no native library")


def numbers(shape, dtype=np.float32, seed=1):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def weight_of(op, rows, columns):
    if op in (codebook.EXACT, codebook.INT8):
        return test_kernels_codebook.weight_of(rows, columns // 8 * 8, 32)
    return low_bit_cases.weight_of("nf4" if op == lowbit.INT8 else "b3/rows", rows, columns // 8 * 8, 32)


def factors_of(rows, columns, rank, dtype=np.float32):
    return [(numbers(shape, np.float32, 2) / 4).astype(dtype) for shape in ((columns, rank), (rank, rows))]


def model_of(op, weight, a, b, *, element="FLOAT", bias=None, constant=True, plain_too=False):
    """x [tokens, K] -> y [tokens, N]; unless `constant` the factors are inputs; `plain_too` adds an output without."""
    dtype = ir.DataType[element]
    attributes = weight.attributes()
    x = ir.Value(name="x", shape=ir.Shape(["tokens", attributes["K"]]), type=ir.TensorType(dtype))
    bias = np.zeros(1) if bias is None else bias
    arrays = {**weight.arrays(), "bias": bias.astype(dtype.numpy()), "low_rank_a": a, "low_rank_b": b}
    values = {}
    for name, array in arrays.items():
        tensor = ir.tensor(array, name=name)
        free = not constant and name.startswith("low_rank")
        given = {"shape": tensor.shape, "type": ir.TensorType(tensor.dtype)}
        values[name] = ir.Value(name=name, **(given if free else {"const_value": tensor}))
    nodes = [ops.node(op, [x, *values.values()], node_name="product", **attributes)]
    if plain_too:
        nodes.append(ops.node(op, [x, *list(values.values())[:-2]], node_name="plain", **attributes))
    for name, node in zip(("y", "plain"), nodes, strict=False):
        y = node.outputs[0]
        y.name, y.type, y.shape = name, x.type, ir.Shape(["tokens", attributes["N"]])
    constants = [value for value in values.values() if value.const_value is not None]
    inputs = [x, *(value for value in values.values() if value.const_value is None)]
    outputs = [node.outputs[0] for node in nodes]
    graph = ir.Graph(inputs, outputs, nodes=nodes, initializers=constants, opset_imports={"": 21}, name="product")
    model = ir.Model(graph, ir_version=8)
    for node in nodes:
        ops.add_to_model(model, op, node.overload)
    return model


def check(op, y, x, weight, a, b, bias=None):
    family = low_bit_cases if op in (lowbit.EXACT, lowbit.INT8) else test_kernels_codebook
    wanted, bound = family.expected(op, x, weight, bias)
    rows, a, b = (array.astype(np.float64) for array in (x, a, b))
    wanted = wanted + rows @ a @ b
    bound += (len(a) + len(b) + 8) * 2.0**-24 * (np.abs(rows) @ np.abs(a) @ np.abs(b))
    bound += np.abs(wanted) * low_bit_cases.EPSILON[x.dtype] * 1.01
    assert y.shape == wanted.shape and y.dtype == x.dtype
    error = np.abs(y.astype(np.float64) - wanted)
    assert (error <= bound).all(), f"error {error.max():.3g}, allowed {bound.max():.3g}"


def run(model, x, **feeds):
    opened = session(model, threads=2)
    if x.dtype != ml_dtypes.bfloat16:
        return opened.run(None, {"x": x, **feeds})[0]
    y = np.zeros((len(x), model.graph.outputs[0].shape[-1]), np.uint16)  # numpy has no bfloat16: the same bits
    binding, of_bits = opened.io_binding(), ort.OrtValue.ortvalue_from_numpy_with_onnx_type
    binding.bind_ortvalue_input("x", of_bits(x.view(np.uint16), ir.DataType.BFLOAT16.value))
    binding.bind_ortvalue_output("y", of_bits(y, ir.DataType.BFLOAT16.value))
    opened.run_with_iobinding(binding)
    return y.view(ml_dtypes.bfloat16)


@pytest.mark.native
@native
@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize("tier", TIERS)
def test_kernels_add_the_branch(monkeypatch, op, tier):
    """Ranks of no, one and several vectors, whole and not; one row, tiles of rows, and more than one task of them."""
    monkeypatch.setenv("QONNX_CPU", tier)
    for rows, columns, rank, tokens in [(33, 64, 1, 1), (70, 120, 16, 3), (64, 96, 33, 13), (40, 64, 0, 5)]:
        weight = weight_of(op, rows, columns)
        (a, b), x, bias = factors_of(rows, columns, rank), numbers((tokens, columns)), numbers(rows)
        check(op, run(model_of(op, weight, a, b, bias=bias), x), x, weight, a, b, bias)


@pytest.mark.native
@native
@pytest.mark.parametrize("element", ["FLOAT", "FLOAT16", "BFLOAT16"])
@pytest.mark.parametrize("tokens", [0, 1, 6, 257, 1040])
def test_any_number_of_tokens_and_type(element, tokens):
    dtype = ir.DataType[element].numpy()
    for op in (lowbit.EXACT, lowbit.INT8):
        weight = weight_of(op, 70, 256)
        (a, b), x = factors_of(70, 256, 40, dtype), numbers((tokens, 256), dtype)
        check(op, run(model_of(op, weight, a, b, element=element), x), x, weight, a, b)


@pytest.mark.native
@native
def test_tasks_of_rows_meet_without_a_gap():
    """A wide branch, so that rows of X go to several tasks."""
    weight = weight_of(lowbit.INT8, 32, 1024)
    (a, b), x = factors_of(32, 1024, 128), numbers((100, 1024))
    check(lowbit.INT8, run(model_of(lowbit.INT8, weight, a, b), x), x, weight, a, b)


@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize("element", ["FLOAT", "FLOAT16"])
def test_the_function_body_computes_the_specification(op, element):
    """In ONNX Runtime without our library and in onnx.reference; a node without a branch keeps its own function."""
    dtype = ir.DataType[element].numpy()
    weight = weight_of(op, 9, 64)
    (a, b), x, bias = factors_of(9, 64, 3, dtype), numbers((5, 64), dtype), numbers(9, dtype)
    proto = ir.to_proto(model_of(op, weight, a, b, element=element, bias=bias))
    onnx.checker.check_model(proto, full_check=True)
    plain = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    check(op, plain.run(None, {"x": x})[0], x, weight, a, b, bias)
    check(op, ReferenceEvaluator(proto).run(None, {"x": x})[0], x, weight, a, b, bias)


@pytest.mark.parametrize("library", [pytest.param(True, marks=[pytest.mark.native, native]), False])
def test_nodes_with_and_without_a_branch_share_a_model(library):
    weight = weight_of(lowbit.EXACT, 20, 64)
    (a, b), x = factors_of(20, 64, 4), numbers((3, 64))
    model = model_of(lowbit.EXACT, weight, a, b, plain_too=True)
    y, plain = session(model, native=library).run(None, {"x": x})
    check(lowbit.EXACT, y, x, weight, a, b)
    check(lowbit.EXACT, plain, x, weight, a * 0, b)


@pytest.mark.native
@native
def test_factors_may_be_graph_inputs():
    """As for adapters that change from call to call, rank included."""
    weight = weight_of(lowbit.EXACT, 20, 64)
    model = model_of(lowbit.EXACT, weight, *factors_of(20, 64, 4), constant=False)
    for value, shape in zip(model.graph.inputs[1:], ([64, "rank"], ["rank", 20]), strict=True):
        value.shape = ir.Shape(shape)
    opened, x = session(model, threads=1), numbers((3, 64))
    for rank in (4, 9):
        a, b = factors_of(20, 64, rank)
        y = opened.run(None, {"x": x, "low_rank_a": a, "low_rank_b": b})[0]
        check(lowbit.EXACT, y, x, weight, a, b)


@pytest.mark.native
@native
@pytest.mark.parametrize(
    ("a", "b", "sentence"),
    [
        ((63, 4), (4, 20), r"input low_rank_a has shape \[63, 4\], but .* \[K, rank\] numbers for K=64 and N=20"),
        ((64, 4), (5, 20), r"input low_rank_b has shape \[5, 20\], but .* \[4, N\] numbers for K=64 and N=20"),
        ((64, 4), (4, 21), r"input low_rank_b has shape \[4, 21\]"),
        ((64,), (4, 20), r"input low_rank_a has shape \[64\]"),
    ],
)
def test_factors_that_do_not_fit_are_refused_with_a_sentence(a, b, sentence):
    weight = weight_of(lowbit.EXACT, 20, 64)
    with pytest.raises(Exception, match=sentence):
        session(model_of(lowbit.EXACT, weight, numbers(a), numbers(b)))


@pytest.mark.native
@native
def test_one_factor_alone_is_refused_with_a_sentence():
    weight = weight_of(lowbit.EXACT, 20, 64)
    model = model_of(lowbit.EXACT, weight, *factors_of(20, 64, 4), constant=False)
    model.graph[0].replace_input_with(6, None)
    feeds = {"x": numbers((1, 64)), "low_rank_a": numbers((64, 4)), "low_rank_b": numbers((4, 20))}
    with pytest.raises(Exception, match="input low_rank_a is missing; a low-rank branch needs both factors"):
        session(model).run(None, feeds)

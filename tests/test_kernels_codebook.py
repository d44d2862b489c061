"""Matrix products with code-book weights: kernel = function body = onnx.reference, for every layout and tier."""

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx.reference import ReferenceEvaluator

from qonnx.custom_ops import library_path, ops
from qonnx.custom_ops.codebook import EXACT, INT8, CodebookWeight
from qonnx.custom_ops.lowbit import layout_of, pack, unpack
from qonnx.runtime import session
from tests.low_bit_cases import EPSILON, rounded_rows

OPERATORS = (EXACT, INT8)
TIERS = ("scalar", "avx2", "avx2vnni", "avx512", "avx512vnni")
native = pytest.mark.skipif(library_path() is None, reason="no native library")


def weight_of(rows, columns, block, *, books=2, levels=256, length=8, book_type=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    indices = rng.integers(0, levels, (rows, columns // length, books))
    codebooks = rng.standard_normal((books, levels, length)).astype(book_type)
    scale = (rng.random((rows, -(-columns // block))) + 0.5).astype(np.float16)
    return CodebookWeight(indices, codebooks, scale, block)


def model_of(op, weight, bias=None, element="FLOAT", **wrong):
    dtype = ir.DataType[element]
    rows, columns = weight.shape
    x = ir.Value(name="x", shape=ir.Shape(["tokens", columns]), type=ir.TensorType(dtype))
    arrays = {**weight.arrays(), "bias": (np.zeros(1) if bias is None else bias).astype(dtype.numpy())}
    values = [ir.Value(name=name, const_value=ir.tensor(array, name=name)) for name, array in arrays.items()]
    node = ops.node(op, [x, *values], node_name="product", **{**weight.attributes(), **wrong})
    y = node.outputs[0]
    y.name, y.type, y.shape = "y", x.type, ir.Shape(["tokens", rows])
    graph = ir.Graph([x], [y], nodes=[node], initializers=values, opset_imports={"": 21}, name="product")
    model = ir.Model(graph, ir_version=10)
    ops.add_to_model(model, op)
    return model


def expected(op, x, weight, bias=None):
    """y in float64 with what the operator rounds rounded, and the bound of its float32 error."""
    rows, books = x.astype(np.float32), weight.codebooks.astype(np.float32)
    if op == INT8:
        rows = rounded_rows(rows, weight.block)
        step = np.abs(books).max((1, 2)).sum(dtype=np.float32) / np.float32(127)
        books = np.rint(books / step).astype(np.float64) * step
    w = CodebookWeight(weight.indices, books, weight.scale, weight.block).decode()
    # integer sums carry 128 more in every weight
    offset = np.abs(weight.codebooks).astype(np.float64).max((1, 2)).sum() * 130 / 127 if op == INT8 else 0.0
    size = (
        CodebookWeight(weight.indices, np.abs(books), weight.scale, weight.block).decode()
        + offset * weight.scale.astype(np.float64)[:, np.arange(w.shape[1]) // weight.block]
    )
    y = rows.astype(np.float64) @ w.T + (0 if bias is None else bias.astype(np.float64))
    terms = w.shape[1] + 8 + len(books)
    bound = terms * 2.0**-24 * (np.abs(rows).astype(np.float64) @ size.T) + np.abs(y) * EPSILON[x.dtype] * 1.01
    return y, bound + 1e-30


def check(op, y, x, weight, bias=None):
    wanted, bound = expected(op, x, weight, bias)
    assert y.shape == wanted.shape and y.dtype == x.dtype
    error = np.abs(y.astype(np.float64) - wanted)
    assert (error <= bound).all(), f"error {error.max():.3g}, allowed {bound.max():.3g}"


def numbers(shape, dtype=np.float32, seed=1):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("bits", range(1, 17))
def test_every_index_survives_packing(bits):
    layout = layout_of(2**bits)
    codes = np.random.default_rng(0).permutation(2**bits)[None]
    np.testing.assert_array_equal(unpack(pack(codes, layout), 2**bits, layout), codes)
    assert layout.bits <= bits * 1.1


@pytest.mark.native
@native
@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize("books", [1, 2, 3, 4])
def test_every_vector_of_every_book_is_decoded_exactly(op, books):
    """Row n holds vector n of each book; unit vectors read single numbers."""
    weight = weight_of(300, 16, 16, books=books)
    weight.indices[:] = ((np.arange(300)[:, None, None] + np.arange(books)) % 256).astype(weight.indices.dtype)
    x = np.eye(16, dtype=np.float32)
    y = session(model_of(op, weight), threads=1).run(None, {"x": x})[0]
    check(op, y, x, weight)


@pytest.mark.native
@native
@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize(
    ("levels", "length", "books"),
    [
        (256, 8, 2),
        (256, 8, 1),
        (65536, 8, 1),
        (16, 4, 3),
        (4096, 16, 2),
        (64, 2, 1),
        (256, 6, 2),
        (512, 3, 1),
        (256, 12, 4),
    ],
)
def test_kernels_compute_the_specification(monkeypatch, op, tier, levels, length, books):
    monkeypatch.setenv("QONNX_CPU", tier)
    for rows, vectors, block, tokens in [(32, 12, 10**6, 1), (70, 23, 64, 13), (1, 5, 48, 3), (33, 96, 10**6, 9)]:
        columns = vectors * length
        weight = weight_of(rows, columns, min(block, columns), levels=levels, length=length, books=books)
        x, bias = numbers((tokens, columns)), numbers(rows)
        check(op, session(model_of(op, weight, bias), threads=2).run(None, {"x": x})[0], x, weight, bias)


@pytest.mark.native
@native
@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize("tokens", [1, 2, 5, 6, 8])
@pytest.mark.parametrize("block", [2048, 96])
def test_few_tokens_go_by_tables_of_partial_sums(op, tokens, block):
    """Several panels, an odd last one, several groups of a block, and groups that end inside a run of tables."""
    weight = weight_of(600, 2048, block)
    x = numbers((tokens, 2048))
    check(op, session(model_of(op, weight), threads=2).run(None, {"x": x})[0], x, weight)


@pytest.mark.native
@native
def test_partial_sums_beyond_sixteen_bits_stay_exact():
    """Books of ±1 become ±127, which a row of equal numbers sums to ±8 · 127 · 127; the other row's sums are small."""
    weight = weight_of(70, 64, 64, books=1)
    np.copyto(weight.codebooks, np.where(weight.codebooks > 0, 1, -1))
    weight.codebooks[0, 0], weight.codebooks[0, 1] = 1, -1
    x = np.concatenate([np.full((1, 64), -3, np.float32), np.eye(64, dtype=np.float32)[:1]])
    for rows in (x, x[::-1], x[1:]):
        check(INT8, session(model_of(INT8, weight)).run(None, {"x": rows})[0], rows, weight)


@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize(("levels", "length", "books"), [(256, 8, 2), (65536, 4, 1), (16, 6, 3), (512, 3, 1)])
@pytest.mark.parametrize("element", ["FLOAT", "FLOAT16"])
def test_the_function_body_computes_the_specification(op, levels, length, books, element):
    dtype = ir.DataType[element].numpy()
    weight = weight_of(5, 6 * length, 16, levels=levels, length=length, books=books, book_type=dtype)
    x, bias = numbers((3, 6 * length), dtype), numbers(5, dtype)
    proto = ir.to_proto(model_of(op, weight, bias, element))
    onnx.checker.check_model(proto, full_check=True)
    plain = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    check(op, plain.run(None, {"x": x})[0], x, weight, bias)
    check(op, ReferenceEvaluator(proto).run(None, {"x": x})[0], x, weight, bias)


@pytest.mark.native
@native
@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize("book_type", [np.float16, ml_dtypes.bfloat16])
def test_books_of_sixteen_bits(op, book_type):
    weight = weight_of(40, 64, 64, book_type=book_type)
    x = numbers((4, 64), np.float16)
    check(op, session(model_of(op, weight, element="FLOAT16"), threads=2).run(None, {"x": x})[0], x, weight)


@pytest.mark.native
@native
@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"levels": 128}, r"input codebooks has shape \[2, 256, 8\], but \[books, levels=128"),
        ({"K": 60}, "vector length from 1 to 16 that divides K=60"),
        ({"N": 8}, r"input codes has shape \[9, 8\], but the attributes ask for \[8, 8\]"),
        ({"block_size": 16}, r"input scale has shape \[9, 1\], but the attributes ask for \[9, 2\]"),
    ],
)
@pytest.mark.parametrize("op", OPERATORS)
def test_bad_attributes_are_refused_with_a_sentence(op, wrong, sentence):
    with pytest.raises(Exception, match=sentence):
        session(model_of(op, weight_of(9, 32, 32), **wrong))

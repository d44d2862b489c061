"""GatherCodebook and the published layouts: bit for bit the decoders that the layouts are described by."""

import dataclasses

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx.reference import ReferenceEvaluator

from qonnx.custom_ops import library_path, ops
from qonnx.custom_ops.codebook import CodebookWeight
from qonnx.custom_ops.codebook_layouts import from_aqlm, from_vptq, unpack_vptq
from qonnx.errors import QonnxError
from qonnx.runtime import session
from tests.operator_cases import EXAMPLES, Size
from tests.operator_worker import outcome

OPERATOR = "GatherCodebook"
native = pytest.mark.skipif(library_path() is None, reason="no native library")
KERNEL = pytest.param("kernel", marks=[pytest.mark.native, native])


def weight_of(rows, columns, length=8, books=2, bits=8, block=None, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    block = columns if block is None else block
    indices = rng.integers(0, 2**bits, (rows, columns // length, books))
    codebooks = rng.standard_normal((books, 2**bits, length)).astype(dtype)
    scale = (rng.random((rows, -(-columns // block))) + 0.5).astype(dtype)
    return CodebookWeight(indices, codebooks, scale, block)


def model_of(weight, rank=1, constant=True, **wrong):
    arrays = weight.arrays()
    element = ir.tensor(arrays["codebooks"]).dtype
    rows = ir.Value(name="rows", shape=ir.Shape([None] * rank), type=ir.TensorType(ir.DataType.INT64))
    values = []
    for name in ("codes", "codebooks", "scale"):
        tensor = ir.tensor(arrays[name], name=name)
        if constant:
            values.append(ir.Value(name=name, const_value=tensor))
        else:
            values.append(ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype)))
    node = ops.node(OPERATOR, [rows, *values], node_name="gather", **{**weight.attributes(), **wrong})
    (y,) = node.outputs
    y.name, y.type, y.shape = "y", ir.TensorType(element), ir.Shape([None] * (rank + 1))
    inputs, initializers = ([rows], values) if constant else ([rows, *values], [])
    graph = ir.Graph(inputs, [y], nodes=[node], initializers=initializers, opset_imports={"": 21}, name="g")
    model = ir.Model(graph, ir_version=10)
    ops.add_to_model(model, OPERATOR)
    return model


def gather(weight, rows=None, where="kernel", **options):
    rows = np.arange(len(weight.indices)) if rows is None else rows
    model = model_of(weight, rows.ndim, **options)
    feeds = {"rows": rows} | ({} if options.get("constant", True) else weight.arrays())
    if where == "kernel":
        return session(model, threads=2).run(None, feeds)[0]
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    if where == "reference":
        return ReferenceEvaluator(proto).run(None, feeds)[0]
    return ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)[0]


def decoded(weight):
    """float32 sums in the order of the books, then the scale: written out place by place."""
    rows, columns = weight.shape
    length = weight.codebooks.shape[2]
    w = np.zeros((rows, columns), np.float32)
    for j in range(columns // length):
        for book in range(len(weight.codebooks)):
            part = weight.codebooks[book, weight.indices[:, j, book]].astype(np.float32)
            w[:, j * length : (j + 1) * length] = part if book == 0 else w[:, j * length : (j + 1) * length] + part
    return w * weight.scale.astype(np.float32)[:, np.arange(columns) // weight.block]


@pytest.mark.parametrize("where", ["ort", "reference", KERNEL])
@pytest.mark.parametrize("bits", [1, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 16])
@pytest.mark.parametrize("books", [1, 2])
def test_one_and_two_books_have_the_same_bits_everywhere(where, bits, books):
    for length, columns, block in [(8, 40, None), (5, 35, 10), (2, 18, 7), (16, 32, 16)]:
        weight = weight_of(7, columns, length, books, bits, block)
        np.testing.assert_array_equal(gather(weight, where=where), decoded(weight))


@pytest.mark.parametrize("where", ["ort", "reference", KERNEL])
@pytest.mark.parametrize("books", [3, 4])
def test_more_books_agree_to_the_rounding_of_their_sum(where, books):
    weight = weight_of(9, 48, 4, books, 6, 16)
    size = np.abs(weight.codebooks).max() * books * weight.scale.max()
    np.testing.assert_allclose(gather(weight, where=where), decoded(weight), rtol=0, atol=4 * books * 2.0**-24 * size)


@pytest.mark.parametrize("where", ["ort", "reference", KERNEL])
def test_every_index_reads_its_own_vector(where):
    for bits in (4, 8, 12, 16):
        weight = weight_of(2**bits // 16, 16 * 2, 2, 1, bits)
        weight.indices[:] = np.arange(2**bits).reshape(weight.indices.shape)
        weight.scale[:] = 1
        found = gather(weight, where=where).reshape(weight.codebooks[0].shape)
        np.testing.assert_array_equal(found, weight.codebooks[0])


@pytest.mark.parametrize("where", ["ort", "reference", KERNEL])
def test_rows_are_those_asked_for(where):
    weight = weight_of(11, 24)
    rows = np.array([[3, 3, -1], [0, -11, 10]])
    np.testing.assert_array_equal(gather(weight, rows, where), decoded(weight)[rows])


@pytest.mark.native
@native
def test_no_rows_and_inputs_that_are_no_constants():
    weight = weight_of(6, 24, bits=12)
    assert gather(weight, np.zeros((2, 0), np.int64)).shape == (2, 0, 24)
    np.testing.assert_array_equal(gather(weight, constant=False), decoded(weight))


@pytest.mark.parametrize("where", ["ort", KERNEL])
def test_float16_books_are_summed_in_float32(where):
    weight = weight_of(9, 64, dtype=np.float16, bits=6)
    np.testing.assert_array_equal(gather(weight, where=where), decoded(weight).astype(np.float16))


@pytest.mark.native
@native
def test_bfloat16_books():
    weight = weight_of(9, 64, dtype=ml_dtypes.bfloat16, bits=6)
    opened = session(model_of(weight), threads=1)
    y = np.zeros((9, 64), np.uint16)
    binding = opened.io_binding()
    binding.bind_ortvalue_input("rows", ort.OrtValue.ortvalue_from_numpy(np.arange(9)))
    of_bits = ort.OrtValue.ortvalue_from_numpy_with_onnx_type
    binding.bind_ortvalue_output("y", of_bits(y, ir.DataType.BFLOAT16.value))
    opened.run_with_iobinding(binding)
    np.testing.assert_array_equal(y.view(ml_dtypes.bfloat16), decoded(weight).astype(ml_dtypes.bfloat16))


@pytest.mark.parametrize("where", ["ort", KERNEL])
@pytest.mark.parametrize(("books", "bits", "dtype"), [(1, 16, np.int16), (2, 8, np.int8), (1, 12, np.int16)])
def test_aqlm_layout(where, books, bits, dtype):
    """_dequantize_weight as its paper has it: the sum of code words of each group, times the output's scale."""
    rng = np.random.default_rng(3)
    codes = rng.integers(0, 2**bits, (10, 6, books))
    codebooks = rng.standard_normal((books, 2**bits, 1, 8)).astype(np.float32)
    scales = rng.random((10, 1, 1, 1)).astype(np.float32)
    words = sum(codebooks[b, codes[..., b]] for b in range(books))  # [10, 6, 1, 8]
    wanted = (words * scales).transpose(0, 2, 1, 3).reshape(10, 48)
    stored = codes.astype(dtype)  # checkpoints keep them in signed integers, wrapped around
    np.testing.assert_array_equal(gather(from_aqlm(stored, codebooks, scales), where=where), wanted)


def test_aqlm_vectors_over_several_outputs_are_refused():
    with pytest.raises(QonnxError, match="2 outputs a vector have no kernel; quantize with out_group_size=1"):
        from_aqlm(np.zeros((4, 4, 1), np.int8), np.zeros((1, 256, 2, 8), np.float32), np.ones((4, 1, 1, 1), np.float32))


def packed_bits(numbers, width):
    """A row of numbers as a stream of bits in int32 words, built from text."""
    text = "".join(format(int(number), f"0{width}b")[::-1] for number in numbers)
    text += "0" * (-len(text) % 32)
    return np.array([int(text[i : i + 32][::-1], 2) for i in range(0, len(text), 32)], np.uint32).view(np.int32)


@pytest.mark.parametrize("where", ["ort", KERNEL])
@pytest.mark.parametrize(("groups", "bits", "residual_bits"), [(1, 12, 8), (2, 13, 0), (1, 16, 8), (3, 6, 6)])
def test_vptq_layout(where, groups, bits, residual_bits):
    """W[v·i + t, c] = C[idx] + R[ridx], padding dropped; outlier columns first, permuted back; then scale and bias."""
    rng = np.random.default_rng(5)
    outputs, columns, length, outlier_columns, outlier_length = 21, 12, 8, 3, 4
    of = -(-outputs // length), -(-outputs // outlier_length)
    idx = rng.integers(0, 2**bits, (groups, of[0], columns // groups))
    ridx = rng.integers(0, 2**residual_bits, idx.shape)
    centroids = rng.standard_normal((groups, 2**bits, length)).astype(np.float32)
    residuals = rng.standard_normal((groups, 2**residual_bits, length)).astype(np.float32)
    outlier_idx = rng.integers(0, 64, (1, of[1], outlier_columns))
    outliers = rng.standard_normal((1, 64, outlier_length)).astype(np.float32)
    perm = rng.permutation(columns + outlier_columns)
    scale, bias = rng.random((2, len(perm))).astype(np.float32)

    w = np.zeros((of[0] * length, columns), np.float32)
    for c in range(columns):
        g, at = divmod(c, columns // groups)
        for i in range(of[0]):
            vector = centroids[g, idx[g, i, at]]
            w[length * i : length * (i + 1), c] = vector + residuals[g, ridx[g, i, at]] if residual_bits else vector
    first = np.zeros((of[1] * outlier_length, outlier_columns), np.float32)
    for c in range(outlier_columns):
        first[:, c] = outliers[0, outlier_idx[0, :, c]].ravel()
    wanted = np.concatenate([first[:outputs], w[:outputs]], 1)[:, np.argsort(perm)] * scale + bias

    merged = (ridx << bits) | idx if residual_bits else idx
    packed = np.stack([[packed_bits(row, bits + residual_bits) for row in group] for group in merged])
    unpacked, unpacked_residual = unpack_vptq(packed, columns // groups, bits, residual_bits)
    np.testing.assert_array_equal(unpacked, idx)
    np.testing.assert_array_equal(unpacked_residual, ridx if residual_bits else 0 * idx)
    stored_scale = scale[perm]
    residual = (unpacked_residual, residuals) if residual_bits else (None, None)
    main = from_vptq(unpacked, centroids, *residual, scale=stored_scale[outlier_columns:])
    extra = from_vptq(outlier_idx, outliers, scale=stored_scale[:outlier_columns])
    rows = np.concatenate([gather(part, where=where)[:, :outputs] for part in (*extra, *main)])
    np.testing.assert_array_equal(rows[np.argsort(perm)].T + bias, wanted)


@pytest.mark.native
@native
@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"K": 0}, "attribute K=0 is missing or not a positive number"),
        ({"K": 25}, r"that divides K=25\] is wanted"),
        ({"K": 32}, r"input codes has shape \[9, 6\], but the attributes ask for \[9, 8\]"),
        ({"N": 8}, r"input codes has shape \[9, 6\], but the attributes ask for \[8, 6\]"),
        ({"block_size": 8}, r"input scale has shape \[9, 1\], but the attributes ask for \[9, 3\]"),
        ({"levels": 128}, r"codebooks has shape \[2, 256, 8\], but \[books, levels=128"),
        ({"bytes_per_word": 9}, "do not fit"),
    ],
)
def test_bad_attributes_are_refused_with_a_sentence(wrong, sentence):
    with pytest.raises(Exception, match=sentence):
        gather(weight_of(9, 24), **wrong)


@pytest.mark.native
@native
@pytest.mark.parametrize("row", [9, -10, 2**40])
def test_a_row_that_is_not_there_is_refused(row):
    with pytest.raises(Exception, match=f"row {row} is outside of the 9 that there are"):
        gather(weight_of(9, 24), np.array([1, row]))


def test_swapped_books_are_noticed():
    """The comparison of this file sees the fault that it is there for."""
    weight = weight_of(5, 24)
    swapped = CodebookWeight(weight.indices[..., ::-1], weight.codebooks, weight.scale, weight.block)
    with pytest.raises(AssertionError):
        np.testing.assert_array_equal(gather(swapped, where="ort"), decoded(weight))


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("lead", [(0,), (1, 0), (0, 3)])
def test_the_function_takes_no_rows_of_any_shape(lead, constant):
    """Also where the books are no constants: ONNX Runtime then puts -1 into a shape that begins with 0 rows."""
    case = EXAMPLES["GatherCodebook"]("GatherCodebook", Size(lead=lead))
    case = dataclasses.replace(case, constant=case.constant if constant else frozenset())
    (y,) = outcome(case, native=False)
    assert y.shape == (*lead, 64)

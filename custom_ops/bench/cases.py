"""What the benchmark of low-bit products compares: formats, their goals, and models of ours and of the baselines.

A goal is how many times faster than a baseline the operator must be, at one row of X with weights in the caches (hot)
and out of them (cold), at 8, 64 and 256 rows: the geometric mean over SHAPES and over one and two threads.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import onnx.helper as helper
import onnx_ir as ir

from qonnx.custom_ops import codebook, ops
from qonnx.custom_ops.codebook import CodebookWeight
from qonnx.custom_ops.lowbit import EXACT, FP4, INT8, NF4, LowBitWeight

# (tokens, cold) in the order of goals
SETTINGS = ((1, False), (1, True), (8, False), (64, False), (256, False))
SHAPES = ((1024, 4096), (4096, 4096), (4096, 11008))  # K, N
VIT_SHAPE, VIT_TOKENS, VIT_GOAL = (384, 1536), 197, 1.5

Goals = tuple[float, float, float, float, float]


@dataclasses.dataclass(frozen=True)
class Case:
    """Our operator and weight, and the baselines (name -> goals) that it is compared with.

    The first baseline is ONNX Runtime's best setting for the same weights; where it has no such format, the next larger
    it has, or the float product.
    """

    operator: str
    levels: int
    block: int  # 0: one scale a row
    baselines: dict[str, Goals]
    table: np.ndarray | None = None
    books: int = 0  # of vectors of 8 numbers; 0 for a weight without code books
    shapes: tuple[tuple[int, int], ...] = SHAPES
    most_bits: float = 0  # stored for a weight, scales included and code books left out
    least_peak: float = 0  # share of the processor's int8 multiply-adds at 256 rows
    activation_bits: int = 8  # of INT8
    rank: int = 0  # of a low-rank branch, which baselines have as two more products and a sum
    least_bandwidth: tuple[float, float] = (0.5, 0.75)  # share of what one and two threads read, one row, cold


# The 4-bit floats of MatMulBnb4 (bitsandbytes): the largest is 1, the smallest one 1/192.
_BNB_FP4 = np.array([0, 1 / 192, 2 / 3, 1, 1 / 3, 1 / 2, 1 / 6, 1 / 4], np.float32)
_BNB_FP4 = np.concatenate([_BNB_FP4, -_BNB_FP4])

_LARGE = SHAPES[1:]
_ANY: Goals = (1, 1, 1, 1, 1)  # never slower
CASES: dict[str, Case] = {
    "W4.b32": Case(INT8, 16, 32, {"W4.b32.acc4": (1.35, 1.05, 1.7, 1.85, 1.7)}, most_bits=4.5, least_peak=0.5),
    "W4.b128": Case(INT8, 16, 128, {"W4.b128.acc4": (1.35, 1.0, 1.4, 1.45, 1.4)}, most_bits=4.13, least_peak=0.55),
    "W3.b32": Case(INT8, 8, 32, {"W4.b32.acc4": (1.15, 1.15, 2.0, 1.95, 1.85)}, most_bits=3.5),
    "W3.b128": Case(INT8, 8, 128, {"W4.b128.acc4": (0.95, 1.1, 1.7, 1.6, 1.45)}, most_bits=3.13, least_peak=0.65),
    "W2.b32": Case(INT8, 4, 32, {"W2.b32.acc4": (1.8, 1.0, 2.75, 2.8, 2.75)}, most_bits=2.5),
    "W2.b128": Case(INT8, 4, 128, {"W2.b128.acc4": (1.4, 1.0, 1.65, 1.55, 1.55)}, most_bits=2.13, least_peak=0.65),
    "ternary": Case(
        INT8,
        3,
        0,
        {"W2.b128.acc4": (0.95, 1.1, 1.8, 1.75, 1.75)},
        most_bits=1.7,
        least_peak=0.75,
        least_bandwidth=(0.35, 0.6),
    ),
    "VQ.2x8": Case(
        codebook.INT8,
        256,
        0,
        {"float": (12, 6, 2, 3, 3.25), "W2.b128.acc4": (1.2, 0.9, 0.75, 1.4, 1.65)},
        books=2,
        most_bits=2.05,
        least_peak=0.75,
        least_bandwidth=(0.35, 0.6),
    ),
    "VQ.1x16": Case(codebook.INT8, 65536, 0, {"float": (2, 1.65, 1.5, 2.8, 3.25)}, books=1, shapes=_LARGE),
    "NF4.b64": Case(INT8, 16, 64, {"NF4.b64": (25, 10, 8, 3, 2)}, NF4, most_bits=4.25),
    "FP4.b64": Case(INT8, 16, 64, {"FP4.b64": (25, 10, 8, 3, 2)}, FP4, most_bits=4.25),
    "W4.b32.rank32": Case(INT8, 16, 32, {"W4.b32.acc4": (1.35, 1.05, 1.7, 1.85, 1.7)}, rank=32),
    "W4.b32.int16": Case(INT8, 16, 32, {"W4.b32.acc0": (2, 1.4, 1.5, 1.5, 1.5), "float": _ANY}, activation_bits=16),
    "W4.b128.int16": Case(INT8, 16, 128, {"W4.b128.acc0": (2, 1.4, 1.5, 1.5, 1.5), "float": _ANY}, activation_bits=16),
    "W4.b32.exact": Case(EXACT, 16, 32, {"W4.b32.acc0": (2, 1.4, 1.5, 1.5, 1.5), "float": _ANY}),
    "W4.b128.exact": Case(EXACT, 16, 128, {"W4.b128.acc0": (2, 1.4, 1.5, 1.5, 1.5), "float": _ANY}),
    "NF4.b64.exact": Case(EXACT, 16, 64, {"NF4.b64": (25, 10, 8, 3, 2), "float": _ANY}, NF4),
    "W8.b32": Case(INT8, 256, 32, {"W8.b32.acc4": _ANY, "float": _ANY}),
    "W8.b32.exact": Case(EXACT, 256, 32, {"float": _ANY}),
    "VQ.2x8.exact": Case(codebook.EXACT, 256, 0, {"float": _ANY}, books=2),
}


def our_weight(case: Case, rows: int, columns: int) -> LowBitWeight | CodebookWeight:
    rng = np.random.default_rng(0)
    block = case.block or columns
    scale = (rng.random((rows, -(-columns // block))) * 0.01 + 0.001).astype(np.float16)
    if case.books:
        indices = rng.integers(0, case.levels, (rows, columns // 8, case.books))
        books = rng.standard_normal((case.books, case.levels, 8)).astype(np.float16)
        return CodebookWeight(indices, books, scale, block)
    zero_point = np.float32(0 if case.table is not None else case.levels // 2)
    return LowBitWeight(
        rng.integers(0, case.levels, (rows, columns)), scale, zero_point, block, case.levels, case.table
    )


def branch_of(case: Case, rows: int, columns: int) -> list[np.ndarray]:
    """The factors [K, rank] and [rank, N] of the case's low-rank branch, a tenth of the weight's size; none without."""
    rng = np.random.default_rng(3)
    shapes = ((columns, case.rank), (case.rank, rows)) if case.rank else ()
    return [(0.05 * rng.standard_normal(shape)).astype(np.float32) for shape in shapes]


def our_model(case: Case, weight: LowBitWeight | CodebookWeight) -> bytes:
    attributes = weight.attributes()
    rows, columns = attributes["N"], attributes["K"]
    if "activation_bits" in ops.OPS[case.operator].defaults:
        attributes["activation_bits"] = case.activation_bits
    x = ir.Value(name="x", shape=ir.Shape(["M", columns]), type=ir.TensorType(ir.DataType.FLOAT))
    arrays = {**weight.arrays(), "bias": np.zeros(1, np.float32)}
    arrays |= dict(zip(("low_rank_a", "low_rank_b"), branch_of(case, rows, columns), strict=False))
    values = [ir.Value(name=name, const_value=ir.tensor(array, name=name)) for name, array in arrays.items()]
    node = ops.node(case.operator, [x, *values], node_name="product", **attributes)
    y = node.outputs[0]
    y.name, y.type, y.shape = "y", x.type, ir.Shape(["M", rows])
    graph = ir.Graph([x], [y], nodes=[node], initializers=values, opset_imports={"": 21}, name="g")
    model = ir.Model(graph, ir_version=10)
    ops.add_to_model(model, case.operator, node.overload)
    return ir.to_proto(model).SerializeToString()


def baseline_model(
    name: str, weight: LowBitWeight | CodebookWeight, branch: list[np.ndarray] | None = None
) -> tuple[bytes, np.ndarray]:
    """The model and the weight, float [N, K], that it really holds (other codes where the format differs), with the
    product of the branch's factors, which are two more products and a sum in the model."""
    model, w = _plain_baseline(name, weight)
    if not branch:
        return model, w
    a, b = branch
    return _with_branch(onnx.load_from_string(model), a, b), w + (a.astype(np.float64) @ b).T


def _with_branch(model: onnx.ModelProto, a: np.ndarray, b: np.ndarray) -> bytes:
    graph = model.graph
    graph.node[0].output[0] = "product"
    graph.initializer.extend([onnx.numpy_helper.from_array(a, "low_a"), onnx.numpy_helper.from_array(b, "low_b")])
    graph.node.extend(
        [
            helper.make_node("MatMul", ["x", "low_a"], ["down"]),
            helper.make_node("MatMul", ["down", "low_b"], ["up"]),
            helper.make_node("Add", ["product", "up"], ["y"]),
        ]
    )
    return model.SerializeToString()


def _plain_baseline(name: str, weight: LowBitWeight | CodebookWeight) -> tuple[bytes, np.ndarray]:
    rows, columns = weight.attributes()["N"], weight.attributes()["K"]
    if name == "float":
        w = weight.decode().astype(np.float32)
        return _single("MatMul", {"b": np.ascontiguousarray(w.T)}, rows, columns, domain=""), w
    if name.startswith(("NF4", "FP4")):
        rng = np.random.default_rng(1)
        packed = rng.integers(0, 256, rows * columns // 2, dtype=np.uint8)
        absmax = (rng.random(rows * columns // 64) * 0.01 + 0.001).astype(np.float32)
        codes = np.stack([packed >> 4, packed & 15], -1).reshape(rows, columns)  # the first of two in the high nibble
        table, kind = (NF4, 1) if name.startswith("NF4") else (_BNB_FP4, 0)
        w = table[codes] * np.repeat(absmax, 64).reshape(rows, columns)
        return _single("MatMulBnb4", {"b": packed, "s": absmax}, rows, columns, block_size=64, quant_type=kind), w
    bits, block, level = (int("".join(filter(str.isdigit, part))) for part in name.split("."))
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 2**bits, (rows, columns))
    scale = (rng.random((rows, columns // block)) * 0.01 + 0.001).astype(np.float32)
    if isinstance(weight, LowBitWeight) and weight.levels == 2**bits and weight.block == block:
        codes, scale = weight.codes, weight.scale.astype(np.float32)
    per_byte = 8 // bits
    packed = (codes.reshape(rows, -1, per_byte) << (np.arange(per_byte) * bits)).sum(-1).astype(np.uint8)
    inputs = {"b": packed.reshape(rows, columns // block, -1), "s": scale}
    model = _single("MatMulNBits", inputs, rows, columns, bits=bits, block_size=block, accuracy_level=level)
    return model, (codes - 2 ** (bits - 1)) * np.repeat(scale, block, 1)


def _single(op: str, inputs: dict, rows: int, columns: int, domain: str = "com.microsoft", **attributes: int) -> bytes:
    sizes = {"K": columns, "N": rows} if domain else {}
    node = helper.make_node(op, ["x", *inputs], ["y"], domain=domain, **sizes, **attributes)
    initializers = [onnx.numpy_helper.from_array(array, name) for name, array in inputs.items()]
    x, y = (helper.make_tensor_value_info(n, 1, ["M", c]) for n, c in (("x", columns), ("y", rows)))
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph([node], "g", [x], [y], initializers)
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def specified(case: Case, weight: LowBitWeight | CodebookWeight, x: np.ndarray) -> np.ndarray:
    """What the operator's specification computes, float64 [tokens, N]: with what it rounds rounded."""
    rows = x.astype(np.float64)
    branch = branch_of(case, weight.attributes()["N"], weight.attributes()["K"])
    if branch:
        plain = specified(dataclasses.replace(case, rank=0), weight, x)
        return plain + np.linalg.multi_dot([rows, *branch])
    if case.operator in (EXACT, codebook.EXACT):
        return rows @ weight.decode().T
    if isinstance(weight, CodebookWeight):
        books = weight.codebooks.astype(np.float32)
        step = np.maximum(np.abs(books).max((1, 2)).sum(dtype=np.float32), np.float32(1e-30)) / np.float32(127)
        weight = dataclasses.replace(weight, codebooks=np.rint(books / step).astype(np.float64) * step)
    elif weight.table is not None:
        step = np.float32(np.abs(weight.table).max() / np.float32(127))
        weight = dataclasses.replace(weight, table=np.rint(weight.table / step).astype(np.float64) * step)
    block, steps = weight.block, np.float32(127 if case.activation_bits == 8 else 127 * 257)
    for begin in range(0, x.shape[1], block):
        part = x[:, begin : begin + block]
        largest = np.maximum(np.abs(part).max(1, keepdims=True), np.float32(2.0**-100))
        codes = np.rint(part * (steps / largest))
        rows[:, begin : begin + block] = codes.astype(np.float64) * (largest / steps)
    return rows @ weight.decode().T

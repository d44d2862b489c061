"""Cases of every operator of ai.qonnx as data: inputs, attributes, their model, and how far two runs may differ.

An example is right by construction; fuzzing changes it, sanitizer builds and other processors run it as it is.
"""

import dataclasses
from collections.abc import Callable

import ml_dtypes
import numpy as np
import onnx_ir as ir

from qonnx.custom_ops import DOMAIN, hadamard, log_attention, log_quantize, lookup_quantize, lowbit, ops, static_product
from qonnx.custom_ops.codebook import CodebookWeight
from tests import product_guarantee
from tests.low_bit_cases import weight_of

FLOATS = (np.float32, np.float16, ml_dtypes.bfloat16)
EPSILON = {np.dtype(np.float32): 2.0**-24, np.dtype(np.float16): 2.0**-11, np.dtype(ml_dtypes.bfloat16): 2.0**-8}
KINDS = ("b1", "b2", "b3", "b4", "b5", "b6", "b7", "b8", "b2/half", "b4/rows", "b8/bytes", "ternary", "nf4", "fp4/rows")


@dataclasses.dataclass(frozen=True)
class Case:
    """A node: `arrays` are its inputs in order (None: left out), those named in `constant` initializers."""

    op: str
    arrays: dict[str, np.ndarray | None]
    attributes: dict[str, int | float | str | tuple[int, ...]]
    constant: frozenset[str] = frozenset()

    def __str__(self):
        def text(name, array):
            kind = "constant " if name in self.constant else ""
            return f"{name}: none" if array is None else f"{name}: {kind}{array.dtype}{list(array.shape)}"

        arrays = ", ".join(text(*item) for item in self.arrays.items())
        return f"{self.op}({arrays}; {self.attributes})"


def model_of(case: Case) -> tuple[ir.Model, dict[str, np.ndarray]]:
    """The model and its feeds. Types that numpy lacks are fed as float32 and cast inside; so are bfloat16 results."""
    inputs, operands, initializers, nodes, feeds = [], [], [], [], {}
    for name, array in case.arrays.items():
        if array is None:
            operands.append(None)
            continue
        if name in case.constant:
            operands.append(ir.Value(name=name, const_value=ir.tensor(array, name=name)))
            initializers.append(operands[-1])
            continue
        foreign = array.dtype.type.__module__ != "numpy"
        fed = array.astype(np.float32) if foreign else array
        dtype = ir.DataType.from_numpy(fed.dtype)
        value = ir.Value(name=name, shape=ir.Shape([f"{name}_{i}" for i in range(fed.ndim)]), type=ir.TensorType(dtype))
        inputs.append(value)
        feeds[name] = fed
        if foreign:
            nodes.append(ir.node("Cast", [value], {"to": ir.DataType.from_numpy(array.dtype)}, name=f"cast {name}"))
            value = nodes[-1].outputs[0]
        operands.append(value)
    op = ops.OPS[case.op]
    overload = ops.LOW_RANK if op.overloads and len(operands) > len(op.inputs) else ""
    node = ir.node(
        case.op,
        operands,
        case.attributes,
        domain=DOMAIN,
        overload=overload,
        num_outputs=len(op.outputs) if op.body is not None else 0,
        name="node",
    )
    nodes.append(node)
    results = list(node.outputs)
    for output, name in zip(results, op.outputs, strict=op.body is not None):
        output.name = name
    if any(array is not None and array.dtype == ml_dtypes.bfloat16 for array in case.arrays.values()):
        casts = [ir.node("Cast", [output], {"to": ir.DataType.FLOAT}, name=f"cast {output.name}") for output in results]
        nodes += casts
        results = [cast.outputs[0] for cast in casts]
    if op.body is None:
        nodes.append(ir.node("Identity", operands[:1], name="pass"))
        results = list(nodes[-1].outputs)
    for index, result in enumerate(results):
        result.name = f"result{index}"
    graph = ir.Graph(inputs, results, nodes=nodes, initializers=initializers, opset_imports={"": 21}, name="case")
    model = ir.Model(graph, ir_version=10)
    model.opset_imports[DOMAIN] = 1
    if op.body is not None:
        ops.add_to_model(model, case.op, overload)
    return model, feeds


@dataclasses.dataclass(frozen=True)
class Size:
    """What an example is made of; each kind of operator takes of it what it has."""

    rows: int = 33
    columns: int = 64
    block: int = 32
    lead: tuple[int, ...] = (5,)  # dimensions of x before the last
    kind: int = 3  # index into the operator's formats
    dtype: type = np.float32
    rank: int | None = None  # of a low-rank branch
    wide_bias: bool = True
    seed: int = 0


def _numbers(rng, shape, dtype) -> np.ndarray:
    return rng.standard_normal(shape).astype(dtype)


def _product(op: str, x: np.ndarray, weight, size: Size, before: dict | None = None, **attributes) -> Case:
    rng = np.random.default_rng(size.seed)
    n = weight.attributes()["N"]
    dtype = size.dtype
    arrays = {"x": x, **(before or {}), **weight.arrays()}
    arrays["bias"] = _numbers(rng, n if size.wide_bias else 1, dtype)
    if size.rank is not None and ops.OPS[op].overloads:
        arrays["low_rank_a"] = _numbers(rng, (x.shape[-1], size.rank), dtype)
        arrays["low_rank_b"] = _numbers(rng, (size.rank, n), dtype)
    return Case(op, arrays, {**weight.attributes(), **attributes}, frozenset(arrays) - {"x"})


def _low_bit_weight(size: Size) -> lowbit.LowBitWeight:
    return weight_of(KINDS[size.kind % len(KINDS)], size.rows, size.columns, size.block, size.seed)


def _low_bit(op: str, size: Size) -> Case:
    x = _numbers(np.random.default_rng(size.seed + 1), (*size.lead, size.columns), size.dtype)
    return _product(op, x, _low_bit_weight(size), size, **_activation_bits(op, size))


# kernel_shape, strides, pads, dilations
WINDOWS = (
    ((1, 1), (1, 1), (0, 0, 0, 0), (1, 1)),
    ((3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    ((3, 2), (2, 1), (0, 1, 2, 0), (1, 2)),
    ((1, 1), (2, 2), (0, 0, 0, 0), (1, 1)),
    ((5, 5), (1, 2), (2, 2, 2, 2), (2, 1)),
)


def _convolution(op: str, size: Size) -> Case:
    window = dict(zip(ops.WINDOW, WINDOWS[size.seed % len(WINDOWS)], strict=True))
    height, width = window["kernel_shape"]
    channels = max(1, size.columns // (height * width))
    batch, *image = (*size.lead, 9, 11)[:3]
    x = _numbers(np.random.default_rng(size.seed + 1), (batch, channels, *(n + 10 for n in image)), size.dtype)
    weight = _low_bit_weight(dataclasses.replace(size, columns=channels * height * width))
    return _product(op, x, weight, size, **window)


def _activation_bits(op: str, size: Size) -> dict[str, int]:
    return {name: 16 if size.seed % 2 else 8 for name in ops.OPS[op].defaults}


def _static(op: str, size: Size) -> Case:
    rng = np.random.default_rng(size.seed + 1)
    shape = (*size.lead, size.columns)
    signed = size.kind % 2
    grid = static_product.StaticGrid(0.05, 3, *((-128, 127, ir.DataType.INT8) if signed else (0, 255)))
    y_grid = static_product.StaticGrid(0.9, 11)
    codes = rng.integers(grid.minimum, grid.maximum + 1, shape).astype(grid.dtype.numpy())
    x = _numbers(rng, shape, size.dtype) * size.dtype(3) if op == static_product.STATIC else codes
    attributes = {"x_minimum": grid.minimum, "x_maximum": grid.maximum} if op == static_product.STATIC else {}
    if op != static_product.QLINEAR:
        return _product(op, x, _low_bit_weight(size), size, grid.arrays("x"), **attributes)
    made = _product(op, x, _low_bit_weight(size), size, grid.arrays("x"), y_minimum=0, y_maximum=255)
    arrays = {**made.arrays, **y_grid.arrays("y")}
    return dataclasses.replace(made, arrays=arrays, constant=frozenset(arrays) - {"x"})


BOOKS = ((256, 8, 2), (16, 4, 3), (4096, 8, 1), (64, 2, 1), (256, 3, 1), (2, 16, 4))  # levels, length, books


def _codebook_weight(size: Size) -> CodebookWeight:
    levels, length, books = BOOKS[size.kind % len(BOOKS)]
    rng = np.random.default_rng(size.seed)
    columns = max(1, size.columns // length) * length
    indices = rng.integers(0, levels, (size.rows, columns // length, books))
    codebooks = rng.standard_normal((books, levels, length)).astype(np.float32)
    scale = (rng.random((size.rows, -(-columns // size.block))) + 0.5).astype(np.float16)
    return CodebookWeight(indices, codebooks, scale, size.block)


def _codebook(op: str, size: Size) -> Case:
    weight = _codebook_weight(size)
    x = _numbers(np.random.default_rng(size.seed + 1), (*size.lead, weight.shape[1]), size.dtype)
    return _product(op, x, weight, size, **_activation_bits(op, size))


def _gather(op: str, size: Size) -> Case:
    weight = _codebook_weight(size)
    arrays = weight.arrays()
    rows = np.random.default_rng(size.seed).integers(0, size.rows, size.lead)
    named = {"rows": rows, "weight_codes": arrays["codes"], "codebooks": arrays["codebooks"].astype(size.dtype)}
    named["weight_scale"] = arrays["scale"].astype(size.dtype)
    return Case(op, named, weight.attributes(), frozenset(named) - {"rows"})


def _log_attention(op: str, size: Size) -> Case:
    rng = np.random.default_rng(size.seed)
    levels, per_octave = ((16, 1.0), (16, 2.0), (256, 16.0), (40, 37 / 60))[size.kind % 4]
    scores = _numbers(rng, (*size.lead, size.rows, size.columns), size.dtype) * size.dtype(3)
    shape = (*size.lead, size.columns, size.block)
    value = rng.integers(-128, 128, shape, dtype=np.int8) if size.kind % 3 else _numbers(rng, shape, size.dtype)
    scale = np.full(size.block if size.wide_bias else 1, 0.5, np.float32)
    table = log_attention.weight_table(levels, per_octave)
    arrays = {"scores": scores, "value": value, "value_scale": scale, "table": table}
    return Case(op, arrays, {"codes_per_octave": per_octave}, frozenset({"value_scale", "table"}))


def _log_quantize(op: str, size: Size) -> Case:
    levels, per_octave = ((16, 1.0), (16, 2.0), (256, 16.0), (40, 37 / 60))[size.kind % 4]
    x = np.exp2(-np.random.default_rng(size.seed).uniform(0, 12, (*size.lead, size.columns))).astype(size.dtype)
    table = log_attention.weight_table(levels, per_octave)
    arrays = {"x": x, "scale": np.array(1.0, np.float32), "table": table}
    return Case(op, arrays, {"codes_per_octave": per_octave}, frozenset({"scale", "table"}))


def _lookup_quantize(op: str, size: Size) -> Case:
    rng = np.random.default_rng(size.seed)
    x = _numbers(rng, (*size.lead, size.columns), size.dtype)
    table = np.sort(rng.integers(0, 256, 256)).astype(np.uint8)
    zero_point = np.array(rng.integers(0, 256), np.uint8)
    arrays = {"x": x, "scale": np.array(2**-5, np.float32), "zero_point": zero_point, "table": table}
    return Case(op, arrays, {}, frozenset({"scale", "zero_point", "table"}))


def _rotation(op: str, size: Size) -> Case:
    order = (1, 12, 16, 20, 48, 64, 224, 256)[size.kind % 8]
    x = _numbers(np.random.default_rng(size.seed), (*size.lead, order * (1 + size.rows % 3)), size.dtype)
    attributes, arrays = {}, {"x": x}
    if op != hadamard.QUANTIZE_ROWS:
        rotation = hadamard.rotation_of(order)
        attributes, arrays = rotation.attributes(), {"x": x, "base": rotation.base}
    if op != hadamard.HADAMARD:
        attributes = {**attributes, "block_size": size.block}
    return Case(op, arrays, attributes, frozenset(arrays) - {"x"})


def _observe(op: str, size: Size) -> Case:
    x = _numbers(np.random.default_rng(size.seed), (*size.lead, size.columns), size.dtype)
    attributes = {"key": f"case/{size}", "axis": -1, "bins": 64 * (size.kind % 2), "gram": size.kind % 3 == 0}
    return Case(op, {"x": x}, {name: value if name == "key" else int(value) for name, value in attributes.items()})


EXAMPLES: dict[str, Callable[[str, Size], Case]] = {
    "MatMulLowBit": _low_bit,
    "DynamicQuantizeMatMulLowBit": _low_bit,
    "ConvLowBit": _convolution,
    static_product.QUANTIZED: _static,
    static_product.QLINEAR: _static,
    static_product.STATIC: _static,
    "MatMulCodebook": _codebook,
    "DynamicQuantizeMatMulCodebook": _codebook,
    "GatherCodebook": _gather,
    log_attention.OPERATOR: _log_attention,
    log_quantize.QUANTIZE: _log_quantize,
    log_quantize.QUANTIZE_DEQUANTIZE: _log_quantize,
    lookup_quantize.OPERATOR: _lookup_quantize,
    hadamard.HADAMARD: _rotation,
    hadamard.ROTATE_AND_QUANTIZE: _rotation,
    hadamard.QUANTIZE_ROWS: _rotation,
    "ObserveSink": _observe,
}


def largest(case: Case, *names: str) -> float:
    """The largest number of these inputs either way; 0 for what is missing or not finite."""
    arrays = [case.arrays[name] for name in names if case.arrays.get(name) is not None]
    with np.errstate(all="ignore"):
        found = [np.abs(np.nan_to_num(array.astype(np.float64), posinf=0, neginf=0)).max(initial=0) for array in arrays]
    return float(max(found, default=0))


def allowed(case: Case, index: int, right: np.ndarray) -> np.ndarray | float:
    """How far output `index` of two right runs may lie apart: their sums have another order.

    A float32 sum of n products is off by at most (n + 8) · ε of the sum of their sizes, which is at most n times the
    largest of each factor; a rounding to a code moves a number that lies on a border by one code.
    """
    dtype = next((a.dtype for a in case.arrays.values() if a is not None and a.dtype in EPSILON), np.dtype(np.float32))
    rounding = 2.02 * EPSILON[dtype] * np.abs(right.astype(np.float64)) + 1e-30
    x = case.arrays.get("x")
    if case.op in (log_quantize.QUANTIZE, "ObserveSink"):
        return 1.0 if case.op == log_quantize.QUANTIZE else 0.0
    if case.op == lookup_quantize.OPERATOR:  # a NaN gets the code of any number
        return np.where(np.isnan(x.astype(np.float32)), 255.0, 0.0)
    if case.op == log_quantize.QUANTIZE_DEQUANTIZE:
        table = case.arrays["table"].astype(np.float64).ravel()
        return rounding + np.abs(np.diff(table)).max(initial=0) * largest(case, "scale")
    if case.op == log_attention.OPERATOR:
        n = case.arrays["scores"].shape[-1]
        return rounding + (4 * n + 16) * 2.0**-24 * largest(case, "value") * largest(case, "value_scale")
    if case.op == "GatherCodebook":
        books = case.arrays["codebooks"]
        return rounding + (len(books) + 4) * 2.0**-23 * len(books) * largest(case, "codebooks") * largest(
            case, "weight_scale"
        )
    if case.op in (hadamard.HADAMARD, hadamard.ROTATE_AND_QUANTIZE, hadamard.QUANTIZE_ROWS):
        n = x.shape[-1]
        if case.op == hadamard.HADAMARD:
            return rounding + (n + 4) * 2.0**-23 * np.sqrt(n) * largest(case, "x")
        return 1.0 if index == 0 else (n + 8) * 2.0**-22 * largest(case, "x") * np.sqrt(n)
    n, scale = x.shape[-1] if "kernel_shape" not in case.attributes else x[:1].size, largest(case, "scale")
    numbers = largest(case, "x") if x.dtype in EPSILON else 512.0
    numbers *= largest(case, "x_scale") if "x_scale" in case.arrays and x.dtype not in EPSILON else 1.0
    if "codebooks" in case.arrays:
        value = 2.1 * len(case.arrays["codebooks"]) * largest(case, "codebooks")
    else:
        value = 2.1 * largest(case, "table") + 2 * largest(case, "zero_point")
    bound = (n + 16) * 2.0**-23 * n * numbers * value * scale
    if "low_rank_a" in case.arrays:
        rank = case.arrays["low_rank_a"].shape[-1]
        branch = n * rank * numbers * largest(case, "low_rank_a") * largest(case, "low_rank_b")
        bound += (n + rank + 8) * 2.0**-23 * branch
    if case.op == static_product.QLINEAR:
        return 1.0 + bound / max(largest(case, "y_scale"), 1e-30)
    return rounding + bound


def disagreement(case: Case, outputs: list[np.ndarray], right: list[np.ndarray]) -> str | None:
    """Where the outputs of two runs of a case differ by more than is allowed, or None."""
    for index, (found, wanted) in enumerate(zip(outputs, right, strict=True)):
        if found.dtype != wanted.dtype or found.shape != wanted.shape:
            return f"output {index} is {found.dtype}{list(found.shape)}, not {wanted.dtype}{list(wanted.shape)}: {case}"
        if case.op in product_guarantee.PRODUCTS:
            guarantee = product_guarantee.owed(case.arrays, case.attributes)
            epsilon = EPSILON[case.arrays["x"].dtype]
            if problem := product_guarantee.breach(case.op, guarantee, found, wanted, epsilon):
                return f"output {index} is {problem}: {case}"
            continue
        with np.errstate(all="ignore"):
            off = np.abs(found.astype(np.float64) - wanted.astype(np.float64))
            same = (found == wanted) | (np.isnan(found) & np.isnan(wanted)) | (off <= allowed(case, index, wanted))
        if not same.all():
            place = tuple(int(i) for i in np.argwhere(~same)[0])
            return f"output {index} is {found[place]}, not {wanted[place]}, at {list(place)}: {case}"
    return None

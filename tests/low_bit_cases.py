"""Models with one low-bit matrix product, and the tolerance that its rounding allows."""

import dataclasses

import ml_dtypes
import numpy as np
import onnx_ir as ir

from qonnx.custom_ops import ops
from qonnx.custom_ops.lowbit import FP4, INT8, NF4, LowBitWeight

INT16 = f"{INT8}/16"  # the operator with activation_bits = 16
STEPS = {INT8: 127, INT16: 127 * 257}  # either way
EPSILON = {np.dtype(np.float32): 2.0**-24, np.dtype(np.float16): 2.0**-11, np.dtype(ml_dtypes.bfloat16): 2.0**-8}


def weight_of(kind: str, rows: int, columns: int, block: int, seed: int = 0, scale_type=np.float32) -> LowBitWeight:
    """A random weight: "b3" (3 bits, zero in the middle), "b3/half" (3.5), "b3/rows", "b3/bytes", "ternary", "nf4"."""
    rng = np.random.default_rng(seed)
    name, _, zeros = kind.partition("/")
    levels = {"ternary": 3, "nf4": 16, "fp4": 16}.get(name) or 2 ** int(name[1:])
    blocks = -(-columns // block)
    scale = (rng.random((rows, blocks)) + 0.5).astype(scale_type)
    zero_point = {
        "": np.array(float(levels // 2 if name not in ("nf4", "fp4") else 0), np.float32),
        "half": np.array((levels - 1) / 2, np.float32),
        "rows": (rng.random((rows, blocks)) * levels).astype(np.float32),
        "bytes": rng.integers(0, levels, (rows, blocks)).astype(np.uint8),
    }[zeros]
    if name == "ternary":
        zero_point = np.array(1, np.uint8)
    table = {"nf4": NF4, "fp4": FP4}.get(name)
    return LowBitWeight(rng.integers(0, levels, (rows, columns)), scale, zero_point, block, levels, table)


def model_of(
    op: str,
    weight: LowBitWeight,
    *,
    element: str = "FLOAT",
    bias: np.ndarray | None = None,
    constant: bool = True,
    **wrong: int,
) -> ir.Model:
    """x [..., K] -> y [..., N] by `op` (EXACT, INT8, INT16).

    Unless `constant` the weight's arrays are inputs; `wrong` overrides attributes.
    """
    dtype = ir.DataType[element]
    x = ir.Value(name="x", shape=ir.Shape(["batch", "tokens", weight.codes.shape[1]]), type=ir.TensorType(dtype))
    bias = np.zeros(1) if bias is None else bias
    arrays = {**weight.arrays(), "bias": bias.astype(dtype.numpy())}
    values = [_value(name, array, constant) for name, array in arrays.items()]
    op, _, bits = op.partition("/")
    attributes = weight.attributes() | ({"activation_bits": int(bits)} if bits else {}) | wrong
    node = ops.node(op, [x, *values], node_name="product", **attributes)
    (y,) = node.outputs
    y.name, y.type, y.shape = "y", x.type, ir.Shape(["batch", "tokens", weight.codes.shape[0]])
    inputs, initializers = ([x], values) if constant else ([x, *values], [])
    graph = ir.Graph(inputs, [y], nodes=[node], initializers=initializers, opset_imports={"": 21}, name="product")
    model = ir.Model(graph, ir_version=10)
    ops.add_to_model(model, op)
    return model


def _value(name: str, array: np.ndarray, constant: bool) -> ir.Value:
    tensor = ir.tensor(array, name=name)
    if constant:
        return ir.Value(name=name, const_value=tensor)
    return ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype))


def expected(
    op: str, x: np.ndarray, weight: LowBitWeight, bias: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """y in float64 with activations (and tables) rounded as the operator says, and the bound of its float32 error."""
    rows = x.reshape(-1, x.shape[-1]).astype(np.float32)
    if op in STEPS:
        rows = rounded_rows(rows, weight.block, STEPS[op])
        if weight.table is not None:
            step = np.float32(np.abs(weight.table).max() / np.float32(127))
            table = np.rint(weight.table / step).astype(np.float64) * step
            weight = dataclasses.replace(weight, table=table)
    w = weight.decode()
    # Kernels may take Σ x·value and zero·Σ x apart, so the bound counts the size of both.
    blocks = np.arange(w.shape[1]) // weight.block
    value = np.abs(weight.codes if weight.table is None else weight.table[weight.codes]).astype(np.float64)
    zero = np.abs(np.broadcast_to(weight.zero_point, weight.scale.shape).astype(np.float64))[:, blocks]
    offset = 128 * np.abs(weight.table).max() / 127 if weight.table is not None else 0.0
    size = (value + zero + offset) * np.abs(weight.scale.astype(np.float64))[:, blocks]
    y = rows.astype(np.float64) @ w.T + (0 if bias is None else bias.astype(np.float64))
    bound = (w.shape[1] + 8) * 2.0**-24 * (np.abs(rows).astype(np.float64) @ size.T) + np.abs(y) * EPSILON[
        x.dtype
    ] * 1.01
    shape = (*x.shape[:-1], w.shape[0])
    return y.reshape(shape), bound.reshape(shape) + 1e-30


def rounded_rows(rows: np.ndarray, block: int, steps: int = 127) -> np.ndarray:
    """Each block of a row rounded to `steps` of its largest number either way, as float32 computes it."""
    result = np.empty_like(rows, np.float64)
    for begin in range(0, rows.shape[1], block):
        part = rows[:, begin : begin + block]
        largest = np.maximum(np.abs(part).max(1, keepdims=True), np.float32(2.0**-100))
        code = np.rint(part * (np.float32(steps) / largest))
        result[:, begin : begin + block] = code.astype(np.float64) * (largest / np.float32(steps)).astype(np.float64)
    return result

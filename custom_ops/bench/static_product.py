"""Static low-bit products against ONNX Runtime's 8-bit ones: `python -m qonnx.custom_ops.bench.static_product`.

For each shape, weight bits and threads: equality with the integers first (the greatest difference of codes, or the
relative error against float64), then medians in turns. QLinearMatMulLowBit stands against QLinearMatMul (uint8 by int8,
per-channel scales), StaticQuantizeMatMulLowBit against QuantizeLinear + QLinearMatMul + DequantizeLinear and against
the float product.
"""

from __future__ import annotations

import argparse

import numpy as np
import onnx
import onnx.helper as helper
import onnx_ir as ir
import onnxruntime as ort

from qonnx.custom_ops import library_path, ops
from qonnx.custom_ops.bench.turns import time_in_turns
from qonnx.custom_ops.lowbit import LowBitWeight
from qonnx.custom_ops.static_product import QLINEAR, STATIC, StaticGrid, attributes_of, inputs_of

SHAPES = "197x384x1536,197x1536x384,197x384x1152,197x384x384"
X = StaticGrid(0.05, 121)


def weight_of(levels: int, rows: int, columns: int) -> LowBitWeight:
    rng = np.random.default_rng(0)
    scale = (rng.random((rows, 1)) * 0.01 + 0.001).astype(np.float32)
    return LowBitWeight(rng.integers(0, levels, (rows, columns)), scale, np.uint8(levels // 2), columns, levels)


def our_model(op: str, weight: LowBitWeight, y: StaticGrid) -> bytes:
    rows, columns = weight.codes.shape
    y_grid, x_type = (y, ir.DataType.UINT8) if op == QLINEAR else (None, ir.DataType.FLOAT)
    x = ir.Value(name="x", shape=ir.Shape(["M", columns]), type=ir.TensorType(x_type))
    arrays = inputs_of(weight, X, None, y_grid)
    values = [ir.Value(name=name, const_value=ir.tensor(array, name=name)) for name, array in arrays.items()]
    attributes = attributes_of(weight, X if op == STATIC else None, y_grid)
    node = ops.node(op, [x, *values], node_name="product", **attributes)
    (out,) = node.outputs
    out.name, out.type, out.shape = "y", ir.TensorType(x_type), ir.Shape(["M", rows])
    graph = ir.Graph([x], [out], nodes=[node], initializers=values, opset_imports={"": 21}, name="g")
    model = ir.Model(graph, ir_version=10)
    ops.add_to_model(model, op)
    return ir.to_proto(model).SerializeToString()


def their_model(kind: str, weight: LowBitWeight, y: StaticGrid) -> bytes:
    """kind: "codes" (QLinearMatMul), "float in" (with Q and DQ around it) or "float" (MatMul)."""
    rows, columns = weight.codes.shape
    if kind == "float":
        arrays = {"w": np.ascontiguousarray(weight.decode().T.astype(np.float32))}
        nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    else:
        w = np.ascontiguousarray((weight.codes - weight.levels // 2).T.astype(np.int8))
        arrays = {"w": w, "ws": weight.scale[:, 0], "wz": np.zeros(rows, np.int8), **X.arrays("x"), **y.arrays("y")}
        q = ["x_scale", "x_zero_point", "w", "ws", "wz", "y_scale", "y_zero_point"]
        if kind == "codes":
            nodes = [helper.make_node("QLinearMatMul", ["x", *q], ["y"])]
        else:
            nodes = [
                helper.make_node("QuantizeLinear", ["x", "x_scale", "x_zero_point"], ["xq"]),
                helper.make_node("QLinearMatMul", ["xq", *q], ["yq"]),
                helper.make_node("DequantizeLinear", ["yq", "y_scale", "y_zero_point"], ["y"]),
            ]
    element = onnx.TensorProto.UINT8 if kind == "codes" else onnx.TensorProto.FLOAT
    x, out = (helper.make_tensor_value_info(n, element, ["M", c]) for n, c in (("x", columns), ("y", rows)))
    initializers = [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "g", [x], [out], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10).SerializeToString()


def bound_call(model: bytes, x: np.ndarray, y: np.ndarray, threads: int):
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 4
    options.register_custom_ops_library(library_path())
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", ort.OrtValue.ortvalue_from_numpy(x))
    binding.bind_output("y", "cpu", 0, y.dtype.type, y.shape, y.ctypes.data)

    def call(written: np.ndarray = y) -> np.ndarray:  # the binding holds only an address: this keeps the array
        session.run_with_iobinding(binding)
        return written

    return call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", default=SHAPES, help="MxKxN, comma-separated")
    parser.add_argument("--bits", default="4,8")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each candidate and setting")
    arguments = parser.parse_args()
    ratios: dict[str, list[float]] = {}
    for shape in arguments.shapes.split(","):
        tokens, columns, rows = map(int, shape.split("x"))
        x = np.random.default_rng(1).standard_normal((tokens, columns)).astype(np.float32)
        codes = X.quantize(x).astype(np.uint8)
        for bits in map(int, arguments.bits.split(",")):
            weight = weight_of(2**bits, rows, columns)
            exact = (codes.astype(np.float64) - X.zero_point) @ weight.decode().T * np.float32(X.scale)
            y = StaticGrid(float(np.float32(np.abs(exact).max() / 127)), 128)
            results = {
                "QLinearMatMulLowBit": (our_model(QLINEAR, weight, y), codes, np.uint8),
                "QLinearMatMul": (their_model("codes", weight, y), codes, np.uint8),
                "StaticQuantizeMatMulLowBit": (our_model(STATIC, weight, y), x, np.float32),
                "Q+QLinearMatMul+DQ": (their_model("float in", weight, y), x, np.float32),
                "MatMul": (their_model("float", weight, y), x, np.float32),
            }
            for threads in map(int, arguments.threads.split(",")):
                calls, errors = {}, {}
                for name, (model, data, kind) in results.items():
                    out = np.empty((tokens, rows), kind)
                    calls[name] = bound_call(model, data, out, threads)
                    calls[name]()
                    if kind is np.uint8:
                        errors[name] = f"codes off by ≤ {np.abs(out - y.quantize(exact)).max():.0f}"
                    else:
                        errors[name] = f"error {np.linalg.norm(out - exact) / np.linalg.norm(exact):.1e}"
                timing = time_in_turns(calls, threads=threads, seconds=arguments.seconds)
                print(f"{shape} W{bits} {threads} threads")
                for name in results:
                    print(f"  {name:28} {timing.median[name]:8.0f} µs   {errors[name]}", flush=True)
                pairs = {"QLinearMatMulLowBit": "QLinearMatMul", "StaticQuantizeMatMulLowBit": "Q+QLinearMatMul+DQ"}
                for ours, theirs in pairs.items():
                    ratios.setdefault(f"{ours} W{bits} against {theirs}", []).append(timing.ratio(theirs, ours))
    for name, values in ratios.items():
        print(f"== {name}: {np.exp(np.mean(np.log(values))):.2f}× over {len(values)} settings")


if __name__ == "__main__":
    main()

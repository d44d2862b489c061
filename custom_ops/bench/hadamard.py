"""Hadamard and row quantization against standard operators: `python -m qonnx.custom_ops.bench.hadamard`.

Hadamard against the fastest of what ONNX Runtime has for it, MatMul with the whole matrix and the function body (small
Kronecker factors); DynamicQuantizeRows against its function body; the fused operator against Hadamard and
DynamicQuantizeRows in turn. Relative errors against float64 first, then medians in turns and ratios.
"""

from __future__ import annotations

import argparse

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from onnx import helper, numpy_helper

from qonnx.custom_ops import library_path, ops
from qonnx.custom_ops.bench.turns import time_in_turns
from qonnx.custom_ops.hadamard import HADAMARD, QUANTIZE_ROWS, ROTATE_AND_QUANTIZE, rotation_of


def our_model(steps: list[str], order: int) -> bytes:
    """x float32 [M, order] through the operators one after the other; the last one's outputs are the model's."""
    rotation = rotation_of(order)
    x = ir.Value(name="x", shape=ir.Shape(["M", order]), type=ir.TensorType(ir.DataType.FLOAT))
    base = ir.Value(name="base", const_value=ir.tensor(rotation.base, name="base"))
    nodes, value = [], x
    for step in steps:
        attributes = {} if step == QUANTIZE_ROWS else rotation.attributes()
        attributes |= {} if step == HADAMARD else {"block_size": order}
        inputs = [value] if step == QUANTIZE_ROWS else [value, base]
        nodes.append(ops.node(step, inputs, node_name=step, **attributes))
        value = nodes[-1].outputs[0]
        value.name, value.shape = step, ir.Shape(["M", order])
        value.type = ir.TensorType(ir.DataType.FLOAT if step == HADAMARD else ir.DataType.INT8)
    for output in nodes[-1].outputs[1:]:
        output.name, output.type, output.shape = "scale", ir.TensorType(ir.DataType.FLOAT), ir.Shape(["M", 1])
    initializers = [] if steps == [QUANTIZE_ROWS] else [base]
    graph = ir.Graph([x], nodes[-1].outputs, nodes=nodes, initializers=initializers, opset_imports={"": 21}, name="g")
    model = ir.Model(graph, ir_version=10)
    for step in steps:
        ops.add_to_model(model, step)
    return ir.to_proto(model).SerializeToString()


def matmul_model(order: int) -> bytes:
    rotation = rotation_of(order)
    matrix = (rotation.matrix().T * rotation.factor).astype(np.float32)
    x, y = (helper.make_tensor_value_info(name, 1, ["M", order]) for name in ("x", "y"))
    nodes, initializers = [helper.make_node("MatMul", ["x", "h"], ["y"])], [numpy_helper.from_array(matrix, "h")]
    graph = helper.make_graph(nodes, "g", [x], [y], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10).SerializeToString()


def opened(model: bytes, threads: int, native: bool) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 4
    if native:
        options.register_custom_ops_library(library_path())
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def bound(session: ort.InferenceSession, x: np.ndarray):
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", ort.OrtValue.ortvalue_from_numpy(x))
    for output, shape in zip(session.get_outputs(), (x.shape, (len(x), 1)), strict=False):
        kind = np.int8 if output.type == "tensor(int8)" else np.float32
        binding.bind_ortvalue_output(output.name, ort.OrtValue.ortvalue_from_shape_and_type(shape, kind))
    return lambda: session.run_with_iobinding(binding)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--orders", default="384,1536,4096")
    parser.add_argument("--tokens", default="1,197")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.6, help="for each candidate and setting")
    arguments = parser.parse_args()
    for order in map(int, arguments.orders.split(",")):
        matrix = rotation_of(order).matrix() * rotation_of(order).factor
        for tokens in map(int, arguments.tokens.split(",")):
            x = np.random.default_rng(0).standard_normal((tokens, order)).astype(np.float32)
            rotate, both = our_model([HADAMARD], order), our_model([HADAMARD, QUANTIZE_ROWS], order)
            fused, rows = our_model([ROTATE_AND_QUANTIZE], order), our_model([QUANTIZE_ROWS], order)
            sessions = {
                "Hadamard": opened(rotate, arguments.threads, True),
                "its body": opened(rotate, arguments.threads, False),
                "MatMul": opened(matmul_model(order), arguments.threads, False),
                "fused": opened(fused, arguments.threads, True),
                "one after the other": opened(both, arguments.threads, True),
                "rows": opened(rows, arguments.threads, True),
                "body of rows": opened(rows, arguments.threads, False),
            }
            wanted = x.astype(np.float64) @ matrix.T
            errors = []
            for name, session in sessions.items():
                outputs = session.run(None, {"x": x})
                y = outputs[0] if len(outputs) == 1 else outputs[0] * outputs[1].astype(np.float64)
                true = x if "rows" in name else wanted
                errors.append(f"{name} {np.linalg.norm(y - true) / np.linalg.norm(true):.1e}")
            print(f"n={order} M={tokens} relative errors: {', '.join(errors)}", flush=True)
            calls = {name: bound(session, x) for name, session in sessions.items()}
            timing = time_in_turns(calls, threads=arguments.threads, seconds=arguments.seconds)
            for ours, theirs in (
                ("Hadamard", "MatMul"),
                ("Hadamard", "its body"),
                ("fused", "one after the other"),
                ("rows", "body of rows"),
            ):
                parts = f"{ours} {timing.median[ours]:.0f} µs, {theirs} {timing.median[theirs]:.0f}"
                print(f"n={order} M={tokens} {timing.ratio(theirs, ours):6.2f}×  {parts}", flush=True)


if __name__ == "__main__":
    main()

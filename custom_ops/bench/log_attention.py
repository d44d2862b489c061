"""LogAttention against Softmax and MatMul of ONNX Runtime: `python -m qonnx.custom_ops.bench.log_attention`.

Prints the error of both against float64 softmax attention and of ours against its own specification, then medians in
turns and their ratios. The default is the attention of a small vision transformer: 6 heads of 257 × 257, 64 wide.
"""

from __future__ import annotations

import argparse

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx import helper

from qonnx.custom_ops import library_path, ops
from qonnx.custom_ops.bench.turns import time_in_turns
from qonnx.custom_ops.log_attention import OPERATOR, codes_of, weight_table

# name: levels, codes per octave, int8 values
CASES = {
    "base 2, 4 bit, float V": (16, 1.0, False),
    "base √2, 4 bit, float V": (16, 2.0, False),
    "base 2^(1/4), 6 bit, float V": (64, 4.0, False),
    "base 2^(1/16), 8 bit, float V": (256, 16.0, False),
    "base 2, 4 bit, int8 V": (16, 1.0, True),
    "base √2, 4 bit, int8 V": (16, 2.0, True),
    "base 2^(1/16), 8 bit, int8 V": (256, 16.0, True),
}


def softmax_model(shape: tuple[int, ...], value_shape: tuple[int, ...]) -> bytes:
    nodes = [helper.make_node("Softmax", ["scores"], ["p"], axis=-1), helper.make_node("MatMul", ["p", "value"], ["y"])]
    infos = [helper.make_tensor_value_info(n, 1, s) for n, s in (("scores", shape), ("value", value_shape))]
    y = helper.make_tensor_value_info("y", 1, (*shape[:-1], value_shape[-1]))
    graph = helper.make_graph(nodes, "g", infos, [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10).SerializeToString()


def log_model(shape: tuple[int, ...], value: np.ndarray, scale: float, levels: int, per_octave: float) -> bytes:
    arrays = {"value_scale": np.array([scale], np.float32), "table": weight_table(levels, per_octave)}
    scores = ir.Value(name="scores", shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))
    values = ir.Value(name="value", shape=ir.Shape(value.shape), type=ir.TensorType(ir.tensor(value).dtype))
    constants = [ir.Value(name=name, const_value=ir.tensor(array, name=name)) for name, array in arrays.items()]
    node = ops.node(OPERATOR, [scores, values, *constants], node_name="attention", codes_per_octave=per_octave)
    y = node.outputs[0]
    y.name, y.type, y.shape = "y", scores.type, ir.Shape((*shape[:-1], value.shape[-1]))
    opsets = {"": 21}
    graph = ir.Graph([scores, values], [y], nodes=[node], initializers=constants, opset_imports=opsets, name="g")
    model = ir.Model(graph, ir_version=10)
    ops.add_to_model(model, OPERATOR)
    onnx.checker.check_model(ir.to_proto(model))
    return ir.to_proto(model).SerializeToString()


def bound(model: bytes, feeds: dict[str, np.ndarray], y: np.ndarray, threads: int):
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 4
    options.register_custom_ops_library(library_path())
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    for name, array in feeds.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
    binding.bind_output("y", "cpu", 0, np.float32, y.shape, y.ctypes.data)
    return lambda: session.run_with_iobinding(binding)


def error_of(y: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(y - wanted) / np.linalg.norm(wanted))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="6x257x257x64", help="heads x rows x columns x width")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each candidate and setting")
    arguments = parser.parse_args()
    heads, rows, columns, width = map(int, arguments.shape.split("x"))
    rng = np.random.default_rng(0)
    scores = (rng.standard_normal((heads, rows, columns)) * 2).astype(np.float32)
    value = rng.standard_normal((heads, columns, width)).astype(np.float32)
    scale = float(np.abs(value).max() / 127)
    codes = np.rint(value / scale).astype(np.int8)
    power = np.exp(scores - scores.max(-1, keepdims=True), dtype=np.float64)
    exact = power @ value / power.sum(-1, keepdims=True)
    for threads in map(int, arguments.threads.split(",")):
        outputs = {name: np.empty((heads, rows, width), np.float32) for name in ("softmax", *CASES)}
        float_feeds = {"scores": scores, "value": value}
        softmax = softmax_model(scores.shape, value.shape)
        calls = {"softmax": bound(softmax, float_feeds, outputs["softmax"], threads)}
        for name, (levels, per_octave, int8) in CASES.items():
            used, step = (codes, scale) if int8 else (value, 1.0)
            model = log_model(scores.shape, used, step, levels, per_octave)
            calls[name] = bound(model, {"scores": scores, "value": used}, outputs[name], threads)
        for name, call in calls.items():
            call()
            line = f"{threads}t {name:30} to softmax in float64 {error_of(outputs[name], exact):.1e}"
            if name in CASES:
                levels, per_octave, int8 = CASES[name]
                weight = weight_table(levels, per_octave).astype(np.float64)[codes_of(scores, levels, per_octave)]
                used = codes * np.float64(np.float32(scale)) if int8 else value
                specified = weight @ used / weight.sum(-1, keepdims=True)
                line += f", to its specification {error_of(outputs[name], specified):.1e}"
            print(line, flush=True)
        timing = time_in_turns(calls, threads=threads, seconds=arguments.seconds)
        for name in CASES:
            ratio, times = timing.ratio("softmax", name), timing.median
            parts = f"{times[name]:.0f} µs, Softmax and MatMul {times['softmax']:.0f}"
            print(f"{threads}t {name:30} {ratio:5.2f}×  ({parts})", flush=True)


if __name__ == "__main__":
    main()

"""A whole model with 4-bit weights: our products against MatMulNBits: `python -m qonnx.custom_ops.bench.model FILE`.

ONNX Runtime's quantizer writes the weights of FILE, a float model, in blocks; the same file with every MatMulNBits
replaced by MatMulLowBit (float activations) or DynamicQuantizeMatMulLowBit (rounded to 8 bits by row and block, as
MatMulNBits does at accuracy level 4) stands against it and against float. How far outputs lie from those with the same
4-bit weights and float activations (MatMulNBits at accuracy level 1) is printed first, then medians in turns; both go
to results.json and results.md.
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from qonnx.custom_ops import library_path, lowbit, ops, products
from qonnx.custom_ops.bench import results
from qonnx.custom_ops.bench.lowbit import distance, machine
from qonnx.custom_ops.bench.results import ModelTime
from qonnx.custom_ops.bench.turns import time_in_turns
from qonnx.custom_ops.lowbit import LowBitWeight

FLOAT, EXACT, DYNAMIC = "float", "MatMulLowBit", "DynamicQuantizeMatMulLowBit"
_NODE = "MatMulNBits"
THEIRS = {level: f"{_NODE}, accuracy level {level}" for level in (1, 4)}


def quantized(model: onnx.ModelProto, block: int, level: int) -> onnx.ModelProto:
    """By ONNX Runtime's own tool: symmetric 4-bit weights in blocks."""
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    quantizer = MatMulNBitsQuantizer(copy, block_size=block, is_symmetric=True, accuracy_level=level)
    quantizer.process()
    return quantizer.model.model


def with_our_products(model: onnx.ModelProto, int8: bool) -> onnx.ModelProto:
    """Every MatMulNBits as our product of the same codes and scales."""
    ours = ir.from_proto(model)
    for node in list(ours.graph):
        if node.op_type != _NODE:
            continue
        weight = _weight(node)
        new, values = products.product(node.inputs[0], weight, activation_bits=8 if int8 else None, name=node.name)
        ours.graph.insert_before(node, new)
        for value in values:
            ours.graph.register_initializer(value)
        (old,), (y,) = node.outputs, new.outputs
        y.name, y.type, y.shape = old.name, old.type, old.shape
        ir.convenience.replace_all_uses_with(old, y, replace_graph_outputs=True)
        ours.graph.remove(node, safe=True)
    ops.add_to_model(ours, lowbit.INT8 if int8 else lowbit.EXACT)
    return ir.to_proto(ours)


def _weight(node: ir.Node) -> LowBitWeight:
    attributes = {name: node.attributes[name].as_int() for name in ("K", "N", "bits", "block_size")}
    rows, columns, block = attributes["N"], attributes["K"], attributes["block_size"]
    packed, scale = (node.inputs[i].const_value.numpy() for i in (1, 2))
    nibbles = np.stack([packed & 15, packed >> 4], -1).reshape(rows, -1)[:, :columns]
    return LowBitWeight(nibbles, scale.reshape(rows, -1), np.uint8(8), block, 16)


def call_of(model: onnx.ModelProto, x: np.ndarray, threads: int) -> tuple[Callable[[], object], list[np.ndarray]]:
    """A call with the input bound, and the outputs of a first one."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 4
    options.register_custom_ops_library(library_path())
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: x}
    return lambda: session.run(None, feed), session.run(None, feed)


def random_input(model: onnx.ModelProto) -> np.ndarray:
    """A standard normal array of the first input's shape, ones for symbols."""
    shape = [size.dim_value or 1 for size in model.graph.input[0].type.tensor_type.shape.dim]
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def measure(path: pathlib.Path, block: int, threads: int, seconds: float) -> list[ModelTime]:
    model = onnx.load(path)
    x = random_input(model)
    nbits = {level: quantized(model, block, level) for level in THEIRS}
    models = {
        FLOAT: model,
        **{THEIRS[level]: file for level, file in nbits.items()},
        EXACT: with_our_products(nbits[1], int8=False),
        DYNAMIC: with_our_products(nbits[4], int8=True),
    }
    bound = {name: call_of(file, x, threads) for name, file in models.items()}
    wanted = bound[THEIRS[1]][1][0].ravel()[None]
    errors = {name: distance(outputs[0].ravel()[None], wanted) for name, (_, outputs) in bound.items()}
    for name, error in errors.items():
        print(f"block {block}, {threads} threads, {name:30} {error:.1e} from {THEIRS[1]}", flush=True)
    timing = time_in_turns({name: call for name, (call, _) in bound.items()}, threads=threads, seconds=seconds)
    return [
        ModelTime(path.stem, block, threads, name, timing.median[name], errors[name], timing.samples[name])
        for name in models
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=pathlib.Path)
    parser.add_argument("--blocks", default="32,128")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--seconds", type=float, default=6, help="for each variant")
    parser.add_argument("--folder", type=pathlib.Path, default=results.FOLDER, help="of results.json and results.md")
    arguments = parser.parse_args()
    kept = results.load(arguments.folder, machine())
    for block in map(int, arguments.blocks.split(",")):
        for threads in map(int, arguments.threads.split(",")):
            for row in measure(arguments.file, block, threads, arguments.seconds):
                kept.models[row.key] = row
                print(f"{row.variant:34} {row.microseconds / 1e3:8.2f} ms  (n={row.samples})", flush=True)
            kept.save(arguments.folder)


if __name__ == "__main__":
    main()

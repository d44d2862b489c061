"""Operators on a GPU against ONNX Runtime's own: `python -m qonnx.custom_ops.bench.gpu`.

Products, for each format and number of rows of X, in float16, against MatMulNBits and float16 cuBLAS: relative errors
against float64 first, then the median time of a layer. A model of several layers that read one X holds weights enough
to leave the caches; it is run as a CUDA graph, so that no launch is waited for. The bandwidth is the bytes of weights
and scales over the time. The other operators (gpu_operators.py) against float16 nodes, with the bytes that go in and
out. Without a GPU a sentence says what is missing.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from qonnx.custom_ops import ops, products
from qonnx.custom_ops.bench.gpu_operators import FAMILIES
from qonnx.custom_ops.codebook import CodebookWeight
from qonnx.custom_ops.cuda.device import gpu_session, missing
from qonnx.custom_ops.lowbit import LowBitWeight

Weight = LowBitWeight | CodebookWeight
# name -> levels, block, books of vectors of 8; the scales are float16
FORMATS: dict[str, tuple[int, int, int]] = {
    "W4.b32": (16, 32, 0),
    "W4.b128": (16, 128, 0),
    "W3.b128": (8, 128, 0),
    "W2.b128": (4, 128, 0),
    "W8.b128": (256, 128, 0),
    "VQ.2x8": (256, 0, 2),
    "VQ.1x12": (4096, 0, 1),
    "VQ.1x16": (65536, 0, 1),
}
CACHE = 128 << 20  # bytes of weights that no card at hand keeps in its caches
_DTYPE = ir.DataType.FLOAT16


def weight_of(name: str, rows: int, columns: int, seed: int) -> Weight:
    levels, block, books = FORMATS[name]
    block = block or columns
    rng = np.random.default_rng(seed)
    scale = (rng.random((rows, -(-columns // block))) * 0.01 + 0.001).astype(np.float16)
    if books:
        indices = rng.integers(0, levels, (rows, columns // 8, books))
        return CodebookWeight(indices, rng.standard_normal((books, levels, 8)).astype(np.float16), scale, block)
    return LowBitWeight(rng.integers(0, levels, (rows, columns)), scale, np.float32(levels // 2), block, levels)


def layers_of(build: Callable[[ir.Value, int], tuple[ir.Node, list[ir.Value]]], columns: int, rows: int, layers: int):
    """A model of `layers` products that read one X [M, columns], float16; y0, y1, … are its outputs."""
    x = ir.Value(name="x", shape=ir.Shape(["M", columns]), type=ir.TensorType(_DTYPE))
    nodes, initializers = [], []
    for layer in range(layers):
        node, values = build(x, layer)
        for value in values:
            value.name = value.const_value.name = f"{layer}.{value.name}"
        (y,) = node.outputs
        y.name, y.type, y.shape = f"y{layer}", x.type, ir.Shape(["M", rows])
        nodes.append(node)
        initializers += values
    outputs = [node.outputs[0] for node in nodes]
    opsets = {"": 21, "com.microsoft": 1}
    graph = ir.Graph([x], outputs, nodes=nodes, initializers=initializers, opset_imports=opsets, name="layers")
    model = ir.Model(graph, ir_version=10)
    for op in dict.fromkeys(node.op_type for node in nodes if node.domain == "ai.qonnx"):
        ops.add_to_model(model, op)
    return model


def candidates(name: str, columns: int, rows: int, layers: int) -> dict[str, tuple[ir.Model, Weight | np.ndarray]]:
    """Models by name, each with the weight that its first layer multiplies by."""
    weights = [weight_of(name, rows, columns, layer) for layer in range(layers)]

    def ours(int8: bool):
        return lambda x, layer: products.product(
            x, weights[layer], activation_bits=8 if int8 else None, name=f"product{layer}"
        )

    def floats(x: ir.Value, layer: int):
        array = np.ascontiguousarray(weights[layer].decode().T.astype(np.float16))
        return _node("MatMul", x, {"b": array}, layer)

    models = {
        "ours": layers_of(ours(False), columns, rows, layers),
        "ours, int8": layers_of(ours(True), columns, rows, layers),
        "cuBLAS": layers_of(floats, columns, rows, layers),
    }
    first = weights[0]
    if isinstance(first, LowBitWeight) and first.levels in (16, 256):
        bits = first.levels.bit_length() - 1

        def nbits(x: ir.Value, layer: int):
            weight = weights[layer]
            codes = weight.codes.reshape(rows, columns // weight.block, -1, 8 // bits)
            packed = (codes << (np.arange(8 // bits) * bits)).sum(-1).astype(np.uint8)
            attributes = {"K": columns, "N": rows, "bits": bits, "block_size": weight.block}
            return _node("MatMulNBits", x, {"b": packed, "s": weight.scale}, layer, "com.microsoft", **attributes)

        models["MatMulNBits"] = layers_of(nbits, columns, rows, layers)
    return {key: (model, first) for key, model in models.items()}


def _node(op: str, x: ir.Value, arrays: dict[str, np.ndarray], layer: int, domain: str = "", **attributes: int):
    values = [ir.Value(name=key, const_value=ir.tensor(array, name=key)) for key, array in arrays.items()]
    return ir.node(op, [x, *values], attributes, domain=domain, name=f"{op}{layer}"), values


def error(y: np.ndarray, x: np.ndarray, weight: Weight) -> float:
    """‖y − x · wᵀ‖ / ‖x · wᵀ‖ of the first rows, in float64."""
    wanted = x[:4].astype(np.float64) @ weight.decode().astype(np.float64).T
    return float(np.linalg.norm(y[:4].astype(np.float64) - wanted) / np.linalg.norm(wanted))


def median_time(
    opened: ort.InferenceSession,
    feeds: dict[str, np.ndarray],
    outputs: Sequence[np.ndarray],
    device: str,
    seconds: float,
) -> float:
    """The median time of a run in microseconds; inputs, and outputs of the shapes of `outputs`, stay where they are."""
    binding = opened.io_binding()
    for name, array in feeds.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array, device, 0))
    places = [ort.OrtValue.ortvalue_from_shape_and_type(y.shape, y.dtype.type, device, 0) for y in outputs]
    for output, place in zip(opened.get_outputs(), places, strict=True):
        binding.bind_ortvalue_output(output.name, place)
    for _ in range(3):  # a CUDA graph is captured by the first runs
        opened.run_with_iobinding(binding)
    samples = []
    end = time.perf_counter() + seconds
    while not samples or time.perf_counter() < end:
        begin = time.perf_counter_ns()
        opened.run_with_iobinding(binding)
        binding.synchronize_outputs()
        samples.append((time.perf_counter_ns() - begin) / 1e3)
    return float(np.median(samples))


def stored_bytes(weight: Weight) -> int:
    """Bytes of codes and scales, which every product reads; code books stay in the caches."""
    arrays = weight.arrays()
    return arrays["codes"].nbytes + arrays["scale"].nbytes


def measure(
    name: str,
    columns: int,
    rows: int,
    tokens: int,
    *,
    open_model: Callable[[ir.Model], ort.InferenceSession],
    device: str,
    seconds: float,
    cache: int = CACHE,
) -> list[str]:
    """A line for each candidate: its error first, then its time and bandwidth."""
    layers = max(1, min(64, cache // stored_bytes(weight_of(name, rows, columns, 0))))
    x = np.random.default_rng(2).standard_normal((tokens, columns)).astype(np.float16)
    lines = []
    for key, (model, weight) in candidates(name, columns, rows, layers).items():
        opened = open_model(model)
        outputs = opened.run(None, {"x": x})
        off = error(outputs[0], x, weight)
        taken = median_time(opened, {"x": x}, outputs, device, seconds) / layers
        size = 2 * rows * columns if key == "cuBLAS" else stored_bytes(weight)
        lines.append(
            f"{name} {columns}x{rows} M={tokens} {key}: error {off:.1e}, {taken:.1f} µs, {size / taken / 1e3:.0f} GB/s"
        )
    return lines


def measure_operators(
    family: str,
    size: Sequence[int],
    *,
    open_model: Callable[[ir.Model], ort.InferenceSession],
    device: str,
    seconds: float,
) -> list[str]:
    """A line for each candidate of gpu_operators.FAMILIES: its error first, then its time and bandwidth."""
    lines = []
    for key, candidate in FAMILIES[family][0](*size).items():
        opened = open_model(candidate.model)
        outputs = opened.run(None, candidate.feeds)
        off = candidate.error(outputs)
        taken = median_time(opened, candidate.feeds, outputs, device, seconds)
        size_of_all = sum(array.nbytes for array in (*candidate.feeds.values(), *outputs))
        lines.append(
            f"{family} {'x'.join(map(str, size))} {key}: error {off:.1e}, {taken:.1f} µs, "
            f"{size_of_all / taken / 1e3:.0f} GB/s"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument("--shapes", default="4096x4096,4096x11008", help="KxN, comma-separated")
    parser.add_argument("--tokens", default="1,16,64,256")
    parser.add_argument("--operators", default=",".join(FAMILIES))
    parser.add_argument("--seconds", type=float, default=0.5, help="for each candidate and setting")
    arguments = parser.parse_args()
    if sentence := missing():
        print(f"Nothing was measured: {sentence}.")
        return
    how = {
        "open_model": lambda model: gpu_session(model, graph=True),
        "device": "cuda",
        "seconds": arguments.seconds,
    }
    for name in filter(None, arguments.formats.split(",")):
        for columns, rows in (map(int, shape.split("x")) for shape in arguments.shapes.split(",")):
            for tokens in map(int, arguments.tokens.split(",")):
                for line in measure(name, columns, rows, tokens, **how):
                    print(line, flush=True)
    for family in filter(None, arguments.operators.split(",")):
        for size in FAMILIES[family][1]:
            for line in measure_operators(family, size, **how):
                print(line, flush=True)


if __name__ == "__main__":
    main()

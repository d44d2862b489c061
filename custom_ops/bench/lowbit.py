"""Low-bit matrix products against ONNX Runtime: `python -m qonnx.custom_ops.bench.lowbit --formats W4.b32,W3.b128`.

For each format, shape, number of tokens and threads: the relative error of both against float64 first, then medians in
turns (hot, and cold for one token) and their ratio; at the end the geometric mean of the ratios over shapes and
threads.
Baselines are ONNX Runtime's best setting for the same weights; where it has no such format, the next larger it has and
the float product.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable

import numpy as np
import onnx
import onnx.helper as helper
import onnx_ir as ir
import onnxruntime as ort

from qonnx.custom_ops import codebook, library_path, ops
from qonnx.custom_ops.bench.turns import time_in_turns
from qonnx.custom_ops.codebook import CodebookWeight
from qonnx.custom_ops.lowbit import EXACT, INT8, NF4, LowBitWeight


@dataclasses.dataclass(frozen=True)
class Case:
    """Our operator and weight, and the baselines (name -> model) that it is compared with."""

    operator: str
    levels: int
    block: int
    baselines: tuple[str, ...]
    table: np.ndarray | None = None
    books: int = 0  # of vectors of 8 numbers; 0 for a weight without code books


FORMATS: dict[str, Case] = {
    "W4.b32": Case(INT8, 16, 32, ("W4.b32.acc4",)),
    "W4.b128": Case(INT8, 16, 128, ("W4.b128.acc4",)),
    "W3.b32": Case(INT8, 8, 32, ("W4.b32.acc4",)),
    "W3.b128": Case(INT8, 8, 128, ("W4.b128.acc4",)),
    "W2.b32": Case(INT8, 4, 32, ("W2.b32.acc4",)),
    "W2.b128": Case(INT8, 4, 128, ("W2.b128.acc4",)),
    "ternary": Case(INT8, 3, 0, ("W2.b128.acc4",)),
    "W8.b32": Case(INT8, 256, 32, ("W8.b32.acc4",)),
    "NF4.b64": Case(INT8, 16, 64, ("NF4.b64",), NF4),
    "NF4.b64.exact": Case(EXACT, 16, 64, ("NF4.b64",), NF4),
    "W4.b32.exact": Case(EXACT, 16, 32, ("W4.b32.acc0",)),
    "W4.b128.exact": Case(EXACT, 16, 128, ("W4.b128.acc0",)),
    "VQ.2x8": Case(codebook.INT8, 256, 0, ("float", "W2.b128.acc4"), books=2),
    "VQ.1x16": Case(codebook.INT8, 65536, 0, ("float",), books=1),
    "VQ.2x8.exact": Case(codebook.EXACT, 256, 0, ("float",), books=2),
    "W4.b32.float": Case(EXACT, 16, 32, ("float",)),
    "W8.b32.float": Case(EXACT, 256, 32, ("float",)),
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


def our_model(case: Case, weight: LowBitWeight | CodebookWeight) -> bytes:
    attributes = weight.attributes()
    rows, columns = attributes["N"], attributes["K"]
    x = ir.Value(name="x", shape=ir.Shape(["M", columns]), type=ir.TensorType(ir.DataType.FLOAT))
    arrays = {**weight.arrays(), "bias": np.zeros(1, np.float32)}
    values = [ir.Value(name=name, const_value=ir.tensor(array, name=name)) for name, array in arrays.items()]
    node = ops.node(case.operator, [x, *values], node_name="product", **attributes)
    y = node.outputs[0]
    y.name, y.type, y.shape = "y", x.type, ir.Shape(["M", rows])
    graph = ir.Graph([x], [y], nodes=[node], initializers=values, opset_imports={"": 21}, name="g")
    model = ir.Model(graph, ir_version=10)
    ops.add_to_model(model, case.operator)
    return ir.to_proto(model).SerializeToString()


def baseline_model(name: str, weight: LowBitWeight | CodebookWeight) -> tuple[bytes, np.ndarray]:
    """The model and the weight, float [N, K], that it really holds (other codes where the format differs)."""
    rows, columns = weight.attributes()["N"], weight.attributes()["K"]
    if name == "float":
        w = weight.decode().astype(np.float32)
        return _single("MatMul", {"b": np.ascontiguousarray(w.T)}, rows, columns, domain=""), w
    if name.startswith("NF4"):
        rng = np.random.default_rng(1)
        packed = rng.integers(0, 256, rows * columns // 2, dtype=np.uint8)
        absmax = (rng.random(rows * columns // 64) * 0.01 + 0.001).astype(np.float32)
        codes = np.stack([packed >> 4, packed & 15], -1).reshape(rows, columns)  # the first of two in the high nibble
        w = NF4[codes] * np.repeat(absmax, 64).reshape(rows, columns)
        return _single("MatMulBnb4", {"b": packed, "s": absmax}, rows, columns, block_size=64, quant_type=1), w
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


def bound_call(model: bytes, x: np.ndarray, rows: int, threads: int) -> tuple[Callable[[], object], np.ndarray]:
    """A call with inputs and outputs bound, and the array it writes."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 4
    options.register_custom_ops_library(library_path())
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    y = np.empty((len(x), rows), np.float32)
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", ort.OrtValue.ortvalue_from_numpy(x))
    binding.bind_output("y", "cpu", 0, np.float32, y.shape, y.ctypes.data)
    return lambda: session.run_with_iobinding(binding), y


def relative_error(y: np.ndarray, x: np.ndarray, w: np.ndarray) -> float:
    """‖y − xwᵀ‖ / ‖xwᵀ‖ in float64 over at most 8 rows."""
    wanted = x[:8].astype(np.float64) @ w.T.astype(np.float64)
    return float(np.linalg.norm(y[:8] - wanted) / np.linalg.norm(wanted))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument("--shapes", default="1024x4096,4096x4096,4096x11008", help="KxN, comma-separated")
    parser.add_argument("--tokens", default="1,8,64,256")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each candidate and setting")
    arguments = parser.parse_args()
    shapes = [tuple(map(int, shape.split("x"))) for shape in arguments.shapes.split(",")]
    for name in arguments.formats.split(","):
        case = FORMATS[name]
        ratios: dict[tuple[str, int, bool], list[float]] = {}
        for columns, rows in shapes:
            weight = our_weight(case, rows, columns)
            models = {"ours": (our_model(case, weight), weight.decode())}
            models |= {baseline: baseline_model(baseline, weight) for baseline in case.baselines}
            for threads in map(int, arguments.threads.split(",")):
                for tokens in map(int, arguments.tokens.split(",")):
                    x = np.random.default_rng(2).standard_normal((tokens, columns)).astype(np.float32)
                    bound = {key: bound_call(model, x, rows, threads) for key, (model, _) in models.items()}
                    calls = {key: call for key, (call, _) in bound.items()}
                    for call in calls.values():
                        call()
                    errors = {key: relative_error(y, x, models[key][1]) for key, (_, y) in bound.items()}
                    for cold in (False, True) if tokens == 1 else (False,):
                        timing = time_in_turns(calls, threads=threads, cold=cold, seconds=arguments.seconds)
                        for baseline in case.baselines:
                            ratio = timing.ratio(baseline, "ours")
                            ratios.setdefault((baseline, tokens, cold), []).append(ratio)
                        parts = "  ".join(
                            f"{key} {timing.median[key]:.0f} µs (n={timing.samples[key]}, error {errors[key]:.1e})"
                            for key in calls
                        )
                        where = f"{name} {columns}x{rows} M={tokens} {threads}t {'cold' if cold else 'hot'}"
                        print(f"{where:42} {ratio:5.2f}×  {parts}", flush=True)
        for (baseline, tokens, cold), values in ratios.items():
            mean = float(np.exp(np.mean(np.log(values))))
            setting = f"M={tokens} {'cold' if cold else 'hot'}"
            print(f"== {name} against {baseline}, {setting}: {mean:.2f}× over {len(values)} settings", flush=True)


if __name__ == "__main__":
    main()

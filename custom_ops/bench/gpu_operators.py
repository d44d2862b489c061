"""Operators other than products for `bench.gpu`: models, what they are fed, and what they should give.

Each stands against the float16 nodes of ONNX Runtime that a model would have in its place: LogAttention against Softmax
and MatMul, Hadamard against MatMul with the whole matrix, row quantization against the standard operators that round
rows, GatherCodebook against Gather of the float16 table. ObserveSink and ConvLowBit run on the CPU only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from qonnx.custom_ops import hadamard, log_attention, ops
from qonnx.custom_ops.codebook import CodebookWeight

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A model, its feeds, and how its outputs are compared.

    Attributes:
        numbers: of the model's outputs, in float64. wanted: what they should be, in float64.
    """

    model: ir.Model
    feeds: Arrays
    wanted: np.ndarray
    numbers: Callable[[Sequence[np.ndarray]], np.ndarray] = lambda outputs: outputs[0].astype(np.float64)

    def error(self, outputs: Sequence[np.ndarray]) -> float:
        """‖y − wanted‖ / ‖wanted‖."""
        return float(np.linalg.norm(self.numbers(outputs) - self.wanted) / np.linalg.norm(self.wanted))


# Operator, inputs, attributes and outputs with their types; names tell who feeds whom.
Step = tuple[str, Sequence[str], dict[str, object], dict[str, ir.DataType]]
_HALF, _INT8, _FLOAT = ir.DataType.FLOAT16, ir.DataType.INT8, ir.DataType.FLOAT


def model_of(steps: Sequence[Step], feeds: Arrays, constants: Arrays) -> ir.Model:
    """Nodes one after the other; outputs of the last are the model's."""
    values = {}
    for name, array in feeds.items():
        shape, dtype = ir.Shape(array.shape), ir.TensorType(ir.DataType.from_numpy(array.dtype))
        values[name] = ir.Value(name=name, shape=shape, type=dtype)
    inputs = list(values.values())
    initializers = [ir.Value(name=name, const_value=ir.tensor(array, name=name)) for name, array in constants.items()]
    values |= {value.name: value for value in initializers}
    nodes = []
    for op, taken, attributes, given in steps:
        operands = [values[name] for name in taken]
        if op in ops.OPS:
            nodes.append(ops.node(op, operands, node_name=f"node{len(nodes)}", **attributes))
        else:
            nodes.append(ir.node(op, operands, attributes, name=f"node{len(nodes)}"))
        for output, (name, dtype) in zip(nodes[-1].outputs, given.items(), strict=True):
            output.name, output.type = name, ir.TensorType(dtype)
            values[name] = output
    graph = ir.Graph(
        inputs, nodes[-1].outputs, nodes=nodes, initializers=initializers, opset_imports={"": 21}, name="g"
    )
    model = ir.Model(graph, ir_version=10)
    for op in dict.fromkeys(step[0] for step in steps if step[0] in ops.OPS):
        ops.add_to_model(model, op)
    return model


def attention(heads: int, rows: int, columns: int, width: int) -> dict[str, Candidate]:
    """LogAttention with codes of 4 and 8 bits, float16 and int8 values, against Softmax and MatMul."""
    rng = np.random.default_rng(0)
    scores = (rng.standard_normal((heads, rows, columns)) * 2).astype(np.float16)
    value = rng.standard_normal((heads, columns, width)).astype(np.float16)
    scale = np.float32(np.abs(value.astype(np.float32)).max() / 127)
    codes = np.rint(value.astype(np.float32) / scale).astype(np.int8)

    def ours(levels: int, per_octave: float, int8: bool) -> Candidate:
        table = log_attention.weight_table(levels, per_octave)
        used, step = (codes, scale) if int8 else (value, np.float32(1))
        weight = table.astype(np.float64)[log_attention.codes_of(scores, levels, per_octave)]
        wanted = weight @ (used.astype(np.float64) * np.float64(step)) / weight.sum(-1, keepdims=True)
        feeds = {"scores": scores, "value": used}
        taken, attributes = ("scores", "value", "value_scale", "table"), {"codes_per_octave": per_octave}
        steps = [(log_attention.OPERATOR, taken, attributes, {"y": _HALF})]
        return Candidate(model_of(steps, feeds, {"value_scale": step.reshape(1), "table": table}), feeds, wanted)

    power = np.exp(scores.astype(np.float64) - scores.max(-1, keepdims=True))
    feeds = {"scores": scores, "value": value}
    steps = [("Softmax", ("scores",), {"axis": -1}, {"p": _HALF}), ("MatMul", ("p", "value"), {}, {"y": _HALF})]
    softmax = Candidate(model_of(steps, feeds, {}), feeds, power @ value / power.sum(-1, keepdims=True))
    return {
        "LogAttention, base 2, 4 bits": ours(16, 1.0, False),
        "LogAttention, base 2^(1/16), 8 bits": ours(256, 16.0, False),
        "LogAttention, base 2^(1/16), 8 bits, int8 values": ours(256, 16.0, True),
        "Softmax and MatMul": softmax,
    }


def _of_blocks(outputs: Sequence[np.ndarray]) -> np.ndarray:
    """Codes times the scales of their blocks."""
    codes, scale = (output.astype(np.float64) for output in outputs)
    return (codes.reshape(*scale.shape, -1) * scale[..., None]).reshape(codes.shape)


def rotation(rows: int, columns: int, block: int) -> dict[str, Candidate]:
    """Hadamard alone and with rows rounded in blocks, fused and one after the other, against MatMul with the matrix."""
    found = hadamard.rotation_of(columns)
    matrix = found.matrix().T * found.factor
    x = np.random.default_rng(0).standard_normal((rows, columns)).astype(np.float16)
    feeds, wanted, blocks = {"x": x}, x.astype(np.float64) @ matrix, {"block_size": block}
    rounded = {"codes": _INT8, "scale": _FLOAT}
    turn = (hadamard.HADAMARD, ("x", "base"), found.attributes(), {"turned": _HALF})
    both = (hadamard.ROTATE_AND_QUANTIZE, ("x", "base"), {**found.attributes(), **blocks}, rounded)
    after = (hadamard.QUANTIZE_ROWS, ("turned",), blocks, rounded)
    base = {"base": found.base}
    product = [("MatMul", ("x", "matrix"), {}, {"turned": _HALF})]
    return {
        "Hadamard": Candidate(model_of([turn], feeds, base), feeds, wanted),
        "MatMul": Candidate(model_of(product, feeds, {"matrix": matrix.astype(np.float16)}), feeds, wanted),
        "HadamardDynamicQuantize": Candidate(model_of([both], feeds, base), feeds, wanted, _of_blocks),
        "Hadamard, DynamicQuantizeRows": Candidate(model_of([turn, after], feeds, base), feeds, wanted, _of_blocks),
    }


def rows_to_int8(rows: int, columns: int) -> dict[str, Candidate]:
    """DynamicQuantizeRows with one scale a row against the standard operators that round a row."""
    x = np.random.default_rng(0).standard_normal((rows, columns)).astype(np.float16)
    feeds, wanted = {"x": x}, x.astype(np.float64)
    ours = [(hadamard.QUANTIZE_ROWS, ("x",), {"block_size": columns}, {"codes": _INT8, "scale": _FLOAT})]
    names = ("size", "largest", "scale", "ratio", "nearest")
    size, largest, scale, ratio, nearest = ({name: _HALF} for name in names)
    standard = [
        ("Abs", ("x",), {}, size),
        ("ReduceMax", ("size", "axis"), {"keepdims": 1}, largest),
        ("Div", ("largest", "steps"), {}, scale),
        ("Div", ("x", "scale"), {}, ratio),
        ("Round", ("ratio",), {}, nearest),
        ("Cast", ("nearest",), {"to": _INT8}, {"codes": _INT8}),
    ]
    constants = {"axis": np.array([-1], np.int64), "steps": np.array(127, np.float16)}
    step = np.abs(x).max(-1, keepdims=True) / np.float16(127)  # no output: it is known without asking
    return {
        "DynamicQuantizeRows": Candidate(model_of(ours, feeds, {}), feeds, wanted, _of_blocks),
        "standard operators": Candidate(
            model_of(standard, feeds, constants), feeds, wanted, lambda outputs: outputs[0] * step.astype(np.float64)
        ),
    }


def gathering(rows: int, columns: int, entries: int) -> dict[str, Candidate]:
    """GatherCodebook, two books of 256 vectors of 8, against Gather of the float16 table [entries, columns]."""
    rng = np.random.default_rng(0)
    indices = rng.integers(0, 256, (entries, columns // 8, 2))
    scale = (rng.random((entries, 1)) + 0.5).astype(np.float16)
    weight = CodebookWeight(indices, rng.standard_normal((2, 256, 8)).astype(np.float16), scale, columns)
    feeds = {"rows": rng.integers(0, entries, rows)}
    table = weight.decode()
    wanted, names = table[feeds["rows"]], {"codes": "weight_codes", "scale": "weight_scale"}
    arrays = {names.get(name, name): array for name, array in weight.arrays().items()}
    ours = [
        ("GatherCodebook", ("rows", "weight_codes", "codebooks", "weight_scale"), weight.attributes(), {"y": _HALF})
    ]
    floats = [("Gather", ("table", "rows"), {"axis": 0}, {"y": _HALF})]
    return {
        "GatherCodebook": Candidate(model_of(ours, feeds, arrays), feeds, wanted),
        "Gather": Candidate(model_of(floats, feeds, {"table": table.astype(np.float16)}), feeds, wanted),
    }


# name -> candidates of a size, and the sizes that are measured
FAMILIES: dict[str, tuple[Callable[..., dict[str, Candidate]], tuple[tuple[int, ...], ...]]] = {
    "attention": (attention, ((6, 257, 257, 64), (32, 1, 2048, 128), (32, 1024, 1024, 128))),
    "rotation": (rotation, ((1, 4096, 128), (256, 4096, 128), (256, 11264, 128))),
    "rows": (rows_to_int8, ((1, 4096), (256, 4096), (4096, 4096))),
    "gathering": (gathering, ((1, 4096, 32000), (256, 4096, 32000))),
}

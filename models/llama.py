"""Graphs of the Llama architecture with past keys and values, from a dict of arrays; and its residual stream rotated.

A layer, with x [batch, sequence, width] and n = x / √(mean(x²) + ε):

    x += o(attention(q(g₁ n), k(g₁ n), v(g₁ n)));   x += down(silu(gate(g₂ n)) · up(g₂ n))

with rotary positions on q and k, and one key-value head for each group of query heads. The table that embeds tokens
also scores them at the end (tied). Weights are stored as [inputs, outputs], as MatMul takes them.

Names of arrays: `embed` [tokens, width], `final_norm` [width], `final` [width, width] (optional), and for layer i
`i.norm1`, `i.q`, `i.k`, `i.v`, `i.o`, `i.norm2`, `i.gate`, `i.up`, `i.down`. A norm that is absent has gains of one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from models.tape import Arrays, Dimension, Tape, value_of

OPSET = 20
_MASKED = -1e9  # added to the score of what must not be seen: finite, so that a row with nothing to see has no NaN


@dataclass(frozen=True)
class Shape:
    """What the weights' shapes do not say."""

    layers: int
    heads: int  # of queries
    groups: int  # heads of keys and values
    head_width: int
    theta: float = 10000.0  # base of the rotary frequencies
    epsilon: float = 1e-5


@dataclass(frozen=True)
class Sizes:
    """Dimensions of the graph's inputs; `total` = `past` + `sequence`."""

    batch: Dimension = "batch"
    sequence: Dimension = "sequence"
    past: Dimension = "past"
    total: Dimension = "total"


def fold_gains(arrays: Arrays) -> dict[str, np.ndarray]:
    """The same function without gains: they go into the layers that read the norm, the last into `final`, a matrix of
    its own, since the tied table must keep embedding tokens without it."""
    folded = dict(arrays)
    for name in arrays:
        if name.endswith((".norm1", ".norm2")):
            gains = folded.pop(name)
            layer = name.split(".")[0]
            for reader in ("q", "k", "v") if name.endswith("1") else ("gate", "up"):
                folded[f"{layer}.{reader}"] = gains[:, None] * arrays[f"{layer}.{reader}"]
    if "final_norm" in folded:
        folded["final"] = np.diag(folded.pop("final_norm"))
    return folded


def rotate(arrays: Arrays, rotation: np.ndarray) -> dict[str, np.ndarray]:
    """The same function with the residual stream x replaced by x R, R [width, width] orthogonal (QuaRot, equation 2).

    Writers are multiplied by R from the right, readers by Rᵀ from the left; √(mean(x²)) does not change. Needs folded
    gains. What is computed in float64 is returned in float32.
    """
    rotated = {}
    for name, array in arrays.items():
        wide = array.astype(np.float64)
        match name.split(".")[-1]:
            case "embed" | "o" | "down":
                wide = wide @ rotation
            case "q" | "k" | "v" | "gate" | "up":
                wide = rotation.T @ wide
            case "final":
                wide = rotation.T @ wide @ rotation
            case other:
                raise ValueError(f"'{other}' does not commute with a rotation")
        rotated[name] = wide.astype(np.float32)
    return rotated


def orthogonal(width: int, seed: int) -> np.ndarray:
    """A random orthogonal matrix [width, width], uniform among all: Q of a Gaussian matrix, signs fixed by R."""
    q, r = np.linalg.qr(np.random.default_rng(seed).standard_normal((width, width)))
    return q * np.sign(np.diag(r))


def build(arrays: Arrays, shape: Shape, sizes: Sizes | None = None) -> ir.Model:
    """The model: input_ids, attention_mask, position_ids and past keys and values in; logits and present ones out.

    attention_mask [batch, total] int64 is 0 at padding; position_ids [batch, sequence] int64; past and present keys and
    values [batch, groups, past or total, head_width] as `past_key_values.0.key`, `present.0.key` and so on.
    """
    return _Builder(arrays, shape, sizes or Sizes()).llama()


def random_arrays(shape: Shape, tokens: int, width: int, inner: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Weights of variance 1 / inputs and gains in [0.5, 1.5], for tests."""
    generator = np.random.default_rng(seed)

    def weight(inputs: int, outputs: int) -> np.ndarray:
        return (generator.standard_normal((inputs, outputs)) / inputs**0.5).astype(np.float32)

    def gains() -> np.ndarray:
        return generator.uniform(0.5, 1.5, width).astype(np.float32)

    arrays = {"embed": weight(tokens, width), "final_norm": gains()}
    queries, keys = shape.heads * shape.head_width, shape.groups * shape.head_width
    for i in range(shape.layers):
        arrays |= {f"{i}.norm1": gains(), f"{i}.norm2": gains()}
        arrays |= {f"{i}.q": weight(width, queries), f"{i}.k": weight(width, keys), f"{i}.v": weight(width, keys)}
        arrays |= {f"{i}.o": weight(queries, width), f"{i}.down": weight(inner, width)}
        arrays |= {f"{i}.gate": weight(width, inner), f"{i}.up": weight(width, inner)}
    return arrays


class _Builder(Tape):
    def __init__(self, arrays: Arrays, shape: Shape, sizes: Sizes):
        super().__init__(arrays)
        self.shape, self.sizes = shape, sizes

    def llama(self) -> ir.Model:
        shape, sizes = self.shape, self.sizes
        ids = value_of("input_ids", ir.DataType.INT64, (sizes.batch, sizes.sequence))
        mask = value_of("attention_mask", ir.DataType.INT64, (sizes.batch, sizes.total))
        positions = value_of("position_ids", ir.DataType.INT64, (sizes.batch, sizes.sequence))
        inputs, outputs = [ids, mask, positions], []
        self.visible = self.visibility(ids, mask)
        self.rotary = self.angles(positions)

        x = self.op("Gather", "embed", self.weight("embed"), ids)
        for i in range(shape.layers):
            past = [self.cache("past_key_values", i, kind, sizes.past) for kind in ("key", "value")]
            present = [self.cache("present", i, kind, sizes.total) for kind in ("key", "value")]
            attended = self.attention(i, self.norm(x, f"{i}.norm1"), past, present)
            x = self.op("Add", f"{i}.residual1", x, attended)
            x = self.op("Add", f"{i}.residual2", x, self.mlp(i, self.norm(x, f"{i}.norm2")))
            inputs += past
            outputs += present
        x = self.norm(x, "final_norm")
        if "final" in self.arrays:
            x = self.op("MatMul", "final", x, self.weight("final"))
        table = self.op("Transpose", "head.table", self.weight("embed"), perm=[1, 0])
        logits = value_of("logits", ir.DataType.FLOAT, (sizes.batch, sizes.sequence, len(self.arrays["embed"])))
        self.op("MatMul", "head", x, table, output=logits)
        return self.model(inputs, [logits, *outputs], "llama", OPSET)

    def attention(self, i: int, n: ir.Value, past: list[ir.Value], present: list[ir.Value]) -> ir.Value:
        """Group by group: queries [batch, groups, heads / groups, sequence, head_width], keys with 1 for the third."""
        shape = self.shape
        each = shape.heads // shape.groups
        q = self.op("MatMul", f"{i}.q", n, self.weight(f"{i}.q"))
        k = self.op("MatMul", f"{i}.k", n, self.weight(f"{i}.k"))
        v = self.op("MatMul", f"{i}.v", n, self.weight(f"{i}.v"))
        q = self.heads(f"{i}.q", q, shape.heads, shape.head_width)
        k, v = (self.heads(f"{i}.{n}", x, shape.groups, shape.head_width) for n, x in (("k", k), ("v", v)))
        q, k = self.turned(f"{i}.q", q), self.turned(f"{i}.k", k)
        k = self.op("Concat", f"{i}.keys", past[0], k, axis=2, output=present[0])
        v = self.op("Concat", f"{i}.values", past[1], v, axis=2, output=present[1])

        q = self.op("Reshape", f"{i}.q.grouped", q, self.ints([0, shape.groups, each, -1, shape.head_width]))
        k = self.op(
            "Unsqueeze", f"{i}.k.grouped", self.op("Transpose", f"{i}.k.t", k, perm=[0, 1, 3, 2]), self.ints([2])
        )
        v = self.op("Unsqueeze", f"{i}.v.grouped", v, self.ints([2]))
        scores = self.op("MatMul", f"{i}.qk", q, k)
        scores = self.op("Mul", f"{i}.qk.scaled", scores, self.floats(shape.head_width**-0.5))
        scores = self.op("Add", f"{i}.qk.masked", scores, self.visible)
        weights = self.op("Softmax", f"{i}.softmax", scores, axis=-1)
        mixed = self.op("MatMul", f"{i}.av", weights, v)
        mixed = self.op("Transpose", f"{i}.av.t", mixed, perm=[0, 3, 1, 2, 4])
        mixed = self.op("Reshape", f"{i}.av.joined", mixed, self.ints([0, 0, shape.heads * shape.head_width]))
        return self.op("MatMul", f"{i}.o", mixed, self.weight(f"{i}.o"))

    def mlp(self, i: int, n: ir.Value) -> ir.Value:
        gate = self.op("MatMul", f"{i}.gate", n, self.weight(f"{i}.gate"))
        silu = self.op("Mul", f"{i}.silu", gate, self.op("Sigmoid", f"{i}.sigmoid", gate))
        up = self.op("MatMul", f"{i}.up", n, self.weight(f"{i}.up"))
        return self.op("MatMul", f"{i}.down", self.op("Mul", f"{i}.gated", silu, up), self.weight(f"{i}.down"))

    def norm(self, x: ir.Value, name: str) -> ir.Value:
        square = self.op("Mul", f"{name}.square", x, x)
        mean = self.op("ReduceMean", f"{name}.mean", square, self.ints([-1]))
        root = self.op("Sqrt", f"{name}.root", self.op("Add", f"{name}.epsilon", mean, self.floats(self.shape.epsilon)))
        n = self.op("Div", f"{name}.unit", x, root)
        return self.op("Mul", name, n, self.weight(name)) if name in self.arrays else n

    def angles(self, positions: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Cosine and sine of position · frequency, [batch, 1, sequence, head_width]; the frequencies stand twice."""
        width = self.shape.head_width
        frequencies = (self.shape.theta ** -(np.arange(0, width, 2) / width)).astype(np.float32)
        p = self.op("Cast", "rotary.positions", positions, to=ir.DataType.FLOAT)
        p = self.op("Unsqueeze", "rotary.column", p, self.ints([1, 3]))
        angle = self.op("Mul", "rotary.angle", p, self.constant("rotary.frequencies", np.tile(frequencies, 2)))
        return self.op("Cos", "rotary.cos", angle), self.op("Sin", "rotary.sin", angle)

    def turned(self, name: str, x: ir.Value) -> ir.Value:
        """Rotary positions: x · cos + [−x₂, x₁] · sin, with x₁ and x₂ the halves of each head (RoFormer)."""
        cos, sin = self.rotary
        first, second = self.tape.op_multi_out(
            "Split",
            [x],
            {"axis": -1, "num_outputs": 2},
            name=f"{name}.halves",
            outputs=[ir.Value(name=f"{name}.half{h}") for h in (1, 2)],
        )
        across = self.op("Concat", f"{name}.across", self.op("Neg", f"{name}.minus", second), first, axis=-1)
        straight = self.op("Mul", f"{name}.cos", x, cos)
        return self.op("Add", f"{name}.turned", straight, self.op("Mul", f"{name}.sin", across, sin))

    def visibility(self, ids: ir.Value, mask: ir.Value) -> ir.Value:
        """0 where a query may see a key (no padding, not later than itself), else a large negative number.

        [batch, 1, 1, sequence, total]."""
        zero, one = self.scalar(0), self.scalar(1)
        total = self.op("Gather", "mask.total", self.op("Shape", "mask.shape", mask), one)
        sequence = self.op("Gather", "mask.sequence", self.op("Shape", "ids.shape", ids), one)
        keys = self.op("Range", "mask.keys", zero, total, one)
        queries = self.op("Range", "mask.queries", self.op("Sub", "mask.past", total, sequence), total, one)
        queries = self.op("Unsqueeze", "mask.rows", queries, self.ints([1]))
        causal = self.op("LessOrEqual", "mask.causal", keys, queries)
        kept = self.op("Cast", "mask.kept", mask, to=ir.DataType.BOOL)
        kept = self.op("Unsqueeze", "mask.broadcast", kept, self.ints([1, 2, 3]))
        seen = self.op("And", "mask.seen", kept, causal)
        return self.op("Where", "mask", seen, self.floats(0.0), self.floats(_MASKED))

    def cache(self, kind: str, i: int, what: str, length: Dimension) -> ir.Value:
        dims = (self.sizes.batch, self.shape.groups, length, self.shape.head_width)
        return value_of(f"{kind}.{i}.{what}", ir.DataType.FLOAT, dims)

"""Graphs of the BERT architecture from a dict of arrays, spelled as exporters do: norms and GELU in their parts.

    x = norm(tokens + positions + the first token type);   x = norm(x + o(attention(q(x), k(x), v(x))));
    x = norm(x + down(gelu(up(x)))) for each layer;   logits = norm(gelu(dense(x))) · tokensᵀ + bias

Weights are stored as [inputs, outputs], as MatMul takes them. Names of arrays: `tokens`, `positions`, `types`, `head`,
`head.bias`, `head.norm.gain` and so on; for layer i `i.q`, `i.k`, `i.v`, `i.o`, `i.up`, `i.down` with `.bias`, and the
norms `i.norm1`, `i.norm2`, `norm`, each `.gain` and `.bias`; `scores.bias`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from models.tape import Arrays, Tape, value_of

OPSET = 17
_MASKED = -1e9  # added to the score of padding


@dataclass(frozen=True)
class Shape:
    """What the weights' shapes do not say."""

    layers: int
    heads: int
    epsilon: float = 1e-12


def build(arrays: Arrays, shape: Shape) -> ir.Model:
    """The model: input_ids and attention_mask [batch, sequence] int64 in (mask 0 at padding); logits [batch, sequence,
    tokens] and embeddings [batch, sequence, width] out."""
    return _Builder(arrays, shape).bert()


def random_arrays(shape: Shape, tokens: int, positions: int, width: int, inner: int, seed: int = 0) -> Arrays:
    """Weights of variance 1 / inputs, gains in [0.5, 1.5] and small biases, for tests."""
    generator = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray] = {}

    def layer(name: str, inputs: int, outputs: int) -> None:
        arrays[name] = (generator.standard_normal((inputs, outputs)) / inputs**0.5).astype(np.float32)
        arrays[f"{name}.bias"] = generator.normal(0, 0.1, outputs).astype(np.float32)

    def norm(name: str) -> None:
        arrays[f"{name}.gain"] = generator.uniform(0.5, 1.5, width).astype(np.float32)
        arrays[f"{name}.bias"] = generator.normal(0, 0.1, width).astype(np.float32)

    for name, rows in (("tokens", tokens), ("positions", positions), ("types", 2)):
        arrays[name] = generator.standard_normal((rows, width)).astype(np.float32)
    for i in range(shape.layers):
        for name in "qkvo":
            layer(f"{i}.{name}", width, width)
        layer(f"{i}.up", width, inner)
        layer(f"{i}.down", inner, width)
        norm(f"{i}.norm1")
        norm(f"{i}.norm2")
    layer("head", width, width)
    norm("head.norm")
    norm("norm")
    arrays["scores.bias"] = generator.normal(0, 0.1, tokens).astype(np.float32)
    return arrays


class _Builder(Tape):
    def __init__(self, arrays: Arrays, shape: Shape):
        super().__init__(arrays)
        self.shape, self.width = shape, arrays["tokens"].shape[1]

    def bert(self) -> ir.Model:
        ids = value_of("input_ids", ir.DataType.INT64, ("batch", "sequence"))
        mask = value_of("attention_mask", ir.DataType.INT64, ("batch", "sequence"))
        self.hidden = self.masked(mask)
        x = self.op("Add", "embeddings.typed", self.op("Gather", "tokens", self.weight("tokens"), ids), self.kind())
        x = self.norm("norm", self.op("Add", "embeddings.placed", x, self.places(ids)))
        for i in range(self.shape.layers):
            x = self.norm(f"{i}.norm1", self.op("Add", f"{i}.residual1", x, self.attention(i, x)))
            inner = self.gelu(f"{i}.gelu", self.layer(f"{i}.up", x))
            x = self.op("Add", f"{i}.residual2", x, self.layer(f"{i}.down", inner))
            last = i == self.shape.layers - 1
            output = value_of("embeddings", ir.DataType.FLOAT, ("batch", "sequence", self.width)) if last else None
            x = self.norm(f"{i}.norm2", x, output)
        scored = self.norm("head.norm", self.gelu("head.gelu", self.layer("head", x)))
        table = self.constant("scores.weight", self.arrays["tokens"].T)
        logits = value_of("logits", ir.DataType.FLOAT, ("batch", "sequence", len(self.arrays["tokens"])))
        product = self.op("MatMul", "scores", scored, table)
        self.op("Add", "scores.biased", product, self.weight("scores.bias"), output=logits)
        return self.model([ids, mask], [logits, x], "bert", OPSET)

    def kind(self) -> ir.Value:
        """The embedding of the first token type, which every token has."""
        return self.constant("types.first", self.arrays["types"][0])

    def places(self, ids: ir.Value) -> ir.Value:
        """Embeddings of positions 0, 1, … [1, sequence, width]."""
        length = self.op("Gather", "sequence", self.op("Shape", "ids.shape", ids), self.ints([1]))
        numbers = self.constant("positions.all", np.arange(len(self.arrays["positions"]))[None])
        some = self.op("Slice", "positions.some", numbers, self.ints([0]), length, self.ints([1]))
        return self.op("Gather", "positions", self.weight("positions"), some)

    def masked(self, mask: ir.Value) -> ir.Value:
        """0 at tokens, a large negative number at padding, [batch, 1, 1, sequence]."""
        wide = self.op("Cast", "mask.cast", self.op("Unsqueeze", "mask.wide", mask, self.ints([1, 2])), to=1)
        return self.op("Mul", "mask", self.op("Sub", "mask.other", self.floats(1.0), wide), self.floats(_MASKED))

    def attention(self, i: int, x: ir.Value) -> ir.Value:
        heads = self.shape.heads
        each = self.width // heads
        q, k, v = (self.heads(f"{i}.{n}", self.layer(f"{i}.{n}", x), heads, each) for n in "qkv")
        scores = self.op("MatMul", f"{i}.qk", q, self.op("Transpose", f"{i}.k.t", k, perm=[0, 1, 3, 2]))
        scores = self.op("Div", f"{i}.qk.scaled", scores, self.floats(each**0.5))
        weights = self.op("Softmax", f"{i}.softmax", self.op("Add", f"{i}.qk.masked", scores, self.hidden), axis=-1)
        mixed = self.op("Transpose", f"{i}.av.t", self.op("MatMul", f"{i}.av", weights, v), perm=[0, 2, 1, 3])
        return self.layer(f"{i}.o", self.op("Reshape", f"{i}.av.joined", mixed, self.ints([0, 0, self.width])))

    def layer(self, name: str, x: ir.Value) -> ir.Value:
        product = self.op("MatMul", name, x, self.weight(name))
        return self.op("Add", f"{name}.biased", self.constant(f"{name}.bias", self.arrays[f"{name}.bias"]), product)

    def norm(self, name: str, x: ir.Value, output: ir.Value | None = None) -> ir.Value:
        """(x − mean) / √(variance + ε) · gain + bias."""
        off = self.op("Sub", f"{name}.off", x, self.op("ReduceMean", f"{name}.mean", x, axes=[-1]))
        square = self.op("Pow", f"{name}.square", off, self.floats(2.0))
        variance = self.op("ReduceMean", f"{name}.variance", square, axes=[-1])
        root = self.op(
            "Sqrt", f"{name}.root", self.op("Add", f"{name}.epsilon", variance, self.floats(self.shape.epsilon))
        )
        unit = self.op("Div", f"{name}.unit", off, root)
        scaled = self.op("Mul", f"{name}.scaled", unit, self.constant(f"{name}.gain", self.arrays[f"{name}.gain"]))
        shift = self.constant(f"{name}.shift", self.arrays[f"{name}.bias"])
        return self.op("Add", name, scaled, shift, output=output)

    def gelu(self, name: str, x: ir.Value) -> ir.Value:
        """x · (1 + erf(x / √2)) / 2."""
        erf = self.op("Erf", f"{name}.erf", self.op("Div", f"{name}.root", x, self.floats(math.sqrt(2))))
        twice = self.op("Mul", f"{name}.twice", x, self.op("Add", f"{name}.plus", erf, self.floats(1.0)))
        return self.op("Mul", name, twice, self.floats(0.5))

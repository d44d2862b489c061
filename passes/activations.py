"""Activation functions recognised by value: what an elementwise region computes, whatever its spelling.

A region is everything between one source value and one result made of elementwise operators and scalar constants. It is
evaluated at `POINTS` in float64 and compared with the table `KNOWN`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from qonnx.passes.rewire import STANDARD, floats, is_constant, scalar

# Dense where activations bend, wide enough to see clipping at ±6 and the tails, and off the grid of round numbers.
POINTS = np.concatenate([np.linspace(-8.03, 8.07, 101), [-60.0, -31.0, -20.5, -12.25, 12.75, 19.5, 33.0, 60.0]])
POINTS = np.concatenate([POINTS, np.linspace(-0.31, 0.29, 21)])
# Constants of exporters carry six digits ("1.41421"): that is 2e-6. The erf and tanh forms of GELU differ by 5e-4.
AGREEMENT = 5e-6
LARGEST = 24  # nodes in a region

_erf = np.vectorize(math.erf, otypes=[float])


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * x))


def _hard_sigmoid(x: np.ndarray, alpha: float, beta: float) -> np.ndarray:
    return np.clip(alpha * x + beta, 0, 1)


def _softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(0, x)


@dataclasses.dataclass(frozen=True)
class Activation:
    """A function of the table and its canonical spelling: one operator, from `opset` on, applied to x or factor·x.

    With `gate`, the result is multiplied by x.
    """

    function: Callable[[np.ndarray], np.ndarray]
    opset: int
    operator: str
    attributes: tuple[tuple[str, object], ...] = ()
    gate: bool = False
    factor: float | None = None  # x is multiplied by it in front of the operator


KNOWN: dict[str, Activation] = {
    "Relu": Activation(lambda x: np.maximum(x, 0), 6, "Relu"),
    "Sigmoid": Activation(_sigmoid, 6, "Sigmoid"),
    "Tanh": Activation(np.tanh, 6, "Tanh"),
    "Softplus": Activation(_softplus, 1, "Softplus"),
    "Softsign": Activation(lambda x: x / (1 + abs(x)), 1, "Softsign"),
    "Erf GELU": Activation(lambda x: 0.5 * x * (1 + _erf(x / math.sqrt(2))), 20, "Gelu"),
    "Tanh GELU": Activation(
        lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        20,
        "Gelu",
        (("approximate", "tanh"),),
    ),
    "HardSwish": Activation(lambda x: x * _hard_sigmoid(x, 1 / 6, 0.5), 14, "HardSwish"),
    "HardSigmoid 1/6": Activation(
        lambda x: _hard_sigmoid(x, 1 / 6, 0.5), 6, "HardSigmoid", (("alpha", 1 / 6), ("beta", 0.5))
    ),
    "HardSigmoid 1/5": Activation(
        lambda x: _hard_sigmoid(x, 0.2, 0.5), 6, "HardSigmoid", (("alpha", 0.2), ("beta", 0.5))
    ),
    "Mish": Activation(lambda x: x * np.tanh(_softplus(x)), 18, "Mish"),
    "SiLU": Activation(lambda x: x * _sigmoid(x), 6, "Sigmoid", gate=True),
    "Quick GELU": Activation(lambda x: x * _sigmoid(1.702 * x), 6, "Sigmoid", gate=True, factor=1.702),
}

_VALUES = {name: known.function(POINTS) for name, known in KNOWN.items()}


def _clip(node: ir.Node, x, low=None, high=None):
    low = floats(node, "min", -np.inf) if low is None else low
    high = floats(node, "max", np.inf) if high is None else high
    return np.minimum(np.maximum(x, low), high)


# How to evaluate each elementwise operator: (node, *operands) -> array.
EVALUATE: dict[str, Callable] = {
    "Add": lambda _, a, b: a + b,
    "Sub": lambda _, a, b: a - b,
    "Mul": lambda _, a, b: a * b,
    "Div": lambda _, a, b: a / b,
    "Pow": lambda _, a, b: a**b,
    "Min": lambda _, *a: np.minimum.reduce(np.broadcast_arrays(*a)),
    "Max": lambda _, *a: np.maximum.reduce(np.broadcast_arrays(*a)),
    "Sum": lambda _, *a: sum(a),
    "Neg": lambda _, a: -a,
    "Abs": lambda _, a: abs(a),
    "Exp": lambda _, a: np.exp(a),
    "Log": lambda _, a: np.log(a),
    "Sqrt": lambda _, a: np.sqrt(a),
    "Reciprocal": lambda _, a: 1 / a,
    "Erf": lambda _, a: _erf(a),
    "Tanh": lambda _, a: np.tanh(a),
    "Sigmoid": lambda _, a: _sigmoid(a),
    "Relu": lambda _, a: np.maximum(a, 0),
    "Softplus": lambda _, a: _softplus(a),
    "Softsign": lambda _, a: a / (1 + abs(a)),
    "HardSigmoid": lambda node, a: _hard_sigmoid(a, floats(node, "alpha", 0.2), floats(node, "beta", 0.5)),
    "HardSwish": lambda _, a: a * _hard_sigmoid(a, 1 / 6, 0.5),
    "Clip": _clip,
    "Cast": lambda _, a: a,
    "Identity": lambda _, a: a,
}


def region(result: ir.Value) -> list[ir.Node]:
    """The elementwise nodes that `result` is computed by, in topological order; its own node last."""
    order: list[ir.Node] = []
    graph = result.producer().graph if result.producer() is not None else None

    def visit(value: ir.Value | None, depth: int) -> None:
        node = value.producer() if value is not None else None
        elementwise = node is not None and node.domain in STANDARD and node.op_type in EVALUATE and node.graph is graph
        if not elementwise or node in order or len(order) >= LARGEST or depth > LARGEST:
            return
        if any(v is not None and is_constant(v) and scalar(v) is None for v in node.inputs):
            return
        for v in node.inputs:
            visit(v, depth + 1)
        order.append(node)

    visit(result, 0)
    return order if len(order) < LARGEST else order[-LARGEST:]


def sources(nodes: list[ir.Node]) -> list[tuple[ir.Value, list[ir.Node]]]:
    """Every value that the result depends on alone (beside scalars), farthest first, with the nodes between."""
    position = {node: i for i, node in enumerate(nodes)}
    found: list[tuple[ir.Value, list[ir.Node]]] = []
    needed = {nodes[-1]}  # nodes between the candidate and the result
    frontier = {v for v in nodes[-1].inputs if v is not None and not is_constant(v)}
    while frontier:
        if len(frontier) == 1:
            inside = sorted(needed, key=position.__getitem__)
            found.append((next(iter(frontier)), inside))
        latest = max(
            (v for v in frontier if v.producer() in position), key=lambda v: position[v.producer()], default=None
        )
        if latest is None:
            break
        frontier.discard(latest)
        node = latest.producer()
        needed.add(node)
        frontier.update(v for v in node.inputs if v is not None and not is_constant(v))
    return found[::-1]


def evaluate(nodes: list[ir.Node], source: ir.Value, points: np.ndarray = POINTS) -> np.ndarray | None:
    """What the nodes make of the source, in float64; None if an operand is not a scalar."""
    values: dict[ir.Value, np.ndarray | float] = {source: points}
    with np.errstate(all="ignore"):
        for node in nodes:
            operands = []
            for value in node.inputs:
                operand = None if value is None else values.get(value, scalar(value))
                if operand is None and value is not None:
                    return None
                operands.append(operand)
            values[node.outputs[0]] = EVALUATE[node.op_type](node, *operands)
    return np.broadcast_to(np.asarray(values[nodes[-1].outputs[0]], float), points.shape)


def name_of(values: np.ndarray | None) -> str | None:
    """The table's name of a function given by its values at POINTS."""
    if values is None:
        return None
    for name, wanted in _VALUES.items():
        if np.all(abs(values - wanted) <= AGREEMENT * (1 + abs(wanted))):
            return name
    return None

"""ACTIVATIONS: elementwise functions that may follow a tensor, in numpy, by ONNX operator name.

A name may carry the operator's numbers in the order of its attributes or inputs: "Clip(0,6)", "HardSigmoid(0.2,0.5)".
`flat` is the interval outside of which the function is constant: values beyond it may be clipped without any change.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from scipy.special import erf, expit

from qonnx.errors import QonnxError

_INFINITY = float("inf")
_NAME = re.compile(r"(\w+)(?:\(([^()]*)\))?")


@dataclasses.dataclass(frozen=True)
class Activation:
    """function(x, *numbers) on float64 arrays; flat(*numbers) gives the interval where it is not constant."""

    function: Callable[..., np.ndarray]
    flat: Callable[..., tuple[float, float]] = lambda *_: (-_INFINITY, _INFINITY)
    attributes: tuple[tuple[str, float], ...] = ()  # of the ONNX operator, with defaults, in the order of the numbers


def _hard_sigmoid(x: np.ndarray, alpha: float = 0.2, beta: float = 0.5) -> np.ndarray:
    return np.clip(alpha * x + beta, 0.0, 1.0)


def _hard_sigmoid_flat(alpha: float = 0.2, beta: float = 0.5) -> tuple[float, float]:
    ends = (-beta / alpha, (1.0 - beta) / alpha)
    return min(ends), max(ends)


ACTIVATIONS: dict[str, Activation] = {
    "Relu": Activation(lambda x: np.maximum(x, 0.0), lambda: (0.0, _INFINITY)),
    "LeakyRelu": Activation(lambda x, alpha=0.01: np.where(x < 0, alpha * x, x), attributes=(("alpha", 0.01),)),
    "Clip": Activation(np.clip, lambda low, high: (low, high)),
    "HardSigmoid": Activation(_hard_sigmoid, _hard_sigmoid_flat, (("alpha", 0.2), ("beta", 0.5))),
    "HardSwish": Activation(lambda x: x * np.clip(x / 6.0 + 0.5, 0.0, 1.0), lambda: (-3.0, _INFINITY)),
    "Sigmoid": Activation(expit),
    "Tanh": Activation(np.tanh),
    "Silu": Activation(lambda x: x * expit(x)),
    "Gelu": Activation(lambda x: 0.5 * x * (1.0 + erf(x / np.sqrt(2.0)))),
    "Softplus": Activation(lambda x: np.logaddexp(x, 0.0)),
    "Elu": Activation(lambda x, alpha=1.0: np.where(x < 0, alpha * np.expm1(x), x), attributes=(("alpha", 1.0),)),
    "Mish": Activation(lambda x: x * np.tanh(np.logaddexp(x, 0.0))),
}


def activation(name: str) -> tuple[Callable[[np.ndarray], np.ndarray], tuple[float, float]]:
    """The function called `name` and the interval outside of which it is constant."""
    match = _NAME.fullmatch(name)
    if match is None or match[1] not in ACTIVATIONS:
        raise QonnxError(f"'{name}' is no activation that ranges know; known are {', '.join(ACTIVATIONS)}")
    numbers = [float(part) for part in match[2].split(",")] if match[2] else []
    entry = ACTIVATIONS[match[1]]
    return (lambda x: entry.function(x, *numbers)), entry.flat(*numbers)


def activation_name(node: ir.Node) -> str | None:
    """What `activation` calls the function that `node` applies; None for other operators and for computed bounds."""
    if node.domain not in ("", "com.microsoft") or node.op_type not in ACTIVATIONS:
        return None
    if node.op_type == "Clip":
        bounds = []
        for index, default in ((1, -_INFINITY), (2, _INFINITY)):
            value = node.inputs[index] if index < len(node.inputs) else None
            tensor = ir.convenience.get_const_tensor(value) if value is not None else None
            if value is not None and tensor is None:
                return None
            bounds.append(default if tensor is None else float(tensor.numpy()))
        if len(node.inputs) == 1:  # bounds are attributes up to opset 10
            bounds = [node.attributes.get_float("min", bounds[0]), node.attributes.get_float("max", bounds[1])]
        return f"Clip({bounds[0]!r},{bounds[1]!r})"
    numbers = [node.attributes.get_float(key, default) for key, default in ACTIVATIONS[node.op_type].attributes]
    return node.op_type + (f"({','.join(map(repr, numbers))})" if numbers else "")

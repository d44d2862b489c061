"""Compiles the CUDA kernels with g++ for the emulated device: all launchers as a library, or as custom operators."""

from __future__ import annotations

import concurrent.futures
import functools
import getpass
import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import tempfile

import pytest

ROOT = pathlib.Path(__file__).parents[1]
CUDA = ROOT / "custom_ops" / "cuda"
FLAGS = ("-std=c++20", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-fno-strict-aliasing")
FLAGS += ("-Wno-missing-field-initializers", "-DQONNX_EMULATED")
SANITIZERS = {
    "": ("-O1",),
    "address": ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-DEMULATE_ASAN"),
    "thread": ("-O1", "-fsanitize=thread", "-DEMULATE_TSAN"),
}
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="the emulated device needs g++")


def sources(plugin: bool) -> list[pathlib.Path]:
    """Kernels and the emulated device, with what tests call through ctypes or, as a plugin, with the operators."""
    files = sorted(CUDA.glob("*.cu")) + sorted(CUDA.glob("*_pack.cc")) + sorted((CUDA / "emulate").glob("*.cc"))
    left_out = {"runtime.cu", "driver.cc" if plugin else "plugin.cc"}
    if plugin:
        files += [
            CUDA.parent / "ort_op.cc",
            CUDA / "call.cc",
            CUDA / "product_weights.cc",
            *sorted(CUDA.glob("*operators.cc")),
        ]
    return [path for path in files if path.name not in left_out]


@functools.cache
def build(fault: str = "", sanitizer: str = "", *, plugin: bool = False, kernels: frozenset[str] | None = None) -> str:
    """Path of the library of all launchers, or of the custom-op library on the emulated device.

    `fault` is one of tests/cuda_faults.py, `sanitizer` one of SANITIZERS. `kernels`: the files that get the fault, of
    those that hold it; all.

    Builds with a fault or a sanitizer know 4-bit codes only. Objects stay in the folder for temporary files, named by a
    digest of what goes into each: a second run of the tests, or another process of the same run, compiles nothing.
    """
    marker = f"FAULT({fault})"
    pending = []
    for source in sources(plugin):
        holds = any(marker in path.read_text(encoding="utf-8") for path in included(source))
        changed = fault and holds and (kernels is None or source.name in kernels)
        pending.append((source, fault if changed else "", sanitizer, bool(fault or sanitizer)))
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(lambda job: _object(*job), pending))
    library = objects[0].parent / f"libemulated-{_digest(*map(str, objects))}.so"
    _make(library, ["g++", "-shared", *SANITIZERS[sanitizer], *map(str, objects)])
    return str(library)


def _object(source: pathlib.Path, fault: str, sanitizer: str, few_formats: bool) -> pathlib.Path:
    flags = [*FLAGS, *SANITIZERS[sanitizer], *([f"-DQONNX_FAULT_{fault}=~,1"] if fault else [])]
    if few_formats:
        flags.append("-DQONNX_FOUR_BITS")
    if source.parent.name == "emulate" and sanitizer == "thread":
        flags.remove("-fsanitize=thread")  # the device's own memory is no matter of the kernels
    contents = [path.read_text(encoding="utf-8") for path in sorted(included(source))]
    folder = pathlib.Path(tempfile.gettempdir()) / f"qonnx-emulated-{getpass.getuser()}"
    folder.mkdir(exist_ok=True)
    path = folder / f"{source.name}-{_digest(*flags, *contents)}.o"
    _make(path, ["g++", *flags, "-x", "c++", "-c", str(source)])
    return path


@functools.cache
def included(source: pathlib.Path) -> frozenset[pathlib.Path]:
    """The file and every file of the repository that it includes, by whatever way."""
    text = source.read_text(encoding="utf-8")
    direct = [(source.parent / name).resolve() for name in re.findall(r'#include "([^"]+)"', text)]
    return frozenset([source]).union(*(included(path) for path in direct if path != source))


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def _make(path: pathlib.Path, command: list[str]) -> None:
    """Run a command that writes `path`, unless it is there; a process that does the same at this moment is harmless."""
    if not path.exists():
        fresh = path.with_name(f"{os.getpid()}-{path.name}")
        _run([*command, "-o", str(fresh)])
        fresh.replace(path)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]

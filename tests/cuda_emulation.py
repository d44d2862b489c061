"""Builds the CUDA kernels for the emulated device with g++ and runs their launchers on numpy arrays.

An array that a kernel gets ends where a page begins that nobody may touch, so that a read or a write past its end stops
the process. What a kernel must fill is NaN (or -1) before.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import pathlib
import shutil
import subprocess
import tempfile

import ml_dtypes
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[1]
CUDA = ROOT / "custom_ops" / "cuda"
FLAGS = ("-std=c++20", "-g", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-fno-strict-aliasing")
SANITIZERS = {
    "": ("-O2",),
    "address": ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-DEMULATE_ASAN"),
    "thread": ("-O1", "-fsanitize=thread", "-DEMULATE_TSAN"),
}
ELEMENTS = {np.dtype(np.float32): 0, np.dtype(np.float16): 1, np.dtype(ml_dtypes.bfloat16): 2}
SCHEDULES = range(21)  # 0 is in order, the others are unfair
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="the emulated device needs g++")


def sources() -> list[pathlib.Path]:
    device = sorted(CUDA.glob("*.cu")) + sorted(CUDA.glob("*_pack.cc"))
    return device + sorted((CUDA / "emulate").glob("*.cc"))


@functools.cache
def build(fault: str = "", sanitizer: str = "") -> str:
    """Path of the library of all launchers; `fault` is one of tests/cuda_faults.py."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="qonnx-emulated-"))
    objects = []
    for source in sources():
        changed = f"FAULT({fault})" in source.read_text(encoding="utf-8") or any(
            f"FAULT({fault})" in header.read_text(encoding="utf-8") for header in CUDA.glob("*.cuh")
        )
        objects.append(_object(source, fault if changed and source.suffix == ".cu" else "", sanitizer))
    library = folder / "libemulated.so"
    _run(["g++", "-shared", *SANITIZERS[sanitizer], *objects, "-o", str(library)])
    return str(library)


@functools.cache
def _object(source: pathlib.Path, fault: str, sanitizer: str) -> str:
    path = pathlib.Path(tempfile.mkdtemp(prefix="qonnx-emulated-")) / f"{source.name}.o"
    flags = [*FLAGS, *SANITIZERS[sanitizer], *([f"-DQONNX_FAULT_{fault}=~,1"] if fault else [])]
    if source.parent.name == "emulate" and sanitizer == "thread":
        flags.remove("-fsanitize=thread")  # the device's own memory is no matter of the kernels
    _run(["g++", *flags, "-x", "c++", "-c", str(source), "-o", str(path)])
    return str(path)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]


def guarded(array: np.ndarray) -> np.ndarray:
    """A copy of `array` that ends right before memory that must not be touched (within 15 bytes where 16 align it)."""
    alignment = 16 if array.nbytes % 16 == 0 else array.itemsize
    page = mmap.PAGESIZE
    size = (array.nbytes + page - 1) // page * page
    memory = mmap.mmap(-1, size + page)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mprotect(ctypes.c_void_p(address + size), ctypes.c_size_t(page), 0) == 0
    begin = (size - array.nbytes) // alignment * alignment
    view = np.frombuffer(memory, np.uint8, array.nbytes, begin).view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


def unwritten(shape: tuple[int, ...], dtype: np.dtype | type) -> np.ndarray:
    """A guarded array of bytes 255: NaN as a float, -1 as an integer."""
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return guarded(np.full(count, 255, np.uint8).view(dtype).reshape(shape))


def pointer(array: np.ndarray | None) -> int | None:
    return None if array is None else array.ctypes.data


class RowsJob(ctypes.Structure):
    """qonnx::cuda::Rows of custom_ops/cuda/rows.h."""

    _fields_ = (
        ("x", ctypes.c_void_p),
        ("element", ctypes.c_int),
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int),
        ("rotates", ctypes.c_bool),
        ("base", ctypes.c_void_p),
        ("base_order", ctypes.c_int),
        ("power", ctypes.c_int),
        ("factor", ctypes.c_float),
        ("quantizes", ctypes.c_bool),
        ("block", ctypes.c_int),
        ("blocks", ctypes.c_int),
        ("y", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
    )


class Device:
    """The emulated device of one build."""

    def __init__(self, library: str) -> None:
        self.library = ctypes.CDLL(library)
        for name in ("emulated_rows",):
            getattr(self.library, name).restype = ctypes.c_char_p

    def seed(self, seed: int) -> None:
        """0: threads in order; others: an unfair schedule each."""
        self.library.emulated_seed(ctypes.c_uint64(seed))

    def counters(self) -> dict[str, int]:
        """Work since the last call."""
        six = (ctypes.c_uint64 * 6)()
        self.library.emulated_counters(six)
        names = ("multiplies", "async_bytes", "barriers", "blocks", "wavefronts", "least_wavefronts")
        return dict(zip(names, six, strict=True))

    def rows(self, x: np.ndarray, rotation=None, block: int | None = None) -> list[np.ndarray]:
        """Hadamard with a rotation, DynamicQuantizeRows with a block, both with both; x [rows, columns]."""
        x = guarded(x)
        job = RowsJob(
            x=pointer(x), element=ELEMENTS[x.dtype], rows=x.shape[0], columns=x.shape[1], base_order=1, power=1
        )
        base = None
        if rotation is not None:
            base = guarded(rotation.base)
            job.rotates, job.base, job.base_order = True, pointer(base), len(base)
            job.power, job.factor = rotation.outer * rotation.inner, rotation.factor
        y, scale = unwritten(x.shape, x.dtype if block is None else np.int8), None
        if block is not None:
            job.quantizes, job.block, job.blocks = True, block, -(-x.shape[1] // block)
            scale = unwritten((x.shape[0], job.blocks), np.float32)
        job.y, job.scale = pointer(y), pointer(scale)
        self.checked(self.library.emulated_rows(ctypes.byref(job)))
        return [y] if scale is None else [y, scale]

    @staticmethod
    def checked(failure: bytes | None) -> None:
        if failure:
            raise RuntimeError(failure.decode())

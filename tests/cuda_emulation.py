"""Runs the launchers of the CUDA kernels, built for the emulated device (cuda_build.py), on numpy arrays.

An array that a kernel gets ends where a page begins that nobody may touch, so that a read or a write past its end stops
the process. What a kernel must fill is NaN (or -1) before.
"""

from __future__ import annotations

import ctypes
import mmap
import weakref
from typing import NamedTuple

import ml_dtypes
import numpy as np

from qonnx.custom_ops.codebook import CodebookWeight
from qonnx.custom_ops.lowbit import LowBitWeight
from qonnx.custom_ops.static_product import StaticGrid

ELEMENTS = {np.dtype(np.float32): 0, np.dtype(np.float16): 1, np.dtype(ml_dtypes.bfloat16): 2}
CODES = {np.dtype(np.uint8): 3, np.dtype(np.int8): 4}  # and uint4 5, int4 6, two a byte
SCHEDULES = range(21)  # 0 is in order, the others are unfair


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


class LowBitSource(ctypes.Structure):
    """qonnx::cuda::LowBitSource of custom_ops/cuda/lowbit_pack.h."""

    _fields_ = (
        ("rows", ctypes.c_int),
        ("columns", ctypes.c_int),
        ("block", ctypes.c_int),
        ("levels", ctypes.c_uint32),
        ("codes_per_word", ctypes.c_uint32),
        ("bytes_per_word", ctypes.c_uint32),
        ("codes", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("zero", ctypes.c_void_p),
        ("zeros", ctypes.c_size_t),
        ("table", ctypes.c_void_p),
    )


class CodebookSource(ctypes.Structure):
    """qonnx::cuda::CodebookSource of custom_ops/cuda/codebook_pack.h."""

    _fields_ = (
        *((name, ctypes.c_int) for name in ("rows", "columns", "block")),
        *((name, ctypes.c_uint32) for name in ("levels", "codes_per_word", "bytes_per_word")),
        *((name, ctypes.c_int) for name in ("books", "length")),
        *((name, ctypes.c_void_p) for name in ("codes", "codebooks", "scale")),
    )


class StaticGridOf(ctypes.Structure):
    """qonnx::cuda::StaticGrid of custom_ops/cuda/product.h."""

    _fields_ = (
        ("scale", ctypes.c_float),
        *((name, ctypes.c_int) for name in ("zero_point", "minimum", "maximum")),
    )


class ProductJob(ctypes.Structure):
    """qonnx::cuda::Product of custom_ops/cuda/product.h."""

    _fields_ = (
        ("x", ctypes.c_void_p),
        ("y", ctypes.c_void_p),
        ("element", ctypes.c_int),
        ("y_element", ctypes.c_int),
        ("rows", ctypes.c_int64),
        ("bias", ctypes.c_void_p),
        ("workspace", ctypes.c_void_p),
        ("low_rank_a", ctypes.c_void_p),
        ("low_rank_b", ctypes.c_void_p),
        ("rank", ctypes.c_int),
        ("fixed", ctypes.c_bool),
        ("grid", StaticGridOf),
        ("y_grid", StaticGridOf),
        ("offsets", ctypes.c_void_p),
    )


class Plan(NamedTuple):
    """What custom_ops/cuda/product.cu chose."""

    regime: str
    splits: int
    planes: int


MATH = {np.dtype(np.float32): 1, np.dtype(np.float16): 0, np.dtype(ml_dtypes.bfloat16): 1}
INTEGER = 2


class Packed:
    """A weight as the kernels read it; `outputs`: N."""

    def __init__(self, device: Device, pack: int | None, outputs: int) -> None:
        self.library, self.outputs = device.library, outputs
        if not pack:
            raise RuntimeError(self.library.emulated_failure().decode())
        self.pack = ctypes.c_void_p(pack)
        weakref.finalize(self, self.library.emulated_free, self.pack)
        sizes = (ctypes.c_size_t * 3)()
        self.library.emulated_sizes(self.pack, sizes)
        self.arrays = [guarded(np.zeros(size, np.uint8)) for size in sizes]
        self.library.emulated_arrays(self.pack, *self.pointers())

    def pointers(self) -> list[ctypes.c_void_p]:
        return [ctypes.c_void_p(pointer(array)) for array in self.arrays]

    def plan(
        self, dtype: np.dtype | type, rows: int, processors: int, rank: int = 0, shared: int = 99 << 10
    ) -> tuple[Plan, int]:
        """The choice for that many rows of x on a device of so many processors, and the bytes of workspace."""
        three = (ctypes.c_int * 3)()
        element = ELEMENTS[np.dtype(dtype)]
        size = self.library.emulated_plan(
            self.pack, element, ctypes.c_int64(rows), processors, ctypes.c_size_t(shared), rank, three
        )
        return Plan(("few", "some", "many", "lean", "sums")[three[0]], three[1], three[2]), size


def math_of(dtype: np.dtype | type, quantized: bool) -> int:
    return INTEGER if quantized else MATH[np.dtype(dtype)]


class PackedLowBit(Packed):
    """A low-bit weight, for rows of x of `dtype`, rounded to int8 or not."""

    def __init__(self, device: Device, weight: LowBitWeight, dtype: np.dtype | type, quantized: bool) -> None:
        arrays = weight.arrays()
        codes = guarded(arrays["codes"])
        scale, zero = (guarded(arrays[name].astype(np.float32)) for name in ("scale", "zero_point"))
        table = guarded(arrays["table"])
        source = LowBitSource(*weight.codes.shape, weight.block, *weight.layout)
        source.codes, source.scale, source.zero, source.zeros = pointer(codes), pointer(scale), pointer(zero), zero.size
        source.table = pointer(table)
        pack = device.library.emulated_lowbit_pack(ctypes.byref(source), math_of(dtype, quantized))
        super().__init__(device, pack, len(weight.codes))
        self.offsets = guarded(np.zeros(self.outputs, np.float32))
        if quantized:
            self.library.emulated_offsets(self.pack, ctypes.byref(source), ctypes.c_void_p(pointer(self.offsets)))


class PackedCodebook(Packed):
    """A weight in code books, for rows of x of `dtype`, rounded to int8 or not."""

    def __init__(self, device: Device, weight: CodebookWeight, dtype: np.dtype | type, quantized: bool) -> None:
        arrays = weight.arrays()
        codes = guarded(arrays["codes"])
        books, scale = (guarded(arrays[name].astype(np.float32)) for name in ("codebooks", "scale"))
        rows, columns = weight.shape
        block = min(weight.block, columns)
        source = CodebookSource(rows, columns, block, *weight.layout, len(books), books.shape[2])
        source.codes, source.codebooks, source.scale = pointer(codes), pointer(books), pointer(scale)
        pack = device.library.emulated_codebook_pack(ctypes.byref(source), math_of(dtype, quantized))
        super().__init__(device, pack, rows)


class Device:
    """The emulated device of one build."""

    def __init__(self, library: str) -> None:
        self.library = ctypes.CDLL(library)
        for name in ("emulated_rows", "emulated_product", "emulated_failure"):
            getattr(self.library, name).restype = ctypes.c_char_p
        for name in ("emulated_lowbit_pack", "emulated_codebook_pack"):
            getattr(self.library, name).restype = ctypes.c_void_p
        self.library.emulated_plan.restype = ctypes.c_size_t

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

    def product(
        self,
        packed: Packed,
        x: np.ndarray,
        bias: np.ndarray | None = None,
        processors: int = 1,
        *,
        branch: tuple[np.ndarray, np.ndarray] | None = None,
        shared: int = 99 << 10,
    ) -> np.ndarray:
        """y [rows, N] of x [rows, K]; more processors mean more splits of the columns.

        branch: low-rank factors, float32 [K, rank] and [rank, N]. shared: bytes of shared memory that a block may have.
        """
        y = unwritten((len(x), packed.outputs), x.dtype)
        job = ProductJob(element=ELEMENTS[x.dtype], y_element=ELEMENTS[x.dtype], y=pointer(y))
        return self._run_product(packed, x, y, job, bias, processors, branch, shared)

    def static_product(
        self,
        packed: PackedLowBit,
        x: np.ndarray,
        grid: StaticGrid,
        bias: np.ndarray | None = None,
        processors: int = 1,
        *,
        element: int | None = None,
        y_grid: StaticGrid | None = None,
    ) -> np.ndarray:
        """y float32 [rows, N], codes with y_grid; x codes or numbers of `grid`."""
        y = unwritten((len(x), packed.outputs), np.float32 if y_grid is None else y_grid.dtype.numpy())
        element = (ELEMENTS | CODES)[x.dtype] if element is None else element
        job = ProductJob(element=element, y_element=(ELEMENTS | CODES)[y.dtype], y=pointer(y), fixed=True)
        for name, which in (("grid", grid), ("y_grid", y_grid)):
            if which is not None:
                numbers = (which.scale, which.zero_point, which.minimum, which.maximum)
                setattr(job, name, StaticGridOf(*numbers))
        job.offsets = pointer(packed.offsets)
        return self._run_product(packed, x, y, job, bias, processors, None, 99 << 10)

    def _run_product(self, packed, x, y, job, bias, processors, branch, shared):
        x = guarded(x)
        wide = None if bias is None else guarded(bias.astype(np.float32))
        rank = 0 if branch is None else branch[0].shape[1]
        kind = np.float16 if job.element > 2 else x.dtype
        _, size = packed.plan(kind, len(x), processors, rank, shared)
        workspace = unwritten(((size + 15) // 16 * 16,), np.uint8)
        job.x, job.rows, job.bias, job.workspace = pointer(x), len(x), pointer(wide), pointer(workspace)
        factors = [] if branch is None else [guarded(factor.astype(np.float32)) for factor in branch]
        if factors:
            job.low_rank_a, job.low_rank_b, job.rank = *map(pointer, factors), rank
        run = self.library.emulated_product
        self.checked(run(packed.pack, *packed.pointers(), ctypes.byref(job), processors, ctypes.c_size_t(shared)))
        return y

    @staticmethod
    def checked(failure: bytes | None) -> None:
        if failure:
            raise RuntimeError(failure.decode())

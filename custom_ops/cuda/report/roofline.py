"""Estimated times of products on named cards: the slowest of memory, L2 cache, shared memory, tensor cores and issue.

Each is work over a peak rate, so a real card is slower. No time was measured; launches are counted but not timed.
"""

from __future__ import annotations

import dataclasses

from qonnx.custom_ops.cuda.report.compiled import USUAL, Kernel
from qonnx.custom_ops.cuda.report.work import SLICES, SUMS_PASSES, SUMS_THREADS, UNIT, Form, Packed, Work


@dataclasses.dataclass(frozen=True)
class Card:
    """A GPU by its maker's data sheet.

    Attributes:
        bandwidth: of memory, bytes a second. cache: bytes of the L2 cache. float16, int8: dense operations a second of
        the tensor cores with float32 and int32 sums. reached: the share of them that mma.sync can have; on Hopper the
        rest takes wgmma (Luo et al., "Benchmarking and Dissecting the Nvidia Hopper GPU Architecture", 2024, table 7).
        processor_shared, block_shared: bytes of shared memory.
    """

    name: str
    architecture: int
    processors: int
    clock: float
    bandwidth: float
    cache: int
    float16: float
    int8: float
    processor_shared: int
    block_shared: int
    most_threads: int
    reached: float = 1.0


CARDS = (
    Card("RTX 4090", 89, 128, 2.52e9, 1008e9, 72 << 20, 165.2e12, 660.6e12, 100 << 10, 99 << 10, 1536),
    Card("A100 SXM", 80, 108, 1.41e9, 2039e9, 40 << 20, 312e12, 624e12, 164 << 10, 163 << 10, 2048),
    Card("H100 SXM", 90, 132, 1.83e9, 3350e9, 50 << 20, 989e12, 1979e12, 228 << 10, 227 << 10, 2048, 0.63),
    Card("AGX Orin 64 GB", 87, 16, 1.3e9, 204.8e9, 4 << 20, 42.6e12, 85.2e12, 164 << 10, 163 << 10, 1536),
)
FORMS = (
    Form("4 bits, blocks of 128", 4, 128),
    Form("4 bits, blocks of 128, int8", 4, 128, int8=True),
    Form("4 bits, blocks of 64", 4, 64),
    Form("1 book of 8 bits", 8, books=1),
    Form("2 books of 8 bits", 8, books=2),
    Form("2 books of 8 bits, int8", 8, books=2, int8=True),
    Form("3 books of 8 bits", 8, books=3),
    Form("1 book of 12 bits", 12, books=1),
    Form("1 book of 16 bits", 16, books=1),
    Form("1 book of 8 bits, vectors of 4", 8, books=1, vector=4),
    Form("1 book of 8 bits, vectors of 16", 8, books=1, vector=16),
)
ROWS = (1, 16, 64, 256)
COLUMNS, OUTPUTS = 4096, 11008
_CACHE_BYTES = 64  # that a processor gets from the L2 cache in a cycle
_SHARED_BYTES = 128  # and from its shared memory
_ISSUED = 4  # warp instructions in a cycle


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Seconds by what bounds them, and the shares that goals are stated for."""

    work: Work
    seconds: dict[str, float]
    moved: float  # bytes of memory over the least possible
    arithmetic: float  # multiply-adds at the tensor cores' peak over the estimated time
    issuable: float  # the same at what mma.sync reaches of that peak
    least: float  # seconds: of memory, of the tensor cores, or of looking up vectors or sums where no two lanes meet

    @property
    def bound(self) -> str:
        return max(self.seconds, key=lambda part: self.seconds[part])

    @property
    def time(self) -> float:
        return self.seconds[self.bound]


def executed(kernel: Kernel, work: Work) -> float:
    """Instructions of a warp for a round of the main loop: those over code books once for each book, those at the end
    of a group once for all rounds that the warp is in it, those that copy scales for the warps that do.
    """
    form = work.weight.form
    if work.regime == "sums":
        tiles = -(-work.weight.tiles // work.runs_of_tiles)
        idle = SUMS_PASSES // work.rows - -(-tiles // (SUMS_THREADS // 4))  # passes without tiles, of 16 lookups each
        ends = max(1, work.units_per_split * work.weight.groups // work.splits) if work.weight.groups > 1 else 1
        turns = SLICES * 2**form.bits // SUMS_THREADS  # of the loop that makes sums
        return (
            kernel.loop
            + (turns - 1) * kernel.inner
            - 48 * idle
            - kernel.rare * (1 - min(1, ends / work.units_per_split))
        )
    rounds = min(work.weight.padded_group // UNIT, work.units_per_split) // work.tile.warps_units
    rounds = 1 if form.sums else max(1, min(rounds, 4) if form.int8 else rounds)
    once = kernel.loop - kernel.twice / 2
    copying = kernel.copying * (1 - work.copying_warps * 32 / work.threads)
    return once + (max(form.books, 1) - 1) * kernel.inner - kernel.rare * (1 - 1 / rounds) - copying


def usual_kernel(kernels: list[Kernel], work: Work, architecture: int) -> Kernel | None:
    """The kernel of report/usual.cu that does this work."""
    form, regime = work.weight.form, work.regime
    if regime == "sums":
        regime = f"sums of {work.slice_bytes} bytes, M = {work.rows}"
    elif form.books and not work.book_bytes:
        regime += ", cached"
    elif form.books and form.bits > 8:
        regime += ", wide"
    wanted = (
        f"{f'vectors of {form.vector}' if form.books else '4 bits'}, {'int8' if form.int8 else 'float16'}, {regime}"
    )
    found = (k for k in kernels if (k.source, k.architecture, k.name) == (USUAL, architecture, wanted))
    return next(found, None)


def estimate(card: Card, form: Form, rows: int, kernels: list[Kernel]) -> Estimate:
    weight = Packed(form, OUTPUTS, COLUMNS)
    work = Work(weight, rows, card.processors, card.block_shared)
    x_and_y = 2 * rows * (COLUMNS + OUTPUTS)
    memory = weight.stored + x_and_y
    if work.workspace_bytes > card.cache // 2:  # it does not stay in the cache
        memory += 2 * work.workspace_bytes
    cached = work.copied_bytes + 2 * work.workspace_bytes + work.blocks * work.book_bytes
    if work.regime == "sums":  # codes, and the books for each slab of a block
        cached += weight.tiles * weight.units * weight.unit_bytes
        cached += work.blocks * work.units_per_split * weight.table_bytes // form.books
    elif not work.book_bytes:  # every vector from the cache, in sectors of 32 bytes, for every tile of tokens
        cached += work.looked_up
    units = work.turns * work.units_per_split  # of the busiest processor
    peak = card.int8 if form.int8 else card.float16
    of_multiply = 2 * 16 * 8 * weight.step
    seconds = {"memory": memory / card.bandwidth, "L2 cache": cached / (_CACHE_BYTES * card.processors * card.clock)}
    if work.regime == "sums":
        shared, warps = units * work.slab_bytes, SUMS_THREADS // 32
    else:
        shared, warps = units * work.shared_bytes_of_unit + work.turns * work.book_bytes, work.tile.warps_rows
        multiplied = units * work.multiplies_of_unit * of_multiply * card.processors
        seconds["tensor cores"] = multiplied / (peak * card.reached)
    seconds["shared memory"] = shared / (_SHARED_BYTES * card.clock)
    if kernel := usual_kernel(kernels, work, card.architecture):
        seconds["issue"] = units * warps * executed(kernel, work) / (_ISSUED * card.clock)
    moved = memory / (weight.least + x_and_y)
    arithmetic = 2 * rows * COLUMNS * OUTPUTS / peak / max(seconds.values())
    tokens = -(-rows // 8) * 8
    least = max(
        seconds["memory"] / moved,
        0 if work.regime == "sums" else 2 * tokens * COLUMNS * OUTPUTS / (peak * card.reached),
        work.looked_up / ((_SHARED_BYTES if work.in_shared else _CACHE_BYTES) * card.processors * card.clock),
    )
    return Estimate(work, seconds, moved, arithmetic, arithmetic / card.reached, least)

"""What the kernel of product_tile.cuh does for a shape, counted: splits, bytes copied, multiplications, shared memory.

The numbers restate custom_ops/cuda/{product.h, product.cu, product_stage.cuh, lowbit_run.cuh, codebook_run.cuh} for
weights with float16 scales and one zero point; tests hold them against what the emulated device counts.
"""

from __future__ import annotations

import dataclasses
import math

TILE, UNIT = 16, 64  # rows and columns of a unit


def _up(a: int, b: int) -> int:
    return -(-a // b)


@dataclasses.dataclass(frozen=True)
class Tile:
    """Template arguments of Tile: warps over rows and units, tiles and tiles of eight tokens a warp, stages."""

    warps_rows: int
    warps_units: int
    tiles: int
    token_tiles: int
    stages: int

    @property
    def block_tiles(self) -> int:
        return self.warps_rows * self.tiles

    @property
    def tokens(self) -> int:
        return 8 * self.token_tiles

    @property
    def threads(self) -> int:
        return 32 * self.warps_rows * self.warps_units


TILES = {
    "lowbit": {"few": Tile(1, 4, 4, 1, 4), "some": Tile(1, 4, 4, 2, 4), "many": Tile(4, 1, 2, 8, 3)},
    "codebook": {
        "few": Tile(2, 4, 4, 1, 4),
        "some": Tile(2, 4, 4, 2, 3),
        "many": Tile(4, 2, 2, 8, 3),
        "lean": Tile(2, 2, 1, 2, 2),
    },
}
# Products by sums (codebook_sums.cuh): threads of a block, tiles of each, rows of x, least tiles, shared memory.
SUMS_THREADS, SUMS_PASSES, SUMS_ROWS, SUMS_TILES, SUMS_SHARED = 512, 8, 2, 128, 66 << 10
SLICES = 4  # vectors of columns of a slab
_BLOCKS = {("lowbit", "few"): 2, ("lowbit", "some"): 2, ("codebook", "lean"): 2}  # for each processor, at least


@dataclasses.dataclass(frozen=True)
class Form:
    """A weight format and the numbers that are multiplied.

    Attributes:
        bits: of a code, or of an index of a code book. block: columns with one scale, 0 for a whole row.
        books: of vectors of `vector` numbers; 0 for low-bit codes.
    """

    name: str
    bits: int
    block: int = 0
    books: int = 0
    vector: int = 8
    int8: bool = False

    @property
    def family(self) -> str:
        return "codebook" if self.books else "lowbit"

    @property
    def size(self) -> int:
        return 1 if self.int8 else 2

    @property
    def sums(self) -> bool:
        """Whether sums of x are needed: for zero points that are not taken off where codes become numbers."""
        return self.int8 and not self.books and self.bits not in (4, 8)


@dataclasses.dataclass(frozen=True)
class Packed:
    """A weight [rows, columns] as it lies in the GPU's memory."""

    form: Form
    rows: int
    columns: int

    @property
    def block(self) -> int:
        return self.form.block or self.columns

    @property
    def groups(self) -> int:
        return _up(self.columns, self.block)

    @property
    def step(self) -> int:
        return 32 if self.form.int8 else 16

    @property
    def padded_group(self) -> int:
        grain = UNIT if self.form.books else self.step  # vectors of 8 need no padding of their own
        return _up(self.block, grain) * grain

    @property
    def units(self) -> int:
        return _up(self.groups * self.padded_group, UNIT)

    @property
    def tiles(self) -> int:
        return _up(self.rows, TILE)

    @property
    def unit_bytes(self) -> int:
        if self.form.books:
            return TILE * UNIT // self.form.vector * self.form.books * (1 if self.form.bits <= 8 else 2)
        return TILE * UNIT // 8 * self.form.bits

    @property
    def slots(self) -> int:
        group = self.padded_group
        if group % UNIT == 0:
            return 1
        return UNIT // group if UNIT % group == 0 else (UNIT - 2) // group + 2

    @property
    def parameter_bytes(self) -> int:
        return 2 * TILE

    @property
    def table_bytes(self) -> int:
        form = self.form
        return form.books * 2**form.bits * form.vector * form.size

    @property
    def segments(self) -> int:
        """Slabs of a unit, for products by sums; 0 for indices that are read otherwise."""
        form = self.form
        narrow = form.bits <= 8 and form.vector >= (8 if form.int8 else 4)
        return form.books * 16 // form.vector if form.books and narrow else 0

    @property
    def stored(self) -> int:
        """Bytes of codes, scales and code books."""
        return self.tiles * (self.units * self.unit_bytes + self.groups * self.parameter_bytes) + self.table_bytes

    @property
    def least(self) -> int:
        """Bytes that any kernel must read of this format: nothing padded."""
        per_code = self.form.vector if self.form.books else 1
        codes = self.rows * self.columns // per_code * max(self.form.books, 1)
        return codes * self.form.bits // 8 + 2 * self.rows * self.groups + self.table_bytes


@dataclasses.dataclass(frozen=True)
class Work:
    """The product of a weight with `rows` rows of x, float16, on a device."""

    weight: Packed
    rows: int
    processors: int
    block_shared: int  # bytes of shared memory that a block may have

    @property
    def regime(self) -> str:
        fit = self.weight.tiles >= SUMS_TILES and self.block_shared >= SUMS_SHARED
        if self.weight.segments and self.rows <= SUMS_ROWS and fit:
            return "sums"
        if self.weight.form.books and self.weight.unit_bytes > TILE * UNIT // 2:
            return "lean"
        return "few" if self.rows <= 8 else "some" if self.rows <= 16 else "many"

    @property
    def tile(self) -> Tile:
        return TILES[self.weight.form.family][self.regime]

    @property
    def output_blocks(self) -> int:
        return _up(self.weight.tiles, self.tile.block_tiles)

    @property
    def token_blocks(self) -> int:
        return _up(self.rows, self.tile.tokens)

    @property
    def runs_of_tiles(self) -> int:
        """Of products by sums: blocks side by side over the outputs."""
        return _up(self.weight.tiles, SUMS_THREADS // 4 * (SUMS_PASSES // self.rows))

    @property
    def slice_bytes(self) -> int:
        """Of an entry's sums for one vector of columns."""
        whole = 2 * 256 * 256 + 4 * self.rows * SLICES * self.weight.form.vector
        return 128 if self.block_shared >= whole else 64

    def _units_per_split(self, splits: int) -> int:
        depth = self.tile.warps_units
        return _up(_up(self.weight.units, splits), depth) * depth

    @property
    def units_per_split(self) -> int:
        """Units of the columns that a block takes; slabs in products by sums."""
        if self.regime == "sums":
            slabs = self.weight.units * self.weight.segments
            return _up(slabs, min(max(self.processors // self.runs_of_tiles, 1), slabs))
        blocks = self.output_blocks * self.token_blocks
        useful = max(1, self.weight.units // (2 * self.tile.warps_units))
        if self.regime == "lean" or (self.regime != "many" and not self.weight.form.books):
            wanted = _up(_BLOCKS.get((self.weight.form.family, self.regime), 1) * self.processors, blocks)
            return self._units_per_split(min(max(wanted, 1), useful))

        def time(splits: int) -> int:
            turns = _up(blocks * splits, self.processors)
            return turns * (self._units_per_split(splits) + (4 if splits > 1 else 1))

        return self._units_per_split(min(range(1, min(useful, 16) + 1), key=time))

    @property
    def splits(self) -> int:
        whole = self.weight.units * (self.weight.segments if self.regime == "sums" else 1)
        return _up(whole, self.units_per_split)

    @property
    def blocks(self) -> int:
        if self.regime == "sums":
            return self.runs_of_tiles * self.splits
        return self.output_blocks * self.token_blocks * self.splits

    @property
    def turns(self) -> int:
        """Blocks of the processor that has most."""
        return _up(self.blocks, self.processors)

    @property
    def stage_bytes(self) -> int:
        weight, tile = self.weight, self.tile
        codes = tile.block_tiles * tile.warps_units * weight.unit_bytes
        parameters = tile.block_tiles * tile.warps_units * weight.slots * weight.parameter_bytes
        x = tile.tokens * tile.warps_units * UNIT * weight.form.size
        of_rows = tile.warps_units * weight.slots * 4 * tile.tokens * (weight.form.int8 + weight.form.sums)
        return _up(_up(codes + parameters, 128) * 128 + x + of_rows, 128) * 128

    @property
    def staged_bytes(self) -> int:
        """Shared memory of a block without code books."""
        tile = self.tile
        end = 4 * tile.warps_units * tile.tokens * (TILE * tile.block_tiles + 4)
        return max(tile.stages * self.stage_bytes, end)

    @property
    def threads(self) -> int:
        return SUMS_THREADS if self.regime == "sums" else self.tile.threads

    @property
    def block_bytes(self) -> int:
        """Shared memory of a block."""
        if self.regime == "sums":
            x = 4 * self.rows * SLICES * self.weight.form.vector
            return SLICES * self.slice_bytes * 256 + x
        return self.staged_bytes + self.book_bytes

    @property
    def book_bytes(self) -> int:
        """Shared memory of a block for copies of the code books; 0 where they are read through the L2 cache."""
        if self.regime == "sums":
            return 0
        once, room = self.weight.table_bytes, self.block_shared - self.staged_bytes
        if not once or once > room:
            return 0
        form = self.weight.form
        worth = self.units_per_split * self.tile.block_tiles * TILE * UNIT * form.size * form.books // 4
        piece, copies = min(16, self.weight.form.vector * self.weight.form.size), 1
        while 2 * piece * copies <= 128 and 2 * once * copies <= min(room, 128 << 10, worth):
            copies *= 2
        return once * copies

    @property
    def copied_bytes(self) -> int:
        """By asynchronous copies of all blocks, out of the L2 cache."""
        if self.regime == "sums":
            return 0
        weight, form = self.weight, self.weight.form
        steps, group_steps = UNIT // weight.step, weight.padded_group // weight.step
        slots = sum(min(weight.slots, weight.groups - u * steps // group_steps) for u in range(weight.units))
        of_weight = weight.units * weight.unit_bytes + slots * weight.parameter_bytes
        rows = _up(self.rows, 4) * 4
        of_x = self.rows * weight.units * UNIT * form.size + 4 * rows * slots * form.int8
        of_x += 4 * rows * weight.units * weight.slots * form.sums
        return self.token_blocks * weight.tiles * of_weight + self.output_blocks * of_x

    @property
    def multiplies_of_unit(self) -> int:
        """Tensor-core instructions of a block for a unit of the columns; books are added up first."""
        return self.tile.block_tiles * self.tile.token_tiles * UNIT // self.weight.step

    @property
    def copying_warps(self) -> int:
        """That have scales of the weight or of rows of x to copy."""
        tile, weight = self.tile, self.weight
        parameters = tile.block_tiles * tile.warps_units * weight.slots * weight.parameter_bytes // 16
        return min(_up(max(parameters, tile.warps_units * weight.slots * tile.tokens // 4), 32), tile.threads // 32)

    @property
    def multiplies(self) -> int:
        if self.regime == "sums":
            return 0
        return self.output_blocks * self.token_blocks * self.weight.units * self.multiplies_of_unit

    @property
    def launches(self) -> int:
        """Kernels: x as operands, where it is none as it is; tiles; partial sums."""
        form, weight = self.weight.form, self.weight
        whole = weight.columns == weight.units * UNIT and (weight.groups == 1 or weight.block == weight.padded_group)
        return (not (whole and not form.int8 and not form.books)) + 1 + (self.splits > 1 or self.regime == "sums")

    @property
    def workspace_bytes(self) -> int:
        """x as operands and partial sums."""
        if self.regime == "sums":
            return (
                4 * self.splits * self.rows * self.weight.tiles * TILE
                + self.rows * self.weight.columns * self.weight.form.size
            )
        partial = 4 * self.splits * self.rows * self.weight.rows if self.splits > 1 else 0
        prepared = self.rows * self.weight.units * UNIT * self.weight.form.size
        return partial + (prepared if self.launches > 1 + (self.splits > 1) else 0)

    @property
    def shared_bytes_of_unit(self) -> int:
        """Bytes that a block moves in and out of shared memory for a unit; reads of up to 128 bytes count as that."""
        weight, tile, form = self.weight, self.tile, self.weight.form
        written = self.stage_bytes // tile.warps_units
        codes = tile.block_tiles * weight.unit_bytes
        x = tile.warps_rows * tile.tokens * UNIT * form.size
        parameters = (
            128 * (tile.block_tiles + tile.warps_rows * tile.token_tiles * (form.int8 + form.sums)) * weight.slots
        )
        looked_up = 0
        if self.book_bytes:
            looked_up = int(tile.block_tiles * TILE * UNIT * form.size * form.books * self.conflicts)
        return written + codes + x + parameters + looked_up

    @property
    def in_shared(self) -> bool:
        """Whether indices are looked up in shared memory, not in the L2 cache."""
        return self.regime == "sums" or self.book_bytes > 0

    @property
    def looked_up(self) -> int:
        """Bytes that indices stand for: of vectors, of the L2 cache in sectors of 32 bytes, or of sums."""
        form, weight = self.weight.form, self.weight
        indices = weight.tiles * TILE * weight.units * UNIT // form.vector * form.books
        if self.regime == "sums":
            return 4 * self.rows * indices
        vector = form.vector * form.size
        return self.token_blocks * indices * (vector if self.in_shared else _up(vector, 32) * 32)

    @property
    def conflicts(self) -> float:
        """Passes over the banks that a read of random entries takes, over the least: copies are side by side."""
        piece = min(16, self.weight.form.vector * self.weight.form.size)
        lanes = 128 // piece  # that read in one pass where no two meet
        copies = max(1, self.book_bytes // self.weight.table_bytes)
        return most_in_one(lanes // min(copies, lanes), min(copies, lanes))

    @property
    def slab_bytes(self) -> int:
        """Through shared memory for a slab, in products by sums: sums written, x and sums read (128 bytes a pass)."""
        form, levels = self.weight.form, 2 ** min(self.weight.form.bits, 8)
        made = SLICES * levels * self.slice_bytes
        x = _up(SLICES * levels, 32) * _up(4 * form.vector, 16) * self.rows * 128
        tiles = _up(self.weight.tiles, self.runs_of_tiles)
        passes = 4 * self.rows * 32 / self.slice_bytes  # 32 lanes, each with its copy or two with the same
        return made + x + int(tiles * TILE * SLICES / 32 * passes * 128)


def most_in_one(bins: int, groups: int) -> float:
    """The expected largest number of balls in a bin, of `groups` times `bins` balls that fall into `bins` bins each."""

    def at_most(most: int) -> float:
        ways = [1.0] + [0.0] * bins  # of balls so far, over their factorial
        for _ in range(bins):
            ways = [sum(ways[n - j] / math.factorial(j) for j in range(min(most, n) + 1)) for n in range(bins + 1)]
        return ways[bins] * math.factorial(bins) / bins**bins

    return sum(1 - at_most(most) ** groups for most in range(bins))


def resident(registers: int, threads: int, shared: int, *, processor_shared: int, most_threads: int) -> int:
    """Blocks of a kernel that a processor holds at once."""
    warp_registers = math.ceil(registers * 32 / 256) * 256
    by_registers = 65536 // warp_registers // (threads // 32)
    return min(by_registers, processor_shared // (shared + 1024), most_threads // threads)

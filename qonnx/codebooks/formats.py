"""Code-book formats: a weight is a sum of vectors, each named by an index into a book, times a scale a row or block.

    w[n, j·v … (j+1)·v] = scale[n, ·] · Σ_b book_b[index[n, j, b]]

A format says how many books there are, how many bits an index has, how long a vector is, who shares a scale and along
which axis of a layer the vectors lie. Indices are stored as a bit stream, books and scales in float16.
"""

from __future__ import annotations

import dataclasses

from qonnx.custom_ops.lowbit import layout_of

ALONG = ("inputs", "outputs")


@dataclasses.dataclass(frozen=True)
class CodebookFormat:
    """One way to store a weight [N outputs, K inputs] in code books.

    Attributes:
        books: vectors that are summed.
        index_bits: bits of an index; a book has 2**index_bits vectors.
        length: numbers in a vector, 1 to 16.
        block: numbers of a row that share a scale; 0 for one scale a row.
        along: "inputs" (AQLM: vectors lie along the sum of the product, scales by output) or "outputs" (VPTQ: vectors
            lie across outputs, scales by input; the weight is decoded as a table, a row for each input).
    """

    books: int
    index_bits: int
    length: int
    block: int = 0
    along: str = "inputs"

    def __post_init__(self):
        if not (self.books >= 1 and 1 <= self.index_bits <= 16 and 1 <= self.length <= 16):
            raise ValueError(f"{self}: want a book or more, indices of 1 to 16 bits and vectors of 1 to 16 numbers")
        if self.along not in ALONG or (self.block and self.block % self.length):
            raise ValueError(f"{self}: vectors lie along one of {ALONG} and fill whole blocks")

    @property
    def levels(self) -> int:
        """Vectors of a book."""
        return 2**self.index_bits

    @property
    def name(self) -> str:
        """As the ledger prints it: "2×8-bit books of 8"; VPTQ's end in "ᵀ"."""
        block = f".block{self.block}" if self.block else ""
        return (
            f"{self.books}×{self.index_bits}-bit books of {self.length}{block}{'ᵀ' if self.along == 'outputs' else ''}"
        )

    def fits(self, columns: int) -> bool:
        """Whether rows of `columns` numbers are whole vectors and whole blocks."""
        return columns % self.length == 0 and columns % (self.block or columns) == 0

    @property
    def bits(self) -> float:
        """Bits of indices for one weight; books and scales come on top."""
        return self.books * self.index_bits / self.length

    def stored_bits(self, rows: int, columns: int) -> int:
        """Bits stored for rows of `columns` numbers: indices, float16 books and float16 scales."""
        indices = 8 * rows * layout_of(self.levels).row_bytes(columns // self.length * self.books)
        scales = 16 * rows * (columns // (self.block or columns))
        return indices + scales + 16 * self.books * self.levels * self.length


# By name as recipes write it: books x index bits v length, bits a weight without books and scales.
CODEBOOKS: dict[str, CodebookFormat] = {
    "2x8v8": CodebookFormat(2, 8, 8),  # 2 bits; AQLM's 2×8
    "1x16v8": CodebookFormat(1, 16, 8),  # 2 bits; AQLM's 1×16: a book of 1 MiB
    "1x8v4": CodebookFormat(1, 8, 4),  # 2 bits, one look-up
    "1x12v6": CodebookFormat(1, 12, 6),  # 2 bits; a book of 48 KiB
    "4x8v16": CodebookFormat(4, 8, 16),  # 2 bits
    "3x8v12": CodebookFormat(3, 8, 12),  # 2 bits
    "1x8v3": CodebookFormat(1, 8, 3),  # 2.67 bits, one look-up
    "2x8v6": CodebookFormat(2, 8, 6),  # 2.67 bits
    "3x8v8": CodebookFormat(3, 8, 8),  # 3 bits
    "2x8v4": CodebookFormat(2, 8, 4),  # 4 bits
    "1x8v8": CodebookFormat(1, 8, 8),  # 1 bit
    "vptq-2x8v8": CodebookFormat(2, 8, 8, along="outputs"),
    "vptq-1x12v6": CodebookFormat(1, 12, 6, along="outputs"),
}

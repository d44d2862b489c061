"""FORMATS: uniform number types by name; TABLES: grids of other levels. Granularity: `dataclasses.replace`."""

from qonnx.formats.integers import FRACTIONS, GRANULARITIES, SCALE_BITS, IntFormat
from qonnx.formats.tables import TABLES, TableFormat
from qonnx.formats.tensor import QuantizedTensor

FORMATS: dict[str, IntFormat] = {
    "u2": IntFormat(2, signed=False, symmetric=False),
    "s2": IntFormat(2, signed=True, symmetric=True),
    "u4": IntFormat(4, signed=False, symmetric=False),
    "s4": IntFormat(4, signed=True, symmetric=True),
    "u8": IntFormat(8, signed=False, symmetric=False),
    "s8": IntFormat(8, signed=True, symmetric=True),
    "u16": IntFormat(16, signed=False, symmetric=False),
    "s16": IntFormat(16, signed=True, symmetric=True),
    "s32": IntFormat(32, signed=True, symmetric=True),
}

__all__ = [
    "FORMATS",
    "FRACTIONS",
    "GRANULARITIES",
    "SCALE_BITS",
    "TABLES",
    "IntFormat",
    "QuantizedTensor",
    "TableFormat",
]

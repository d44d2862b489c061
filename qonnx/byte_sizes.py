"""Byte counts as people write them: "12MB", "900 kB", "1.5GiB", or a plain number."""

from __future__ import annotations

import re

from qonnx.errors import QonnxError

UNITS = {
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
}


def byte_count(text: str | int, what: str) -> int:
    """`text` in bytes; decimal units (MB) and binary ones (MiB) in any case. `what` names the option in the error."""
    if isinstance(text, int):
        count = text
    else:
        found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-z]*)\s*", text.lower())
        if found is None or (found[2] or "b") not in UNITS:
            raise QonnxError(f"{what} '{text}' is no size; write it like 12MB, 900kB, 1.5GiB or 12000000")
        count = int(float(found[1]) * UNITS[found[2] or "b"])
    if count < 1:
        raise QonnxError(f"{what} is {text} but must be at least one byte")
    return count

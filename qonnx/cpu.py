"""What this machine's CPU can do, as far as it changes how a model should be quantized."""

from __future__ import annotations

import functools
import pathlib
import platform


@functools.cache
def _entries() -> dict[str, str]:
    """The first core's entries of /proc/cpuinfo; empty where the system has no such file."""
    source = pathlib.Path("/proc/cpuinfo")
    if not source.exists():
        return {}
    first = source.read_text().split("\n\n", 1)[0]
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def flags() -> frozenset[str]:
    """Instruction-set extensions as the system names them (`avx2`, `avx512_vnni`, `asimddp`, …); empty where unknown."""
    return frozenset(_entries().get("flags", _entries().get("Features", "")).split())


def name() -> str:
    """The processor's name, or its architecture where the system does not tell."""
    return _entries().get("model name") or platform.processor() or platform.machine()


def is_x86() -> bool:
    return platform.machine().lower() in ("x86_64", "amd64", "i686", "x86")


def has_vnni() -> bool:
    """Whether 8-bit products are summed in 32 bits: VNNI or AMX on x86, always on ARM. Unknown counts as yes.

    Without it u8 × s8 pairs are added in 16 bits on x86 and saturate; 7-bit weights avoid that.
    """
    return not is_x86() or not flags() or bool(flags() & {"avx512_vnni", "avx512vnni", "avx_vnni", "amx_int8"})

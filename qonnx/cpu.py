"""What this machine's CPU can do, as far as it changes how a model should be quantized."""

from __future__ import annotations

import functools
import pathlib
import platform

_X86 = ("x86_64", "amd64", "i686", "x86")


@functools.cache
def flags() -> frozenset[str]:
    """Feature flags of the first core, as Linux names them; empty where the system does not tell."""
    return frozenset(_cpuinfo("flags", "Features").split())


def is_x86() -> bool:
    return platform.machine().lower() in _X86


def has_vnni() -> bool:
    """Whether 8-bit products are summed in 32 bits (VNNI, or any ARM).

    Without it u8 × s8 pairs are added in 16 bits on x86 and saturate; 7-bit weights avoid that. Unknown counts as yes.
    """
    if not is_x86() or not flags():
        return True
    return bool({"avx512_vnni", "avx_vnni"} & flags())


def name() -> str:
    """The processor's name for people."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(*keys: str) -> str:
    """The first line of /proc/cpuinfo that starts with one of `keys`; empty on systems that have no such file."""
    source = pathlib.Path("/proc/cpuinfo")
    if not source.exists():
        return ""
    found = (line.partition(":")[2].strip() for line in source.read_text().splitlines() if line.startswith(keys))
    return next(found, "")

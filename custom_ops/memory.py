"""Memory that the kernels take for weights beside the model's own copy, which ONNX Runtime keeps."""

from __future__ import annotations

import ctypes
import functools

from qonnx.custom_ops import library_path


def packed_bytes() -> int:
    """Bytes of the weights that kernels of this process hold packed, all open sessions together; 0 without the library.

    A weight that is a constant is packed once, when its session is made, and goes with the session. The copy in the
    order of the file stays with ONNX Runtime, which does not let a custom operator free it: a session of our models
    holds its file's weights and these bytes.
    """
    count = _counter(library_path())
    return 0 if count is None else count()


@functools.cache
def _counter(path: str | None):
    if path is None:
        return None
    found = ctypes.CDLL(path).qonnx_packed_bytes
    found.restype = ctypes.c_uint64
    return found

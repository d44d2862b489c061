"""The native operators of domain `ai.qonnx`: where the library is, and whether there is one."""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
import sys

from qonnx.errors import QonnxError

DOMAIN = "ai.qonnx"
DISTRIBUTION = "qonnx-toolkit"
_FILE = {"win32": "qonnx_ops.dll", "darwin": "libqonnx_ops.dylib"}.get(sys.platform, "libqonnx_ops.so")


def library_path() -> str | None:
    """Path of the native library, or None when qonnx was installed without a compiler.

    The environment variable QONNX_OPS_LIBRARY names another one ("" for none). An editable install keeps the library in
    site-packages and the Python files in the source tree, so the installed distribution is asked as well.

    Raises:
        QonnxError: QONNX_OPS_LIBRARY names a file that does not exist.
    """
    chosen = os.environ.get("QONNX_OPS_LIBRARY")
    if chosen is not None:
        if chosen and not pathlib.Path(chosen).exists():
            raise QonnxError(f"QONNX_OPS_LIBRARY='{chosen}' does not exist; correct it or unset it")
        return chosen or None
    candidates = [pathlib.Path(folder) / "lib" / _FILE for folder in __path__]
    try:
        distribution = importlib.metadata.distribution(DISTRIBUTION)
        candidates.append(pathlib.Path(distribution.locate_file(f"qonnx/custom_ops/lib/{_FILE}")))
    except importlib.metadata.PackageNotFoundError:
        pass
    return next((str(path) for path in candidates if path.exists()), None)

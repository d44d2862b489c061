"""Arrays of a file that torch.save wrote, read without torch: a zip archive of a pickle and of raw storages.

Nothing but tensors and containers is made of the pickle: any other name in it is refused.
"""

from __future__ import annotations

import collections
import pathlib
import pickle
import zipfile

import numpy as np

from qonnx.errors import QonnxError

_KINDS = {"FloatStorage": np.float32, "DoubleStorage": np.float64, "HalfStorage": np.float16, "LongStorage": np.int64}


def arrays(file: pathlib.Path) -> dict[str, np.ndarray]:
    """The tensors of a saved state dict, by name. Raises QonnxError for a file of any other content."""
    with zipfile.ZipFile(file) as archive:
        inside = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
        if inside is None:
            raise QonnxError(f"'{file}' holds no data.pkl; save it with torch.save of version 1.6 or newer")
        found = _Reader(archive, inside.removesuffix("data.pkl")).load()
    return {name: array for name, array in found.items() if isinstance(array, np.ndarray)}


class _Reader(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, folder: str):
        super().__init__(archive.open(f"{folder}data.pkl"))
        self.archive, self.folder = archive, folder

    def find_class(self, module: str, name: str):
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if module == "torch" and name in _KINDS:
            return _KINDS[name]
        raise QonnxError(f"a saved state dict holds tensors, not {module}.{name}")

    def persistent_load(self, pid: tuple) -> np.ndarray:
        _, kind, key, _, _ = pid
        return np.frombuffer(self.archive.read(f"{self.folder}data/{key}"), kind)


def _tensor(storage: np.ndarray, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_) -> np.ndarray:
    strides = tuple(step * storage.itemsize for step in stride)
    return np.lib.stride_tricks.as_strided(storage[offset:], size, strides).copy()

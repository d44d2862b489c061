"""qonnx turns a float ONNX model into a small, fast, proven one."""

import pathlib as _pathlib

__version__ = "0.1.0"

# In a source tree the folders passes/ and custom_ops/ stand beside qonnx/; installed, they lie inside it.
_root = _pathlib.Path(__file__).resolve().parent.parent
if (_root / "passes").is_dir() and (_root / "custom_ops").is_dir() and str(_root) not in __path__:
    __path__.append(str(_root))
del _pathlib, _root

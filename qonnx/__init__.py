"""qonnx turns a float ONNX model into a small, fast, proven one."""

import pathlib as _pathlib

__version__ = "0.1.0"

# In a source tree the folders passes/ and custom_ops/ stand beside qonnx/; installed, they lie inside it.
_root = _pathlib.Path(__file__).resolve().parent.parent
if (_root / "passes").is_dir() and (_root / "custom_ops").is_dir() and str(_root) not in __path__:
    __path__.append(str(_root))
del _pathlib, _root

# The verbs of the command line as functions; imported when first used, because they bring ONNX Runtime with them.
_VERBS = {
    "convert": ("conversion", "convert"),
    "check": ("compare", "compare"),
    "inspect": ("inspection", "inspect"),
    "export": ("exports", "export"),
    "lint": ("linter", "lint"),
    "session": ("runtime", "session"),
}
__all__ = ["__version__", *_VERBS]


def __getattr__(name: str):
    if name not in _VERBS:
        raise AttributeError(f"module 'qonnx' has no attribute '{name}'")
    import importlib

    module, function = _VERBS[name]
    return getattr(importlib.import_module(f"qonnx.{module}"), function)


def __dir__():
    return sorted({*globals(), *_VERBS})

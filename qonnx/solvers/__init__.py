"""SOLVERS: how a weight becomes codes. Each is a function `solve(rows, format, gram) -> Codes`.

rows: [groups, rows, columns] float32 (see rows.py). gram: [groups, columns, columns], E[xxᵀ] of the layer's inputs up
to a factor, or None.
"""

from collections.abc import Callable

from qonnx.solvers.clipping import lwc, slim
from qonnx.solvers.gptq import gptq
from qonnx.solvers.hqq import hqq
from qonnx.solvers.nearest import Codes, nearest, nearest_searched
from qonnx.solvers.pvq import pvq
from qonnx.solvers.quantease import quantease
from qonnx.solvers.rows import Layout

SOLVERS: dict[str, Callable[..., Codes]] = {
    "nearest": nearest,
    "nearest-searched": nearest_searched,
    "hqq": hqq,
    "gptq": gptq,
    "lwc": lwc,
    "slim": slim,
    "quantease": quantease,
    "pvq": pvq,
}

__all__ = ["SOLVERS", "Codes", "Layout"]

"""onnx.reference: the specification in Python. Slow; only ONNX's own operators and functions."""

from __future__ import annotations

from collections.abc import Callable

import onnx

from qonnx.errors import QonnxError
from qonnx.runtimes.exchange import Job
from qonnx.specification import evaluator


def open_model(job: Job) -> tuple[Callable, Callable[[], str], str]:
    model = onnx.load(job.folder / job.model)
    known = {"", "ai.onnx", *(function.domain for function in model.functions)}
    foreign = sorted({f"{node.domain}.{node.op_type}" for node in model.graph.node if node.domain not in known})
    if foreign:
        raise QonnxError(
            f"not in the specification: {', '.join(foreign)}; qonnx export --variant standard writes it out"
        )
    opened = evaluator(model)

    def run(sample) -> dict:
        return dict(zip(job.outputs, opened.run(list(job.outputs), dict(sample)), strict=True))

    return run, lambda: "nothing, it is the specification", f"onnx {onnx.__version__}"

"""RUNTIMES: programs that run ONNX models, by name; one file each. `missing` says how to get one that is not there."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import pathlib
import sys
from collections.abc import Callable

from qonnx.errors import QonnxError
from qonnx.runtimes import litert, node, processes, web
from qonnx.runtimes.browser import NO_BROWSER, find_browser
from qonnx.runtimes.exchange import Job

LIMIT = 1800  # seconds for one runtime in Python
Modules = pathlib.Path | None  # a node_modules folder


@dataclasses.dataclass(frozen=True)
class Runtime:
    """A program that runs ONNX models.

    missing: given a node_modules folder or None, how to get what is not there ("" if all is). run: does a job and
    leaves a result in its folder. form: the variant of a model that it reads, a key of `qonnx.exports.VARIANTS`.
    threads: fixed number, or None for what the user asks for.
    """

    title: str
    missing: Callable[[Modules], str]
    run: Callable[[Job, Modules], None]
    form: str = "functions"
    threads: int | None = None


def _package(name: str, get: str) -> Callable[[Modules], str]:
    return lambda _: "" if importlib.util.find_spec(name) else f"not installed; {get}"


def _packages(*names: str) -> Callable[[Modules], str]:
    wanting = lambda: [name for name in names if not importlib.util.find_spec(name)]  # noqa: E731 - read twice below
    return lambda _: f"not installed; pip install {' '.join(wanting())}" if wanting() else ""


def _cuda(_: Modules) -> str:
    import onnxruntime

    there = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    return "" if there else "no CUDA provider; on a machine with an NVIDIA GPU: pip install onnxruntime-gpu"


def _npm(package: str, *, browser: bool) -> Callable[[Modules], str]:
    def missing(modules: Modules) -> str:
        folder = node_modules(modules)
        if browser and find_browser() is None:
            return NO_BROWSER
        if not browser and (why := node.missing()):
            return why
        if folder is None or not (folder / package).is_dir():
            return f"npm install {package}, then name the folder with --node-modules or QONNX_NODE_MODULES"
        return ""

    return missing


def node_modules(given: Modules = None) -> Modules:
    """The folder of npm packages: as given, of QONNX_NODE_MODULES, or ./node_modules; None if there is none.

    Raises QonnxError if the one given is no folder.
    """
    if given and not given.is_dir():
        raise QonnxError(f"'{given}' is not a folder; name the node_modules that npm wrote")
    for folder in (given, os.environ.get("QONNX_NODE_MODULES"), "node_modules"):
        if folder and pathlib.Path(folder).is_dir():
            return pathlib.Path(folder)
    return None


def _worker(job: Job, _: Modules) -> None:
    """Run the job in a Python process that finds the packages that this one found."""
    ours = str(pathlib.Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), ours]))
    command = [sys.executable, "-m", "qonnx.runtimes.worker", str(job.folder)]
    processes.leave_result(command, job, LIMIT, {"PYTHONPATH": path})


def _in_node(job: Job, modules: Modules) -> None:
    node.run_job(job, node_modules(modules))


def _in_web(job: Job, modules: Modules) -> None:
    web.run_job(job, node_modules(modules))


def _in_litert(job: Job, _: Modules) -> None:
    litert.run_job(job)


RUNTIMES: dict[str, Runtime] = {
    "ort-unoptimized": Runtime("ONNX Runtime, node by node", lambda _: "", _worker),
    "ort": Runtime("ONNX Runtime as users run it", lambda _: "", _worker),
    "ort-portable": Runtime("ONNX Runtime without our library", lambda _: "", _worker),
    "reference": Runtime("onnx.reference, the specification", lambda _: "", _worker),
    "openvino": Runtime("OpenVINO, CPU", _packages("openvino"), _worker, "inlined"),
    "ort-node": Runtime("onnxruntime-node", _npm("onnxruntime-node", browser=False), _in_node),
    "ort-web": Runtime("onnxruntime-web, 1 thread", _npm("onnxruntime-web", browser=True), _in_web, threads=1),
    "ort-web-2": Runtime("onnxruntime-web, 2 threads", _npm("onnxruntime-web", browser=True), _in_web, threads=2),
    "ncnn": Runtime("ncnn through pnnx", _packages("pnnx", "ncnn"), _worker),
    "litert": Runtime("LiteRT through onnx2tf", lambda _: litert.missing(), _in_litert, "inlined"),
    "ort-cuda": Runtime("ONNX Runtime on CUDA", _cuda, _worker),
    "tensorrt": Runtime("TensorRT", _package("tensorrt", "pip install tensorrt (NVIDIA GPU)"), _worker, "inlined"),
}

"""qonnx check."""

from __future__ import annotations

import argparse
import dataclasses
import pathlib

from qonnx.cli import check_runtimes
from qonnx.cli.ending import finish
from qonnx.cli.parser import Parser, add_data, add_settings, given_settings
from qonnx.cli.progress import ticking
from qonnx.compare import compare
from qonnx.comparison import Bounds
from qonnx.data import Data, open_data
from qonnx.errors import QonnxError
from qonnx.everywhere import SAMPLES, run_everywhere
from qonnx.model import load
from qonnx.report import Report
from qonnx.runtimes import RUNTIMES
from qonnx.settings import Settings

USAGE = "FLOAT RESULT --data PATH [options]"
EXAMPLE = """Exit code 1 when a bound does not hold.

Examples:
  qonnx check model.onnx model.quant.onnx --data images/ --preprocess imagenet
  qonnx check model.onnx model.quant.onnx --data test.npz --min-sqnr 30 --max-latency 0.8 --report report.html
  qonnx check model.onnx model.quant.onnx --data test.npz --runtime openvino --runtime ort-web --min-sqnr 30"""

_BOUNDS = {
    "min_sqnr": ("DB", "signal to quantization noise of every output"),
    "min_cosine": ("X", "cosine between the outputs of both models, 0 to 1"),
    "min_top1": ("X", "share of samples on which both models agree on the largest output, 0 to 1"),
    "max_abs": ("X", "largest absolute error of an output"),
    "max_drop": ("X", "largest loss of the metric"),
    "max_latency": ("RATIO", "latency of the result, as a share of the reference's"),
    "max_size": ("RATIO", "size of the result, as a share of the reference's"),
}
_SHARED = ("preprocess", "samples", "seed", "metric", "threads", "custom_op_library", "report", "json", "quiet")


def arguments(parser: Parser) -> None:
    parser.add_argument("reference", help="the model that is right by definition: the float one")
    parser.add_argument("result", help="the model on trial")
    add_data(parser)
    bounds = parser.add_argument_group("bounds (exit code 1 when one does not hold)")
    for name, (metavar, text) in _BOUNDS.items():
        bounds.add_argument("--" + name.replace("_", "-"), type=float, metavar=metavar, help=text)
    scope = parser.add_argument_group("how much is looked at")
    scope.add_argument("--layers", action=argparse.BooleanOptionalAction, default=True, help="compare layer by layer")
    scope.add_argument(
        "--latency", action=argparse.BooleanOptionalAction, default=True, help="measure the time of both"
    )
    everywhere = parser.add_argument_group("in other runtimes (in place of the comparison by layers)")
    everywhere.add_argument(
        "--runtime",
        action="append",
        metavar="NAME",
        help=f"run the result there, against ONNX Runtime node by node; may be repeated: all, {', '.join(RUNTIMES)}",
    )
    everywhere.add_argument(
        "--node-modules", type=pathlib.Path, metavar="FOLDER", help="where npm packages are (or QONNX_NODE_MODULES)"
    )
    add_settings(parser, _SHARED)


def run(options: argparse.Namespace) -> int:
    if options.data is None:
        raise QonnxError("check needs samples to run both models on; give --data (errors on made-up data say nothing)")
    given = given_settings(options)
    settings = Settings(**{name: given[name] for name in _SHARED if name in given})
    bounds = Bounds(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Bounds)})
    reference, result = load(options.reference), load(options.result)
    data = open_data(
        options.data,
        reference,
        preprocess=settings.preprocess,
        limit=settings.samples,
        seed=settings.seed,
        labels=settings.metric is not None,
    )
    if options.runtime:
        return _everywhere(options, settings, bounds, data)
    with ticking(quiet=settings.quiet) as ticker:
        comparison = compare(
            options.reference,
            options.result,
            data,
            layers=options.layers,
            latency=options.latency,
            threads=settings.threads,
            libraries=settings.custom_op_library,
            metric=settings.metric,
            bounds=bounds,
            **({} if ticker is None else {"progress": ticker.track}),
        )
    report = Report.start(options.reference, verb="check").finish(options.result, model=result, comparison=comparison)
    return finish(report, settings)


def _everywhere(options: argparse.Namespace, settings: Settings, bounds: Bounds, data: Data) -> int:
    """The table of runtimes; of the bounds, min_sqnr and max_drop hold there, others are refused."""
    given = [name for name in _BOUNDS if getattr(bounds, name) is not None and name not in ("min_sqnr", "max_drop")]
    if given or settings.report is not None:
        flag = "--report" if not given else "--" + given[0].replace("_", "-")
        raise QonnxError(f"{flag} has no effect with --runtime; leave one of them out")
    with ticking(quiet=settings.quiet) as ticker:
        rows = run_everywhere(
            options.reference,
            options.result,
            data,
            options.runtime,
            samples=settings.samples or SAMPLES,
            threads=settings.threads or 2,
            libraries=settings.custom_op_library,
            node_modules=options.node_modules,
            **({} if ticker is None else {"progress": ticker.track}),
        )
    sentences = check_runtimes.broken(rows, bounds.min_sqnr, bounds.max_drop)
    return check_runtimes.finish(rows, sentences, settings.json, settings.quiet)

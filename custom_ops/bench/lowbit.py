"""Low-bit matrix products against ONNX Runtime and their goals: `python -m qonnx.custom_ops.bench.lowbit`.

For each format, shape, number of threads and of rows of X: the distance from the operator's specification and the
relative errors against float64 first, then medians in turns, hot and, for one row, cold. Results go to results.json and
results.md beside this file, where a new measurement replaces the old one of its setting; `--formats W4.b32,ternary`,
`--tokens 1` or `--threads 1` measure a part. OpenVINO's 4-bit product joins where `openvino` is installed.
"""

from __future__ import annotations

import argparse
import math
import pathlib
import platform
from collections.abc import Callable

import numpy as np
import onnxruntime as ort

from qonnx.custom_ops import library_path
from qonnx.custom_ops.bench import limits, openvino_weights, results
from qonnx.custom_ops.bench.cases import (
    CASES,
    SETTINGS,
    VIT_SHAPE,
    VIT_TOKENS,
    baseline_model,
    branch_of,
    our_model,
    our_weight,
    specified,
)
from qonnx.custom_ops.bench.results import Cell, Results
from qonnx.custom_ops.bench.turns import time_in_turns
from qonnx.custom_ops.lowbit import LowBitWeight

_CHECKED_TOKENS = 4  # rows of X whose results are compared with float64


def bound_call(model: bytes, x: np.ndarray, rows: int, threads: int) -> tuple[Callable[[], object], np.ndarray]:
    """A call with inputs and outputs bound, and the array it writes."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 4
    options.register_custom_ops_library(library_path())
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    y = np.empty((len(x), rows), np.float32)
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", ort.OrtValue.ortvalue_from_numpy(x))
    binding.bind_output("y", "cpu", 0, np.float32, y.shape, y.ctypes.data)

    def call() -> np.ndarray:  # holds y, which the binding only points to
        session.run_with_iobinding(binding)
        return y

    return call, y


def distance(y: np.ndarray, wanted: np.ndarray) -> float:
    """‖y − wanted‖ / ‖wanted‖ over the rows that `wanted` has."""
    return float(np.linalg.norm(y[: len(wanted)] - wanted) / np.linalg.norm(wanted))


def measure(name: str, columns: int, rows: int, settings: list[tuple[int, bool]], threads: list[int], seconds: float):
    """Yields a cell for each setting, number of threads and baseline."""
    case = CASES[name]
    weight = our_weight(case, rows, columns)
    ours, decoded, branch = our_model(case, weight), weight.decode(), branch_of(case, rows, columns)
    if branch:
        decoded += (branch[0].astype(np.float64) @ branch[1]).T
    baselines = {key: baseline_model(key, weight, branch) for key in case.baselines}
    four_bits = isinstance(weight, LowBitWeight) and weight.levels == 16 and weight.table is None
    for count in threads:
        for tokens in sorted({tokens for tokens, _ in settings}):
            x = np.random.default_rng(2).standard_normal((tokens, columns)).astype(np.float32)
            bound = {key: bound_call(model, x, rows, count) for key, (model, _) in baselines.items()}
            held = {key: w for key, (_, w) in baselines.items()}
            if four_bits and not branch and "exact" not in name and openvino_weights.installed():
                bound["OpenVINO"], held["OpenVINO"] = openvino_weights.call_of(weight, x, count), decoded
            bound["ours"] = bound_call(ours, x, rows, count)
            calls = {key: call for key, (call, _) in bound.items()}
            for call in calls.values():
                call()
            few = x[:_CHECKED_TOKENS]
            exact = few.astype(np.float64)
            off = distance(bound["ours"][1], specified(case, weight, few))
            error = distance(bound["ours"][1], exact @ decoded.T)
            errors = {key: distance(bound[key][1], exact @ w.T) for key, w in held.items()}
            where = f"{name} {columns}x{rows} M={tokens} {count}t"
            print(f"{where:34} {off:.1e} from the specification; error {error:.1e}", flush=True)
            for cold in sorted(cold for wanted, cold in settings if wanted == tokens):
                timing = time_in_turns(calls, threads=count, cold=cold, seconds=seconds)
                for key, their_error in errors.items():
                    taken, theirs = timing.median["ours"], timing.median[key]
                    cell = Cell(name, key, columns, rows, tokens, count, cold, taken, theirs, off, error, their_error)
                    state = "cold" if cold else "hot"
                    print(f"{'':34} {cell.ratio:6.2f}× {state}: {taken:.0f} µs, {key} {theirs:.0f} µs "
                          f"(n={timing.samples['ours']}, error {their_error:.1e})", flush=True)  # fmt: skip
                    if not math.isnan(cell.ratio):  # no sample without an interruption
                        yield cell


def machine() -> str:
    """What results belong to: processor, tier and ONNX Runtime."""
    name = platform.processor() or platform.machine()
    information = pathlib.Path("/proc/cpuinfo")
    if information.exists():
        fields = dict(line.split(":", 1) for line in information.read_text().splitlines() if ":" in line)
        values = {key.strip(): value.strip() for key, value in fields.items()}
        name = f"{values.get('model name', name)}, family {values.get('cpu family')} model {values.get('model')}"
    return f"{name}, tier {limits.tier()}, ONNX Runtime {ort.__version__}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--formats", default=",".join(CASES))
    parser.add_argument("--shapes", default="", help="KxN, comma-separated; all of the format's when left out")
    parser.add_argument("--tokens", default="1,8,64,256")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each candidate and setting")
    parser.add_argument("--folder", type=pathlib.Path, default=results.FOLDER, help="of results.json and results.md")
    arguments = parser.parse_args()
    threads = [int(count) for count in arguments.threads.split(",")]
    wanted = {int(tokens) for tokens in arguments.tokens.split(",")}
    settings = [(tokens, cold) for tokens, cold in SETTINGS if tokens in wanted]
    chosen = [tuple(map(int, shape.split("x"))) for shape in arguments.shapes.split(",") if shape]
    kept: Results = results.load(arguments.folder, machine())
    for count in threads:
        kept.limits[count] = limits.greater(kept.limits.get(count), limits.measure(count))
    for name in arguments.formats.split(","):
        case = CASES[name]
        work = [(shape, settings) for shape in chosen or case.shapes]
        if case.most_bits and not case.books and not chosen:
            work.append((VIT_SHAPE, [(VIT_TOKENS, False)]))
        kept.bits[name] = bits_of(name)
        for (columns, rows), of_shape in work:
            for cell in measure(name, columns, rows, of_shape, threads, arguments.seconds):
                kept.cells[cell.key] = cell
            kept.save(arguments.folder)
    print((arguments.folder / "results.md").read_text())


def bits_of(name: str) -> float:
    """Bits stored for a weight, scales included and code books, which layers may share, left out."""
    case = CASES[name]
    weight = our_weight(case, 64, 4096)
    arrays = weight.arrays()
    return 8 * (arrays["codes"].nbytes + arrays["scale"].nbytes) / (64 * 4096)


if __name__ == "__main__":
    main()

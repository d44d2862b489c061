"""Is any setting slower than a float MatMul? `python -m qonnx.custom_ops.bench.sweep`.

Every number of bits, blocks of 16 to all of K, 1 to 256 rows of X, both operators, one thread, hot, against the float
product of the same small weight. All ratios go to results.json, the least of each operator and number of rows to
results.md.
"""

from __future__ import annotations

import argparse
import pathlib

import numpy as np

from qonnx.custom_ops.bench import results
from qonnx.custom_ops.bench.cases import Case, baseline_model, our_model, our_weight
from qonnx.custom_ops.bench.lowbit import bound_call, machine
from qonnx.custom_ops.bench.results import Swept
from qonnx.custom_ops.bench.turns import time_in_turns
from qonnx.custom_ops.lowbit import EXACT, INT8, NF4

LEVELS = (2, 3, 4, 8, 16, 32, 64, 128, 256)
BLOCKS = (16, 32, 64, 128, 256, 0)  # 0: one scale a row
TOKENS = (1, 8, 64, 256)
SIZE = 1024  # K and N


def measure(levels: int, block: int, table: np.ndarray | None, seconds: float, size: int = SIZE) -> list[Swept]:
    cases = {
        "MatMulLowBit": Case(EXACT, levels, block, {}, table),
        "8-bit activations": Case(INT8, levels, block, {}, table),
        "16-bit activations": Case(INT8, levels, block, {}, table, activation_bits=16),
    }
    weight = our_weight(cases["MatMulLowBit"], size, size)
    models = {name: our_model(case, weight) for name, case in cases.items()}
    models["float"] = baseline_model("float", weight)[0]
    rows = []
    for tokens in TOKENS:
        x = np.random.default_rng(0).standard_normal((tokens, size)).astype(np.float32)
        calls = {name: bound_call(model, x, size, 1)[0] for name, model in models.items()}
        timing = time_in_turns(calls, threads=1, seconds=seconds, rounds=3)
        kind = f"{levels} levels" if table is None else "NF4"
        rows += [Swept(name, kind, block, tokens, timing.ratio("float", name)) for name in cases]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--levels", default=",".join(map(str, (*LEVELS, "nf4"))))
    parser.add_argument("--seconds", type=float, default=0.05, help="for each candidate and setting")
    parser.add_argument("--folder", type=pathlib.Path, default=results.FOLDER, help="of results.json and results.md")
    arguments = parser.parse_args()
    kept = results.load(arguments.folder, machine())
    for name in arguments.levels.split(","):
        for block in BLOCKS:
            levels, table = (16, NF4) if name == "nf4" else (int(name), None)
            for row in measure(levels, block, table, arguments.seconds):
                kept.swept[row.key] = row
    kept.save(arguments.folder)
    print((arguments.folder / "results.md").read_text())


if __name__ == "__main__":
    main()

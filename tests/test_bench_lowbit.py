"""The benchmark of low-bit products: its models compute the specification, its tables tell what was measured."""

import dataclasses

import numpy as np
import onnx
import pytest

from qonnx.custom_ops import library_path
from qonnx.custom_ops.bench import limits, lowbit, model, results, sweep
from qonnx.custom_ops.bench.cases import CASES, SETTINGS
from qonnx.custom_ops.bench.limits import Limits
from qonnx.custom_ops.bench.results import Cell, ModelTime, Results, Swept

native = pytest.mark.skipif(library_path() is None, reason="no native library")


def cell(ratio, **changes):
    base = Cell("W4.b32", "W4.b32.acc4", 4096, 4096, 8, 1, False, 100.0, 100.0 * ratio, 1e-7, 6e-3, 7e-3)
    return dataclasses.replace(base, **changes)


@pytest.mark.native
@native
@pytest.mark.parametrize("name", CASES)
def test_models_compute_the_specification(name):
    (measured, *_) = lowbit.measure(name, 256, 64, [(3, False)], [1], 0.01)
    assert measured.from_specification < 1e-5
    assert measured.error < 0.03 and measured.baseline_error < 0.03


@pytest.mark.native
@native
def test_limits_are_those_of_a_processor():
    measured = limits.measure(1, repeats=3)
    assert 1e9 < measured.multiply_adds < 1e13 and 1e8 < measured.bytes_cold < 1e12
    assert limits.tier() in ("scalar", "avx2", "avx2vnni", "avx512", "avx512vnni")


def test_goals_are_geometric_means_over_shapes_and_missed_ones_are_bold():
    cells = [cell(4.0), cell(1.0, columns=1024), cell(1.2, tokens=64), cell(9.0, columns=384)]
    table = results.markdown(Results("here", {c.key: c for c in cells}))
    assert "| W4.b32 (2 of 3 shapes) | W4.b32.acc4 | 1 | – | – | 2.00 (1.7) | **1.20 (1.85)** | – |" in table


def test_shares_of_the_machine():
    cells = [cell(2.0, tokens=256), cell(2.0, tokens=1, cold=True), cell(2.0, tokens=256, threads=2, ours=50.0)]
    measured = {1: Limits(4096 * 4096 * 256 / 50e-6, 4096 * 4096 / 2 / 25e-6)}
    table = results.markdown(Results("here", {c.key: c for c in cells}, measured, {"W4.b32": 4.0}))
    assert "| W4.b32 | 4.00 (4.5) | **25% (50%)** | 50% (50%) | – | – | 2.00 (1.8) |" in table


def test_results_are_kept_by_setting_and_machine(tmp_path):
    first = Results("here", {cell(2.0).key: cell(2.0)}, {1: Limits(1.0, 2.0)}, {"W4.b32": 4.5})
    first.save(tmp_path)
    again = results.load(tmp_path, "here")
    assert again == first
    again.cells[cell(3.0).key] = cell(3.0)
    assert [c.ratio for c in again.cells.values()] == [3.0]
    assert results.load(tmp_path, "elsewhere").cells == {}


def test_every_case_has_a_goal_for_every_setting():
    assert all(len(goals) == len(SETTINGS) for case in CASES.values() for goals in case.baselines.values())


@pytest.mark.native
@native
def test_a_model_computes_with_our_products_what_it_does_with_those_of_onnx_runtime(tmp_path):
    weight = np.random.default_rng(0).standard_normal((128, 48)).astype(np.float32)
    graph = onnx.parser.parse_graph("g (float[1, 5, 128] x) => (float[1, 5, 48] y) { y = MatMul(x, w) }")
    graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    opsets = [onnx.helper.make_opsetid("", 21)]
    path = tmp_path / "small.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    times = {row.variant: row for row in model.measure(path, 32, 1, 0.05)}
    assert times[model.EXACT].error < 1e-5
    assert 1e-4 < times[model.DYNAMIC].error < 0.02 < times[model.FLOAT].error < 0.5
    kept = Results("here", models={row.key: row for row in times.values()})
    kept.save(tmp_path)
    assert results.load(tmp_path, "here") == kept


def test_a_model_slower_than_four_fifths_of_onnx_runtime_is_bold():
    rows = [
        ModelTime("m", 32, 1, name, taken, 0.0, 9) for name, taken in ((model.DYNAMIC, 90.0), (model.THEIRS[4], 100.0))
    ]
    assert "**0.90 (0.8)**" in results.markdown(Results("here", models={row.key: row for row in rows}))


def test_the_sweep_names_the_worst_setting(tmp_path):
    rows = [Swept("MatMulLowBit", "16 levels", block, 8, ratio) for block, ratio in ((16, 0.7), (32, 1.2), (0, 1.5))]
    kept = Results("here", swept={row.key: row for row in rows})
    kept.save(tmp_path)
    assert results.load(tmp_path, "here") == kept
    assert "| MatMulLowBit | 8 | **0.70 (1)** | 16 levels, block 16 | 1 of 3 |" in results.markdown(kept)


@pytest.mark.native
@native
def test_the_sweep_measures_every_operator():
    rows = sweep.measure(16, 32, None, 0.001, size=64)
    assert len({row.operator for row in rows}) == 3 and len(rows) == 3 * len(sweep.TOKENS)
    assert all(row.ratio > 0 for row in rows)


def test_limits_are_the_best_seen():
    assert limits.greater(None, Limits(2, 3)) == Limits(2, 3)
    assert limits.greater(Limits(5, 1), Limits(2, 3)) == Limits(5, 3)

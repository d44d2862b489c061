"""Narrow constants: the same numbers in fewer bytes, or the constant as it was."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.tiny import build
from qonnx import runtime
from qonnx.custom_ops.narrow import WORTH, narrow, nbytes
from qonnx.footprint import footprint, layer_bytes
from qonnx.notes import note
from qonnx.passes.assign_weights import AssignWeights
from qonnx.passes.narrow_constants import NarrowConstants
from qonnx.passes.place_low_bit import PlaceLowBit
from qonnx.passes.solve_weights import SolveWeights
from qonnx.passes.weight_choices import _nbytes
from qonnx.targets import TARGETS

KINDS = [np.dtype(np.float32), np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)]
NET = """<ir_version: 10, opset_import: ["" : OPSET]>
g (float[N,256] x, float[256,320] w1, float[320,256] w2) => (float[N,256] y) {
    h = MatMul(x, w1)
    r = Relu(h)
    y = MatMul(r, w2)
}"""


def placed(opset: int = 25, **options) -> ir.Model:
    model = build(NET.replace("OPSET", str(opset)))
    AssignWeights(TARGETS["ort-cpu"], **options)(model)
    SolveWeights("nearest-searched")(model)
    PlaceLowBit()(model)
    return model


def run(model: ir.Model, optimization: str) -> np.ndarray:
    x = np.random.default_rng(3).normal(size=(5, 256)).astype(np.float32)
    return runtime.session(model, optimization=optimization, threads=1).run(None, {"x": x})[0]


def stored(model: ir.Model) -> int:
    return sum(value.const_value.nbytes for value in model.graph.initializers.values())


@pytest.mark.parametrize("optimization", ["none", "all"])
@pytest.mark.parametrize(
    ("options", "bits"),
    [
        ({"bits": 4, "block": 32, "scale_bits": 8}, 4 + 8 / 32 + 4 / 32),
        ({"bits": 3, "block": 16, "scale_bits": 8}, 3 + 8 / 16 + 4 / 16),
        ({"bits": 2, "block": 16, "scale_bits": 8}, 2 + 8 / 16 + 2 / 16),
        ({"bits": 2, "block": 16, "scale_bits": 16}, 2 + 16 / 16 + 2 / 16),
        ({"bits": 4, "table": "nf4", "block": 64, "scale_bits": 8}, 4 + 8 / 64),
        ({"bits": 4, "table": "nvfp4"}, 4 + 8 / 16),
        ({"bits": 4, "table": "mxfp4"}, 4 + 8 / 32),
    ],
)
def test_a_narrow_model_computes_the_same_bits_from_fewer(options, bits, optimization):
    wide, model = placed(**options), placed(**options)
    said = [note(node).fate.detail for node in model.graph if note(node).fate is not None]
    NarrowConstants()(model)
    np.testing.assert_array_equal(run(model, optimization), run(wide, optimization))
    weights = 2 * 256 * 320
    tables = sum(v.const_value.nbytes for n, v in model.graph.initializers.items() if n.endswith(("/table", "/bias")))
    taken = 8 * (stored(model) - tables) / weights
    assert taken <= bits + 8 * 2 * 1024 / weights  # a table of scales for each weight
    assert np.mean([float(text.split(" bits a weight")[0].split()[-1]) for text in said]) == pytest.approx(
        taken, abs=0.01
    )
    assert stored(model) < stored(wide)
    counts = [footprint(one, 0, None) for one in (wide, model)]
    assert counts[0].weights == counts[1].weights


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_bytes_that_a_choice_foresees_are_stored(bits):
    model = placed(bits=bits, block=32, scale_bits=16)
    solved = [(node, note(node).solved) for node in model.graph if note(node).solved is not None]
    NarrowConstants()(model)
    tables = [value for name, value in model.graph.initializers.items() if name.endswith("/bias")]
    assert stored(model) - sum(value.const_value.nbytes for value in tables) == sum(_nbytes(*one, 25) for one in solved)


@pytest.mark.parametrize(("opset", "kinds"), [(21, {"UINT8"}), (23, {"UINT8", "UINT4"})])
def test_types_wait_for_their_opset(opset, kinds):
    model = placed(opset, bits=4, block=16, scale_bits=8)
    NarrowConstants()(model)
    found = {value.dtype.name for name, value in model.graph.initializers.items() if name.endswith("_stored")}
    assert found == kinds


def test_scales_with_full_fractions_and_constants_of_others_stay():
    model = placed(bits=4, table="nf4")
    assert not NarrowConstants()(model).modified
    plain = build(NET.replace("OPSET", "25"))
    assert not NarrowConstants()(plain).modified


def test_a_constant_that_is_an_output_stays():
    model = placed(bits=4, table="nvfp4")
    scale = next(value for name, value in model.graph.initializers.items() if name.endswith("/scale"))
    model.graph.outputs.append(scale)
    NarrowConstants()(model)
    names = {name for name in model.graph.initializers if name.endswith("/scale")}
    assert names == {scale.name}


def test_a_wrong_table_would_be_noticed():
    """A seeded fault."""
    model = placed(bits=4, table="nvfp4")
    want = run(model, "none")
    NarrowConstants()(model)
    table = next(value for name, value in model.graph.initializers.items() if name.endswith("scale_table"))
    table.const_value = ir.tensor(table.const_value.numpy()[::-1].copy(), name=table.name)
    assert (run(model, "none") != want).any()


@given(st.integers(1, 300), st.integers(0, 2**31), st.sampled_from(KINDS), st.sampled_from([18, 23, 25]))
@settings(max_examples=100, deadline=None)
def test_what_is_narrow_is_exact(different, seed, kind, opset):
    generator = np.random.default_rng(seed)
    some = np.unique(generator.lognormal(size=different).astype(kind))
    numbers = generator.choice(some, (40, 50))
    numbers.flat[: some.size] = some
    found = narrow(numbers, opset)
    least = 2 if opset >= 25 and some.size <= 4 else 4 if opset >= 23 and some.size <= 16 else 8
    if some.size > 256:
        assert found is None and nbytes(numbers, opset) == numbers.nbytes
        return
    assert found.bits == least and found.nbytes == nbytes(numbers, opset) == 2000 * least // 8 + 4 * some.size
    np.testing.assert_array_equal(found.table[found.stored.astype(int)].astype(kind), numbers)


@pytest.mark.parametrize(
    "numbers",
    [
        np.arange(300, dtype=np.float32),
        np.array([np.inf, 1.0] * 100, np.float32),
        np.array([np.nan, 1.0] * 100, np.float32),
        np.array([1.0, 2.0], np.float32),  # the table takes as much
        np.zeros(0, np.float32),
        np.full(100, 16, np.uint8),
        np.zeros(0, np.uint8),
    ],
)
def test_what_no_type_holds_stays(numbers):
    assert narrow(numbers, 25) is None and nbytes(numbers, 25) == numbers.nbytes


def test_zero_points_take_the_bits_of_the_largest():
    kinds = [narrow(np.array([0, top] * 600, np.uint8), 25).stored.dtype for top in (3, 4, 15)]
    assert kinds == [ml_dtypes.uint2, ml_dtypes.uint4, ml_dtypes.uint4]
    assert nbytes(np.zeros(1201, np.uint8), 25) == 301 and nbytes(np.full(1201, 15, np.uint8), 25) == 601


def test_what_saves_less_than_its_nodes_take_stays():
    few, enough = np.zeros(2 * WORTH - 2, np.uint8), np.zeros(2 * WORTH, np.uint8)
    assert narrow(few, 23) is None and nbytes(few, 23) == few.nbytes
    assert narrow(enough, 23).nbytes == nbytes(enough, 23) == WORTH
    assert nbytes(few, 23, share=2) == few.nbytes  # of twice as many, each half a byte


def layers(text: str) -> dict[str, int]:
    return {node.op_type: layer_bytes(node) for node in build(text).graph}


def test_a_layer_counts_tables_of_its_scales_and_not_those_of_its_input():
    """Rows that tokens choose are no part of the product that reads them."""
    found = layers("""<ir_version: 10, opset_import: ["" : 21]> g (int64[N] ids, float[90,64] w1, float[64,32] w2)
        => (float[N,32] y) { e = Gather(w1, ids)  y = MatMul(e, w2) }""")
    assert found == {"Gather": 4 * 90 * 64, "MatMul": 4 * 64 * 32}
    model = placed(bits=4, block=16, scale_bits=8)
    product = next(node for node in model.graph if node.op_type == "MatMulLowBit")
    before = layer_bytes(product)
    NarrowConstants()(model)
    arrays = model.graph.initializers.items()
    assert layer_bytes(product) == sum(v.const_value.nbytes for n, v in arrays if n.startswith(("w1/", "h/"))) < before

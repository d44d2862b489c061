"""Tables that embed tokens and score them: both readers share 8-bit codes; what anyone else reads stays as it is."""

import numpy as np
import onnx_ir as ir
import pytest

from models.tiny import build
from qonnx import runtime
from qonnx.notes import note
from qonnx.passes.infer_shapes import InferShapes
from qonnx.passes.rewire import array
from qonnx.passes.share_tables import ShareTables
from qonnx.passes.tidy import Tidy
from qonnx.settings import Settings
from qonnx.targets import TARGETS

HEAD = '<ir_version: 13, opset_import: ["": 25]> '
HEAD += "g (int64[1,S] ids, float[40,24] w1, float[24,40] w2) => (float[1,S,40] y) "
TIED = "{ x = Gather(w1, ids)  n = Tanh(x)  t = Transpose<perm = [1, 0]>(w1)  y = MatMul(n, t) }"
NEAR_MISSES = {
    "columns are gathered": TIED.replace("x = Gather(w1, ids)", "c = Gather<axis = 1>(w1, k)  x = Gather(c, ids)"),
    "someone else reads the table": TIED.replace("n = Tanh(x)", "m = ReduceMax(w1)  n = Mul(x, m)"),
    "the turned table is a left factor": TIED.replace(
        "y = MatMul(n, t)",
        """a = MatMul(n, t)  b = Transpose<perm = [0, 2, 1]>(a)  c = MatMul(t, b)
           d = Transpose<perm = [0, 2, 1]>(c)  y = MatMul(d, t)""",
    ),
    "no product": TIED.replace("y = MatMul(n, t)", "y0 = MatMul(n, w2)  y = Identity(y0)"),
}


TABLE = np.random.default_rng(0).standard_t(4, size=(40, 24)).astype(np.float32)


def made(text: str = TIED) -> ir.Model:
    """The model of a text; entries of the table have heavy tails."""
    model = build(HEAD + text.replace("{", "{ k = Constant<value_ints = [2, 0]>() ", 1))
    model.graph.initializers["w1"].const_value = ir.tensor(TABLE, name="w1")
    InferShapes()(model)
    Tidy()(model)
    return model


def output(model: ir.Model) -> np.ndarray:
    return runtime.session(model).run(None, {"ids": np.array([[3, 0, 39, 3]])})[0]


def test_both_readers_share_one_table_of_codes():
    model = made()
    want = output(model)
    changes = ShareTables(TARGETS["ort-cpu"])(model).changes
    Tidy()(model)
    assert [node.op_type for node in model.graph if node.domain] == ["MatMulLowBit"]
    assert not any(node.op_type == "Transpose" for node in model.graph)
    tables = [v for v in model.graph.initializers.values() if array(v).size >= 40 * 24]
    assert [(array(v).dtype, array(v).shape) for v in tables] == [(np.uint8, (40, 24))]
    assert {use.node.op_type for use in tables[0].uses()} == {"Gather", "MatMulLowBit"}
    assert len(changes) == 2
    assert sum(note(node).fate is not None and note(node).fate.state == "done" for node in model.graph) == 2
    # Every weight is off by half a step at most; so are the inputs of the product, which Tanh cannot widen.
    step = np.abs(TABLE).max(1, keepdims=True) / 127
    x = np.tanh(TABLE[[3, 0, 39, 3]])
    bound = np.abs(x) @ np.broadcast_to(step / 2, TABLE.shape).T
    bound += (step[[3, 0, 39, 3]] / 2) * (np.abs(TABLE) + step / 2).sum(1)
    assert (np.abs(output(model) - want)[0] <= bound + 1e-4).all()
    assert not np.array_equal(output(model), want)


@pytest.mark.parametrize("text", NEAR_MISSES.values(), ids=NEAR_MISSES)
def test_other_tables_stay(text):
    assert not ShareTables(TARGETS["ort-cpu"])(made(text)).changes


def test_targets_of_standard_operators_keep_the_table():
    assert not ShareTables(TARGETS["openvino"])(made()).changes


def test_an_excluded_reader_keeps_the_table():
    assert not ShareTables(TARGETS["ort-cpu"], Settings(op_types_to_exclude=("Gather",)))(made()).changes

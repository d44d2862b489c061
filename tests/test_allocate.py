"""The pass that allocates bits: sensitive layers get more, budgets hold, what the target lacks is not chosen."""

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest

from models.tiny import build
from qonnx import runtime
from qonnx.codebooks import CODEBOOKS, CodebookFormat
from qonnx.errors import QonnxError
from qonnx.notes import note, warnings
from qonnx.passes import weight_choices
from qonnx.passes.allocate import Allocate
from qonnx.passes.assign_weights import AssignWeights
from qonnx.passes.place_low_bit import PlaceLowBit
from qonnx.passes.place_qdq import PlaceQDQ
from qonnx.passes.solve_weights import SolveWeights
from qonnx.passes.tidy import Tidy
from qonnx.passes.weight_choices import at, rounded
from qonnx.recipe import recipe
from qonnx.targets import TARGETS, target

NET = """<ir_version: 13, opset_import: ["": 25]> g (float[N,64] x, float[64,96] w1, float[64,96] w2, float[96,32] w3)
    => (float[N,32] y) { a = MatMul(x, w1)  b = MatMul(x, w2)  quiet = Constant<value_float = 0.001>()
    c = Mul(b, quiet)  d = Add(a, c)  e = Relu(d)
    y = MatMul(e, w3) }"""


def net() -> ir.Model:
    """Two layers in parallel, of which the second counts a thousandth."""
    return build(NET)


def data(seed: int = 0) -> list[dict]:
    generator = np.random.default_rng(seed)
    return [{"x": generator.normal(size=(20, 64)).astype(np.float32)} for _ in range(4)]


def allocated(**options) -> tuple[ir.Model, dict[str, str]]:
    model = net()
    AssignWeights(TARGETS["ort-cpu"], bits=4)(model)
    Allocate(data(), options.pop("target", TARGETS["ort-cpu"]), **options)(model)
    return model, {n.inputs[1].name: note(n).plan.weight.name for n in model.graph if note(n).plan is not None}


def bits(name: str) -> int:
    """Bits of "u4/8.block32"."""
    number = name.split(".")[0]
    return (int(number.split("/")[1]) - 1).bit_length() if "/" in number else int(number[1:])


def test_what_counts_gets_more_bits():
    model, formats = allocated(average=6.0)
    assert bits(formats["w1"]) > bits(formats["w2"]) and bits(formats["w3"]) > bits(formats["w2"])
    assert any("predicted" in sentence for sentence in warnings(model))


@pytest.mark.parametrize("average", [4.0, 5.0, 6.5, 9.5])
def test_the_average_holds(average):
    _, formats = allocated(average=average)
    counts = {"w1": 64 * 96, "w2": 64 * 96, "w3": 96 * 32}
    used = sum(counts[name] * (bits(formats[name]) + 0.5) for name in counts)  # 32 weights share a float16 scale
    assert used <= average * sum(counts.values())


def test_a_second_application_changes_nothing():
    model, _ = allocated(average=5.5)
    assert not Allocate(data(), TARGETS["ort-cpu"], average=5.5)(model).changes


def test_only_what_the_target_takes():
    few = dataclasses.replace(TARGETS["ort-cpu"], weight_only={"8": "dq", "4": "dq"})
    _, formats = allocated(target=few, average=7.0)
    assert {bits(name) for name in formats.values()} <= {4, 8}


def test_a_budget_that_is_too_small_is_said():
    with pytest.raises((QonnxError, ir.passes.PassError)) as caught:
        allocated(size=1000)
    assert "smallest possible" in str(caught.value) + str(caught.value.__cause__)
    with pytest.raises(QonnxError, match="7 bits are no choice"):
        Allocate(None, TARGETS["ort-cpu"], bits=(4, 7))


def test_the_recipe_runs_and_beats_one_format_for_all():
    feeds, new = data(), data(1)
    want = [runtime.session(net(), threads=1).run(None, feed)[0] for feed in new]

    def noise(name: str, **options) -> float:
        model, chosen = net(), recipe(name)
        for step in chosen.steps:
            step.options.update(options.get(step.name, {}))
        chosen.run(model, target=target("ort-cpu"), data=feeds)
        session = runtime.session(model, optimization="none", threads=1)
        return float(sum(np.square(session.run(None, f)[0] - w).sum() for f, w in zip(new, want, strict=True)))

    uniform = noise("weight-int4-calibrated", assign_weights={"block": 32})
    assert noise("weight-mixed-calibrated", allocate={"average": 5.3}) < uniform


def test_a_few_rows_say_what_all_do():
    """Errors of single formats are taken on an excerpt of a long weight; bytes are those of the whole."""
    model = build("<ir_version: 10, opset_import: ['': 25]> g (float[N,64] x, float[64,2048] w1) => (float[N,2048] y) "
                  "{ y = MatMul(x, w1) }".replace("'", '"'))  # fmt: skip
    node = next(n for n in model.graph if n.inputs[1].name == "w1")
    AssignWeights(TARGETS["ort-cpu"], bits=4)(model)
    formats = {at(note(node).plan.weight, bits) for bits in (2, 4, 8)} | {CODEBOOKS["1x8v4"]}
    for format, (size, error) in weight_choices._errors(node, formats, 25).items():
        solved, weight = rounded(node, format), node.inputs[1].const_value.numpy()
        whole = float(np.square(weight - solved.decode()).sum() / np.square(weight).sum())
        assert error == pytest.approx(whole, rel=0.15)
        book = isinstance(format, CodebookFormat)
        assert abs(size - (solved.nbytes if book else weight_choices._nbytes(node, solved, 25))) <= 4


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_bytes_that_are_foreseen_are_stored(bits):
    model, _ = allocated(bits=(bits,), books=(), average=20.0)
    readers = {n.inputs[1].name: n for n in model.graph if note(n).plan is not None}
    foreseen = {name: weight_choices._errors(n, {f := note(n).plan.weight}, 25)[f][0] for name, n in readers.items()}
    for one in (SolveWeights(), PlaceLowBit(), PlaceQDQ(), Tidy()):
        one(model)
    arrays = model.graph.initializers.items()
    assert foreseen == {
        name: sum(value.const_value.nbytes for key, value in arrays if key.startswith(f"{name}/")) for name in foreseen
    }

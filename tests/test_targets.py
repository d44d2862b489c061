"""Laws over TARGETS, the conditions of their exclude rows, and what the command says about them."""

import json

import onnx
import onnx_ir as ir
import pytest

from qonnx.__main__ import main
from qonnx.errors import QonnxError
from qonnx.formats import FORMATS
from qonnx.linter import RULES
from qonnx.linter.grids import TYPE_OPSET
from qonnx.soundness import OPSETS
from qonnx.targets import TARGETS, read_target, target
from qonnx.targets.conditions import NAMES, check, holds, sizes
from qonnx.targets.explain import sentences

SIZES = {"M": 5, "K": 7, "N": 3}
OPERATORS = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}


@pytest.fixture(params=TARGETS.values(), ids=TARGETS)
def one(request):
    return request.param


def test_default_numbers_are_formats_that_the_target_takes(one):
    assert one.activation.type in FORMATS and one.activation.type in one.activation_types
    assert one.weight.type in FORMATS and one.weight.type in one.weight_types
    assert set(one.activation_types) | set(one.weight_types) <= set(TYPE_OPSET)


def test_symmetric_numbers_are_signed(one):
    """An unsigned symmetric grid has its zero point in the middle: no runtime asks for that."""
    for number in (one.activation, one.weight):
        assert not number.symmetric or number.type.startswith("s")


def test_opset_holds_the_types_that_the_target_emits(one):
    low, high = one.opset
    assert OPSETS.start <= low <= high < OPSETS.stop
    assert TYPE_OPSET[one.activation.type] <= high
    for bits, way in one.weight_only.items():
        assert way == "lowbit" or min(TYPE_OPSET[f"s{bits}"], TYPE_OPSET[f"u{bits}"]) <= high


def test_weight_only_bits_are_taken(one):
    for bits, way in one.weight_only.items():
        assert way in ("dq", "matmulnbits", "lowbit")
        stored = {"3": "4", "5": "8", "6": "8"}[bits] if way == "lowbit" else bits
        assert {f"s{stored}", f"u{stored}"} & set(one.weight_types)


def test_words_are_known(one):
    assert one.bias in ("int32", "float")
    assert one.residual_add in ("float", "both", "one-branch")
    assert one.reduce_range in ("never", "always", "auto")
    assert one.weight_only_granularity in ("block", "channel")
    assert set(one.higher) <= {"a16", "float"} and one.higher[-1] == "float"


def test_operator_names_exist(one):
    named = {*one.operators, *one.outputs, *one.elementwise, *one.shared_scales, *one.fixed_ranges, *one.tensor_only}
    assert named | {row["op"] for row in one.exclude} <= OPERATORS


def test_an_operator_has_one_part(one):
    assert not set(one.operators) & set(one.elementwise)
    assert not set(one.shared_scales) & (set(one.operators) | set(one.elementwise))
    assert set(one.outputs) <= set(one.operators)


def test_rules_and_conditions_parse(one):
    assert set(one.forbid) <= set(RULES)
    assert not [name for name in one.forbid if RULES[name].everywhere]
    for row in one.exclude:
        assert set(row) == {"op", "when"}
        check(row["when"])


def test_16_bits_come_with_a_16_bit_type(one):
    if "a16" in one.higher:
        assert {"u16", "s16"} & set(one.activation_types)
    for name in one.fixed_scales:
        operator, kind = name.split(".")
        assert operator in OPERATORS and kind in one.activation_types


def test_target_says_itself_in_sentences(one):
    rows = dict(sentences(one))
    assert one.advice.endswith(".")
    assert all(sentence.endswith(".") for sentence in rows.values())
    assert one.activation.type in rows["activations"] and one.weight.type in rows["weights"]
    assert ("stays float" in rows) == bool(one.exclude)


@pytest.mark.parametrize("key", ["title", "opset", "activation"])
def test_missing_key_is_named(key, tmp_path):
    text = """
title = "t"
opset = [13, 21]
activation = { type = "u8", symmetric = false }
weight = { type = "s8", symmetric = true }
bias = "float"
operators = []
activation_types = []
weight_types = []
"""
    path = tmp_path / "mine.toml"
    path.write_text(text)
    assert read_target(path).name == "mine"
    path.write_text("".join(line for line in text.splitlines(True) if not line.startswith(key)))
    with pytest.raises(QonnxError, match="is missing"):
        read_target(path)
    path.write_text(text.replace(key, key + "s", 1))
    with pytest.raises(QonnxError, match=f"unknown key '{key}s' in mine.toml; did you mean '{key}'"):
        read_target(path)


def test_wrong_type_is_named(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('opset = [13, "x"]\ntitle = "t"\nactivation = { type = "u8", symmetric = 1 }')
    with pytest.raises(QonnxError, match="key 'symmetric' under 'activation' in "):
        read_target(path)


def test_unknown_target_names_the_nearest():
    with pytest.raises(QonnxError, match="did you mean 'tensorrt'"):
        target("tensort")


@pytest.mark.parametrize(
    ("when", "known", "answer"),
    [
        ("M == 1", {"M": 1}, True),
        ("M == 1", {"M": 2}, False),
        ("M == 1", {}, False),
        ("M != 1", {}, False),
        ("M == 1 or K < 16", {"K": 8}, True),
        ("M == 1 and K < 16", {"K": 8}, False),
        ("inputs % 8 != 0", {"inputs": 12}, True),
        ("inputs % 8 != 0", {}, False),
        ("inputs < 16 and inputs % 8 != 0 or outputs >= 9", {"inputs": 8, "outputs": 9}, True),
    ],
)
def test_conditions(when, known, answer):
    assert holds(when, known) is answer


@pytest.mark.parametrize("when", ["M ==", "m == 1", "M + 1 == 2", "__import__('os')", "M == 1.5", "M < K < 3", "M"])
def test_other_conditions_are_refused(when):
    if when == "M":  # a size alone is no condition, but it does parse: it holds where it is not zero
        assert holds(when, {"M": 3})
        return
    with pytest.raises(QonnxError):
        check(when)


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("(float[5,7] a, float[7,3] b) => (float[5,3] y) { y = MatMul(a, b) }", SIZES),
        ("(float[7,5] a, float[3,7] b) => (float[5,3] y) { y = Gemm<transA = 1, transB = 1>(a, b) }", SIZES),
        ("(float[N,7] a, float[7,3] b) => (float[N,3] y) { y = MatMul(a, b) }", {"K": 7, "N": 3}),
        (
            "(float[1,8,4,4] a, float[6,4,3,3] b) => (float[1,6,2,2] y) { y = Conv<group = 2>(a, b) }",
            {"inputs": 4, "outputs": 6, "groups": 2, "kernel": 9},
        ),
        (
            "(float[1,8,4,4] a, float[8,3,2,2] b) => (float[1,6,5,5] y) { y = ConvTranspose<group = 2>(a, b) }",
            {"inputs": 4, "outputs": 6, "groups": 2, "kernel": 4},
        ),
        ("(float[5] a, float[5] b) => (float[5] y) { y = Add(a, b) }", {}),
    ],
)  # fmt: skip
def test_sizes_of_nodes(text, known):
    model = ir.from_onnx_text(f'<ir_version: 8, opset_import: ["": 17]> g {text}')
    assert sizes(model.graph[0]) == known
    assert set(known) <= set(NAMES)


def test_command_lists_and_explains(one, capsys):
    assert main(["targets"]) == 0
    assert all(name in capsys.readouterr().out for name in [one.name])
    assert main(["targets", one.name]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert one.title in printed and " ".join(one.advice.split()) in printed
    assert main(["targets", one.name, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["name"] == one.name


def test_command_names_the_nearest(capsys):
    assert main(["targets", "openvin"]) == 2
    assert "did you mean 'openvino'?" in capsys.readouterr().err

"""Settings: names, types, bounds and the patterns that choose nodes."""

import pathlib

import onnx_ir as ir
import pytest

from qonnx.errors import QonnxError
from qonnx.options import checked, nearest
from qonnx.selection import matches
from qonnx.settings import Settings, settings_of

MODEL = """
<ir_version: 8, opset_import: ["": 17]>
agraph (float[2,2] x) => (float[2,2] y) { a = MatMul(x, x) b = Relu(a) y = MatMul(b, b) }
"""


@pytest.fixture
def model():
    made = ir.from_onnx_text(MODEL)
    made.graph[0].name, made.graph[1].name = "block[0]/attn/MatMul", "act"
    return made


@pytest.mark.parametrize(
    ("pattern", "name", "answer"),
    [
        ("a", "a", True),
        ("a", "ab", False),
        ("a*", "ab", True),
        ("*b", "abc", False),
        ("re:a.", "ab", True),
        ("re:a", "ab", False),
        ("re:.*b", "ab", True),
        ("block[0]/x", "block[0]/x", True),  # exact before glob: exporters write brackets
        ("block[0]/x", "block0/x", True),
        ("A", "a", False),
        ("re:x", "re:x", False),
    ],
)
def test_patterns(pattern, name, answer):
    assert matches(pattern, name) is answer


@pytest.mark.parametrize(
    ("options", "chosen"),
    [
        ({}, [True, True, True]),
        ({"nodes_to_exclude": "*attn*"}, [False, True, True]),
        ({"nodes_to_exclude": "y"}, [True, True, False]),  # unnamed: it answers to its output
        ({"nodes_to_quantize": "act"}, [False, True, False]),
        ({"op_types_to_quantize": ["MatMul"]}, [True, False, True]),
        ({"op_types_to_exclude": ["Mat*"]}, [False, True, False]),
        ({"op_types_to_quantize": ["MatMul"], "nodes_to_exclude": ["re:block.*"]}, [False, False, True]),
    ],
)
def test_selection(options, chosen, model):
    settings = settings_of(options)
    assert [settings.selects(node) for node in model.graph] == chosen
    assert [not settings.exclusion(node) for node in model.graph] == chosen
    settings.check_selection(model)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"nodes_to_exclude": "akt"}, "did you mean 'act'"),
        ({"nodes_to_quantize": "attn*"}, "--nodes-to-quantize 'attn.*' matches nothing"),
        ({"op_types_to_quantize": "matmul"}, "did you mean 'MatMul'"),
        ({"input_shapes": {"z": [1]}}, "unknown input 'z'"),
    ],
)
def test_patterns_that_match_nothing_are_errors(options, said, model):
    with pytest.raises(QonnxError, match=said):
        settings_of(options).check_selection(model)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"bitz": 4}, "unknown option 'bitz'; did you mean 'bits'"),
        ({"bits": "4"}, "must be a whole number"),
        ({"bits": True}, "must be a whole number"),
        ({"bits": 0}, "must lie between 1 and 16"),
        ({"percentile": 101}, "must lie between 50 and 100"),
        ({"calibration_method": "minmax"}, "did you mean 'min-max'"),
        ({"nodes_to_exclude": 3}, "must be a list"),
        ({"nodes_to_exclude": [3]}, "each entry a string"),
        ({"input_shapes": {"x": "1x2"}}, "each value a list"),
        ({"force": 1}, "must be true or false"),
        ({"percentile": 99, "calibration_method": "entropy"}, "has no effect"),
    ],
)
def test_bad_options_are_named(options, said):
    with pytest.raises(QonnxError, match=said):
        settings_of(options)


def test_values_take_the_types_of_their_fields():
    got = settings_of({"output": "q.onnx", "min_sqnr": 30, "nodes_to_exclude": "a", "input_shapes": {"x": [1, 2]}})
    assert got.output == pathlib.Path("q.onnx") and got.input_shapes == {"x": (1, 2)}
    assert got.nodes_to_exclude == ("a",) and isinstance(got.min_sqnr, float)
    assert got.to_dict() == {
        "output": "q.onnx",
        "min_sqnr": 30.0,
        "nodes_to_exclude": ("a",),
        "input_shapes": {"x": (1, 2)},
    }
    assert Settings().to_dict() == {}


def test_percentile_implies_its_method():
    assert Settings(percentile=99.9).calibration_method == "percentile"
    assert Settings().calibration_method is None


@pytest.mark.parametrize(
    ("value", "kind", "result"),
    [
        (3, float, 3.0),
        ([1, 2], tuple[int, ...], (1, 2)),
        ([1, "a"], tuple[int, str], (1, "a")),
        (None, int | None, None),
        ("a", pathlib.Path | None, pathlib.Path("a")),
        ({"a": [1]}, dict[str, tuple[int, ...]], {"a": (1,)}),
        (object, object, object),
    ],
)
def test_values_that_fit(value, kind, result):
    assert checked(value, kind, "x") == result


@pytest.mark.parametrize(
    ("value", "kind"), [(1.5, int), ([1], tuple[int, int]), ("a", int | None), (1, bool), (True, int), ([], dict)]
)
def test_values_that_do_not_fit(value, kind):
    with pytest.raises(QonnxError, match=r"x is .* but must be"):
        checked(value, kind, "x")


def test_nearest_lists_all_when_nothing_is_near():
    assert nearest("tensort", ["onnx", "tensorrt"]) == "did you mean 'tensorrt'?"
    assert nearest("zzz", ["onnx", "tensorrt"]) == "known are onnx, tensorrt"

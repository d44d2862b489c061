"""`qonnx convert` as a user meets it: what is written and when nothing is, bounds, refusals, killed runs."""

import json
import os

import onnx
import onnx_ir as ir
import pytest

from qonnx.__main__ import main
from qonnx.errors import QonnxError
from qonnx.input_shapes import fix_input_shapes
from qonnx.targets import TARGETS


def written(folder) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"model.onnx", "data.npz"}


def types(path) -> set[str]:
    return {node.op_type for node in onnx.load(path).graph.node}


def test_convert_without_data_quantizes_weights_and_says_so(here, capsys):
    assert main(["convert", "model.onnx"]) == 0
    said = capsys.readouterr()
    assert "weights only" in said.err and "model.quant.onnx" in said.out
    assert written(here) == {"model.quant.onnx"}
    assert "QuantizeLinear" not in types("model.quant.onnx")
    assert os.path.getsize("model.quant.onnx") < 0.5 * os.path.getsize("model.onnx")


def test_convert_without_data_names_the_bits_asked_for(here, capsys):
    assert main(["convert", "model.onnx", "--bits", "4", "--dry-run"]) == 0
    assert "to 4 bits" in capsys.readouterr().err


def test_convert_with_data_writes_model_and_reports(here, capsys):
    words = ["convert", "model.onnx", "--data", "data.npz", "-o", "q.onnx", "--threads", "1"]
    assert main([*words, "--report", "r.html", "--json", "r.json"]) == 0
    assert written(here) == {"q.onnx", "r.html", "r.json"}
    assert {"QuantizeLinear", "DequantizeLinear"} <= types("q.onnx")
    report = json.loads((here / "r.json").read_text())
    assert report["recipe"]["passes"] and report["comparison"]["samples"] == 6
    props = {entry.key: entry.value for entry in onnx.load("q.onnx").metadata_props}
    assert {"qonnx.version", "qonnx.recipe", "qonnx.source_sha256"} <= set(props)
    assert json.loads(props["qonnx.recipe"]) == report["recipe"]
    said = capsys.readouterr()
    assert said.err == "" and "Everything: r.html and r.json" in said.out


def test_convert_is_quiet_when_asked(here, capsys):
    assert main(["convert", "model.onnx", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_convert_never_overwrites_without_force(here, capsys):
    (here / "model.quant.onnx").write_bytes(b"precious")
    assert main(["convert", "model.onnx"]) == 2
    assert "--force" in capsys.readouterr().err
    assert (here / "model.quant.onnx").read_bytes() == b"precious"
    assert main(["convert", "model.onnx", "--force"]) == 0
    assert "DequantizeLinear" in types("model.quant.onnx") or "MatMulNBits" in types("model.quant.onnx")


def test_convert_never_touches_its_input(here):
    before = (here / "model.onnx").read_bytes()
    assert main(["convert", "model.onnx", "-o", "model.onnx", "--force", "--quiet"]) == 2
    assert (here / "model.onnx").read_bytes() == before


def test_dry_run_writes_nothing(here, capsys):
    words = ["convert", "model.onnx", "--data", "data.npz", "--dry-run", "--threads", "1", "--stats", "s.npz"]
    assert main([*words, "--report", "r.html", "--json", "r.json"]) == 0
    printed = capsys.readouterr().out
    assert "first" in printed and "nothing was written" in printed
    assert written(here) == set()
    (here / "model.quant.onnx").write_bytes(b"precious")
    assert main([*words, "--quiet"]) == 0  # what exists is not in the way of a plan
    assert (here / "model.quant.onnx").read_bytes() == b"precious"


def test_statistics_alone_choose_the_ranges(here, capsys):
    words = ["convert", "model.onnx", "--stats", "s.npz", "--threads", "1"]
    assert main([*words, "--data", "data.npz", "-o", "a.onnx"]) == 0
    capsys.readouterr()
    assert main([*words, "-o", "b.onnx"]) == 0
    assert "no samples" in " ".join(capsys.readouterr().out.split())
    assert "QuantizeLinear" in types("b.onnx")
    assert main([*words, "-o", "c.onnx", "--min-sqnr", "30"]) == 2
    assert "give --data beside --stats" in capsys.readouterr().err


def test_a_custom_op_library_is_found_in_the_current_folder(here, capsys):
    (here / "ops.so").write_bytes(b"no library")
    words = ["convert", "model.onnx", "--data", "data.npz", "--custom-op-library"]
    assert main([*words, "ops.so"]) == 2
    assert f"'{here / 'ops.so'}' is no custom-op library" in capsys.readouterr().err  # the file here was read
    assert main([*words, "none.so"]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_bound_that_does_not_hold_is_exit_code_1(here, capsys):
    words = ["convert", "model.onnx", "--data", "data.npz", "--threads", "1", "-o", "q.onnx", "--max-float", "0"]
    assert main([*words, "--min-sqnr", "200"]) == 1
    assert "the bound is 200 dB" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    "choice",
    [
        ["--nodes-to-exclude", "first", "second"],
        ["--nodes-to-exclude", "re:first|second"],
        ["--nodes-to-exclude", "*s*"],
        ["--op-types-to-exclude", "MatMul"],
        ["--op-types-to-quantize", "Relu"],
        ["--nodes-to-quantize", "relu"],
    ],
)
def test_nothing_left_to_quantize_is_exit_code_1_and_writes_nothing(choice, here, capsys):
    assert main(["convert", "model.onnx", *choice]) == 1
    assert "nothing was quantized" in capsys.readouterr().err
    assert written(here) == set()


def test_exclusion_keeps_one_node_in_float(here):
    assert main(["convert", "model.onnx", "--nodes-to-exclude", "sec*", "--quiet", "-o", "q.onnx"]) == 0
    weights = {
        tensor.name: tensor.data_type for tensor in onnx.load("q.onnx").graph.initializer if len(tensor.dims) > 1
    }
    assert weights["w2"] == onnx.TensorProto.FLOAT and weights.get("w1") != onnx.TensorProto.FLOAT


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--nodes-to-exclude", "frist"], "did you mean 'first'?"),
        (["--nodes-to-exclude", "re:(", ""], "not a regular expression"),
        (["--nodes-to-exclude", "re:irs"], "must match the whole name"),
        (["--op-types-to-exclude", "matmul"], "did you mean 'MatMul'?"),
        (["--input-shapes", "y:1x32"], "unknown input 'y'"),
        (["--input-shapes", "x:1x3x3"], "3 axes"),
        (["--input-shapes", "x:1x33"], "the model fixes it to 32"),
        (["--data", "nowhere.npz"], "nowhere.npz"),
        (["--recipe", "static-w8a8"], "needs calibration data"),
        (["--percentile", "99"], "--percentile has no effect"),
        (["--block-size", "32", "--recipe", "spell-only"], "--block-size has no effect"),
        (["--no-keep-io-types"], "--no-keep-io-types has no effect"),
        (["--target", "tensorrt", "--recipe", "static-w8a16", "--data", "data.npz"], "not u16"),
        (["-o", "no/such/folder.onnx"], "no/such"),
    ],
)
def test_what_does_not_fit_the_model_is_said_before_anything_is_written(words, said, here, capsys):
    assert main(["convert", "model.onnx", *words]) == 2
    assert said in capsys.readouterr().err
    assert written(here) == set()


def test_input_shapes_are_fixed_in_the_result(here):
    assert main(["convert", "model.onnx", "--input-shapes", "x:4x32", "--quiet"]) == 0
    graph = onnx.load("model.quant.onnx").graph
    for value in (*graph.input, *graph.output):
        assert [size.dim_value for size in value.type.tensor_type.shape.dim] == [4, 32]


def test_a_dimension_name_is_fixed_everywhere_and_has_one_size():
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[N] a, float[N] b) => (float[N] y) { y = Add(a, b) }'
    model = ir.from_onnx_text(text)
    fix_input_shapes(model, {"a": (3,)})
    assert [list(value.shape) for value in (*model.graph.inputs, *model.graph.outputs)] == [[3], [3], [3]]
    with pytest.raises(QonnxError, match="dimension 'N' sizes 3 and 4"):
        fix_input_shapes(ir.from_onnx_text(text), {"a": (3,), "b": (4,)})


def test_interruption_leaves_nothing_behind(here, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("qonnx.conversion.save", interrupted)
    assert main(["convert", "model.onnx"]) == 130
    assert capsys.readouterr().err.endswith("qonnx: interrupted\n")
    assert written(here) == set()


def test_a_full_disk_is_one_sentence(here, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(28, "No space left on device", "q.onnx")

    monkeypatch.setattr("qonnx.conversion.save", full)
    assert main(["convert", "model.onnx", "-o", "q.onnx"]) == 2
    assert "qonnx: 'q.onnx': No space left on device" in capsys.readouterr().err


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("recipe", ["static-w8a8", "weight-int8", "weight-int4", "dynamic-w8a8"])
def test_what_convert_makes_for_a_target_the_linter_finds_sound(target, recipe, here, capsys):
    data = ["--data", "data.npz"] if recipe.startswith("static") else []
    words = ["convert", "model.onnx", "--recipe", recipe, "--target", target, *data, "--quiet", "--threads", "1"]
    code = main([*words, "-o", "q.onnx"])
    if recipe.startswith("dynamic") and "integer-operator" in TARGETS[target].forbid:
        assert code == 2 and "quantize at run time" in capsys.readouterr().err
        return
    assert code == 0, capsys.readouterr().err
    assert main(["lint", "q.onnx", "--target", target, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row for row in rows if row["severity"] != "hint"] == []

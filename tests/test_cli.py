"""The command line: every verb, bad input, exit codes, misspelt words, and nothing written when it must not be."""

import dataclasses
import io
import json
import os
import subprocess
import sys

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from rich.console import Console

from qonnx.__main__ import main
from qonnx.cli import VERBS
from qonnx.cli.parser import OPTIONS, Parser, add_settings, given_settings
from qonnx.cli.progress import Ticker, ticking
from qonnx.errors import QonnxError
from qonnx.input_shapes import fix_input_shapes
from qonnx.recipe import RECIPES, parse_recipe
from qonnx.runtime import session
from qonnx.settings import Settings
from qonnx.targets import TARGETS

SMALL = """
<ir_version: 8, opset_import: ["": 17]>
agraph (float[N,32] x) => (float[N,32] y)
<float[32,64] w1, float[64] b1, float[64,32] w2>
{
  a = MatMul(x, w1)
  b = Add(a, b1)
  c = Relu(b)
  y = MatMul(c, w2)
}
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A folder with model.onnx (two products, named) and data.npz for it."""
    folder = tmp_path_factory.mktemp("cli")
    draw = np.random.default_rng(0)
    model = ir.from_onnx_text(SMALL.replace("<float[32,64] w1, float[64] b1, float[64,32] w2>", ""))
    free = {value.name: value for node in model.graph for value in node.inputs if value.producer() is None}
    for name, shape in {"w1": (32, 64), "b1": (64,), "w2": (64, 32)}.items():
        value = free[name]
        value.const_value = ir.tensor(draw.normal(size=shape).astype(np.float32), name=name)
        model.graph.register_initializer(value)
    for node, name in zip(model.graph, ("first", "shift", "relu", "second"), strict=True):
        node.name = name
    ir.save(model, folder / "model.onnx")
    np.savez(folder / "data.npz", x=draw.normal(size=(6, 32)).astype(np.float32))
    return folder


@pytest.fixture
def here(source, tmp_path, monkeypatch):
    """An empty current folder with the model and the data beside it."""
    monkeypatch.chdir(tmp_path)
    for name in ("model.onnx", "data.npz"):
        os.link(source / name, tmp_path / name)
    return tmp_path


def written(folder) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"model.onnx", "data.npz"}


def types(path) -> set[str]:
    return {node.op_type for node in onnx.load(path).graph.node}


# ------------------------------------------------------------------------------------------------ words


def test_settings_and_options_are_the_same_list():
    named = [name for rows in OPTIONS.values() for name in rows]
    assert sorted(named) == sorted(field.name for field in dataclasses.fields(Settings))


def parse(*words: str) -> Settings:
    parser = Parser("convert", "x", "")
    add_settings(parser)
    return Settings(**given_settings(parser.parse(words)))


def test_options_given_reach_settings_and_others_keep_their_defaults():
    assert parse() == Settings()
    got = parse(
        "--bits", "4", "--no-per-channel", "--nodes_to_exclude", "a*", "b", "--min_sqnr=30", "-o", "q.onnx", "-f"
    )
    want = Settings(bits=4, per_channel=False, nodes_to_exclude=("a*", "b"), min_sqnr=30.0, output="q.onnx", force=True)
    assert got == want


@pytest.mark.parametrize(
    ("word", "shape"), [("x:1x3x224x224", (1, 3, 224, 224)), ("x:1,3", (1, 3)), ("a:0:2x2", (2, 2)), ("x:7", (7,))]
)
def test_input_shapes(word, shape):
    assert parse("--input-shapes", word).input_shapes == {word.rpartition(":")[0]: shape}


@pytest.mark.parametrize("word", ["x", "x:", "x:1xa", ":3", "x:0x3", "x:-1"])
def test_bad_input_shapes(word):
    with pytest.raises(QonnxError, match="not of the form"):
        parse("--input-shapes", word)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["convrt", "m.onnx"], "did you mean 'convert'?"),
        (["model.onnx"], "qonnx convert model.onnx"),
        (["convert", "m.onnx", "--taget", "qnn"], "did you mean '--target'?"),
        (["convert", "m.onnx", "--percentil=3"], "did you mean '--percentile'?"),
        (["convert", "m.onnx", "--calib"], "unknown option '--calib'"),
        (["convert", "m.onnx", "n.onnx"], "unexpected argument 'n.onnx'"),
        (["convert"], "no model given"),
        (["convert", "m.onnx", "--bits", "many"], "invalid float value: 'many'"),
        (["convert", "m.onnx", "--bits"], "expected one argument"),
        (["convert", "m.onnx", "--bits", "99"], "must lie between"),
        (["convert", "m.onnx", "--calibration-method", "minmax"], "did you mean 'min-max'?"),
        (["convert", "m.onnx", "--percentile", "99", "--calibration-method", "mse"], "has no effect"),
        (["convert", "m.onnx", "--max-float", "2"], "must lie between 0 and 1"),
        (["convert", "m.onnx"], "m.onnx"),
        (["check", "m.onnx", "q.onnx"], "give --data"),
        (["check", "m.onnx"], "required: result"),
        (["inspect", "nowhere.onnx"], "nowhere.onnx"),
        (["lint", "nowhere.onnx"], "nowhere.onnx"),
        (["recipes", "static-w8"], "did you mean 'static-w8a"),
        (["targets", "ortcpu"], "did you mean 'ort-cpu'?"),
        (["doctor", "now"], "unexpected argument 'now'"),
    ],
)
def test_bad_words_are_one_sentence_and_exit_code_2(words, said, here, capsys):
    assert main(words) == 2
    err = capsys.readouterr().err
    assert err.splitlines()[-1].startswith("qonnx: ") and said in err
    assert "Traceback" not in err
    assert written(here) == set()


def test_debug_shows_where_it_came_from(here, capsys):
    assert main(["convert", "nowhere.onnx", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_overview_names_every_verb(capsys):
    assert main(["--help"]) == 0
    overview = capsys.readouterr().out
    assert all(verb in overview and sentence in overview for verb, sentence in VERBS.items())
    assert main([]) == 2
    assert main(["--version"]) == 0


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb, capsys):
    with pytest.raises(SystemExit) as leaving:
        main([verb, "--help"])
    assert leaving.value.code == 0
    assert f"usage: qonnx {verb}" in capsys.readouterr().out


def test_help_does_not_load_the_runtime():
    code = "import sys; from qonnx.__main__ import main; main(['--help']); print('onnxruntime' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")


# ---------------------------------------------------------------------------------------------- convert


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


# -------------------------------------------------------------------------------------------- the others


def test_check_compares_any_two_models(here, capsys):
    assert main(["convert", "model.onnx", "--quiet", "-o", "q.onnx"]) == 0
    words = ["check", "model.onnx", "q.onnx", "--data", "data.npz", "--no-latency", "--no-layers", "--threads", "1"]
    assert main([*words, "--min-sqnr", "20", "--json", "r.json"]) == 0
    assert "SQNR" in capsys.readouterr().out
    assert json.loads((here / "r.json").read_text())["verb"] == "check"
    assert main([*words, "--min-sqnr", "200", "--quiet"]) == 1
    said = capsys.readouterr()
    assert said.out == "" and "the bound is 200 dB" in said.err


def test_top1_counts_right_classes_of_a_labelled_file(here, capsys):
    assert main(["convert", "model.onnx", "--quiet", "-o", "q.onnx"]) == 0
    words = ["check", "model.onnx", "q.onnx", "--no-latency", "--no-layers", "--threads", "1", "--quiet"]
    data = dict(np.load("data.npz"))
    assert main([*words, "--data", "data.npz", "--metric", "top1"]) == 2
    assert "has no label; put an integer array named 'label'" in capsys.readouterr().err
    (chosen,) = (x.argmax(-1).reshape(-1) for x in session("model.onnx").run(None, data))
    label = np.where(np.arange(len(chosen)) < len(chosen) // 2, chosen, chosen + 1)  # half of them wrong
    np.savez("labelled.npz", **data, label=label)
    assert main([*words, "--data", "labelled.npz", "--metric", "top1", "--max-drop", "0.1", "--json", "r.json"]) == 0
    assert json.loads((here / "r.json").read_text())["comparison"]["metric"]["reference"] == 0.5
    assert main([*words, "--data", "labelled.npz"]) == 0
    convert = ["convert", "model.onnx", "--data", "labelled.npz", "--metric", "top1", "--max-drop", "0.1", "--quiet"]
    assert main([*convert, "-o", "q8.onnx", "--json", "q8.json"]) == 0
    assert 0 < json.loads((here / "q8.json").read_text())["comparison"]["metric"]["reference"] < 1


def test_inspect_says_what_is_inside_and_lists_names(here, capsys):
    assert main(["inspect", "model.onnx"]) == 0
    printed = capsys.readouterr().out
    assert "MatMul" in printed and "first" in printed
    assert main(["inspect", "model.onnx", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["operators"]["MatMul"] == 2
    assert main(["inspect", "model.onnx", "--nodes"]) == 0
    assert all(name in capsys.readouterr().out for name in ["second"])
    assert main(["inspect", "model.onnx", "--nodes", "re:s.*", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == ["shift", "second"]
    assert main(["inspect", "model.onnx", "--nodes", "secnd"]) == 2
    assert "did you mean 'second'?" in capsys.readouterr().err


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_listed_shown_and_printed(name, capsys):
    assert main(["recipes"]) == 0
    assert name in capsys.readouterr().out
    assert main(["recipes", name]) == 0
    assert "remove_dead" in capsys.readouterr().out
    assert main(["recipes", name, "--toml"]) == 0
    assert parse_recipe(capsys.readouterr().out, name).steps
    assert main(["recipes", name, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[name]["version"] == 1


def test_a_recipe_of_the_user_runs(here):
    (here / "mine.toml").write_text('extends = "weight-int8"\n[options.solve_weights]\nsolver = "nearest"\n')
    assert main(["convert", "model.onnx", "--recipe", "mine.toml", "--quiet"]) == 0


# ---------------------------------------------------------------------------------------------- progress


def test_no_progress_when_quiet_or_not_on_a_terminal():
    for quiet in (True, False):
        with ticking(quiet=quiet) as ticker:
            assert ticker is None


def test_progress_is_silent_at_first_and_then_says_what_is_done():
    console = Console(record=True, force_terminal=True, width=100, file=io.StringIO())
    slow = Ticker(console, patience=60)
    slow("observe", 1, 9)
    assert slow._task is None
    slow.stop()
    ticker = Ticker(console, patience=0)
    assert list(ticker.track([7, 8], "solve_weights")) == [7, 8]
    ticker.stop()
    assert "solve weights" in console.export_text()

"""The command line: every verb, bad input, exit codes, misspelt words, and nothing written when it must not be."""

import dataclasses
import io
import json
import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console

from qonnx.__main__ import main
from qonnx.cli import VERBS
from qonnx.cli.parser import OPTIONS, Parser, add_settings, given_settings
from qonnx.cli.progress import Ticker, ticking
from qonnx.errors import QonnxError
from qonnx.recipe import RECIPES, parse_recipe
from qonnx.runtime import session
from qonnx.settings import Settings

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
    assert {path.name for path in here.iterdir()} == {"model.onnx", "data.npz"}


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

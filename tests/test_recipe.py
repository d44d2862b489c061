"""Recipes: what is read, what is refused and how, what reaches a pass, and laws over the presets."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import onnx_ir as ir
import pytest

from qonnx.errors import QonnxError
from qonnx.passes import PASSES, SPELLING, Change, Pass
from qonnx.recipe import OVERRIDES, RECIPES, Recipe, Step, choose_recipe, parse_recipe, recipe
from qonnx.settings import Settings
from qonnx.targets import TARGETS

MODEL = """
<ir_version: 8, opset_import: ["": 17]>
agraph (float[2] x) => (float[2] y) { a = Relu(x) y = Neg(a) }
"""


@dataclasses.dataclass
class Mark(Pass):
    """Write down what it was given."""

    target: Any
    sign: str = "!"
    times: int = 1
    ratio: float = 0.5
    names: tuple[str, ...] = ()
    progress: Callable[[int], None] | None = None

    tolerance = 0.0
    seen: ClassVar[list] = []

    def changes(self, model):
        self.seen.append(self)
        for index in range(self.times):
            if self.progress is not None:
                self.progress(index + 1)
            yield Change("y", self.sign)


@dataclasses.dataclass
class Study(Pass):
    """Needs data."""

    data: Any
    threads: int | None = None
    libraries: tuple[str, ...] = ()
    needs = ("mark | stamp",)

    def changes(self, model):
        Mark.seen.append((list(self.data), self.threads, self.libraries))
        yield from ()


@pytest.fixture(autouse=True)
def two_passes(monkeypatch):
    monkeypatch.setitem(PASSES, "mark", Mark)
    monkeypatch.setitem(PASSES, "study", Study)
    Mark.seen.clear()


def model() -> ir.Model:
    return ir.from_onnx_text(MODEL)


@pytest.mark.parametrize("name", RECIPES)
def test_presets_read_check_and_survive_a_round_trip(name):
    one = recipe(name)
    assert one.title and one.steps
    again = parse_recipe(one.to_toml(), name)
    assert again == one
    assert again.to_dict() == one.to_dict()


@pytest.mark.parametrize("name", RECIPES)
def test_presets_say_by_their_name_what_they_need_and_do(name):
    one = recipe(name)
    assert one.needs_data == (
        name.startswith(("static", "vit", "llm", "weight-codebook")) or name.endswith("calibrated")
    )
    assert one.quantizes == (name not in ("spell-only", "read-quantized"))


@pytest.mark.parametrize("setting", OVERRIDES)
def test_overrides_name_settings_passes_and_options_that_exist(setting):
    assert setting in {field.name for field in dataclasses.fields(Settings)}
    for name, option, _ in OVERRIDES[setting]:
        fields = {field.name for field in dataclasses.fields(PASSES[name])}
        assert (option or "settings") in fields


def test_group_expands_and_options_reach_the_pass():
    text = 'title = "t"\npasses = ["spell", "mark"]\n[options.mark]\nsign = "?"\nnames = ["a"]\nratio = 1\ntimes = 3\n'
    one = parse_recipe(text, "mine")
    assert [step.name for step in one.steps] == [*SPELLING, "mark"]
    records = one.run(model(), target=TARGETS["ort-cpu"])
    assert [record.name for record in records] == [*SPELLING, "mark"]
    assert records[-1].changes == 3 and records[-1].details[0] == "y: ?"
    (mark,) = Mark.seen
    assert (mark.sign, mark.names, mark.ratio, mark.target) == ("?", ("a",), 1.0, TARGETS["ort-cpu"])


def test_injected_fields_come_from_settings():
    one = Recipe("mine", "t", (Step("mark"), Step("study")))
    settings = Settings(threads=3, custom_op_library=("lib.so",))
    one.run(model(), target=TARGETS["onnx"], data=[1, 2], settings=settings)
    assert Mark.seen[1] == ([1, 2], 3, ("lib.so",))


def test_progress_and_record_are_told():
    told, records = [], []
    one = Recipe("mine", "t", (Step("mark", {"times": 2}),))
    one.run(
        model(), target=TARGETS["onnx"], data=[0, 0], progress=lambda *word: told.append(word), record=records.append
    )
    assert told == [("mark", 0, None), ("mark", 1, 2), ("mark", 2, 2)]
    assert [record.changes for record in records] == [2]


def test_extends_inherits_passes_and_options(tmp_path):
    base = tmp_path / "base.toml"
    base.write_text('passes = ["mark"]\n[options.mark]\nsign = "?"\ntimes = 2\n')
    one = parse_recipe(f'extends = "{base}"\n[options.mark]\ntimes = 5\n', "child")
    assert one.steps == (Step("mark", {"sign": "?", "times": 5}),)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('passes = ["spel"]', "did you mean 'spell'?"),
        ('passes = ["mrak"]', "did you mean 'mark'?"),
        ('passes = ["mark"]\n[options.mark]\nsing = "?"', "unknown option 'sing' of pass 'mark' in recipe 'mine'"),
        ('passes = ["mark"]\n[options.mark]\ntarget = "x"', "unknown option 'target'"),
        ('passes = ["mark"]\n[options.mark]\ntimes = "2"', "must be a whole number"),
        ('passes = ["mark"]\n[options.mark]\ntimes = true', "must be a whole number"),
        ('passes = ["mark"]\n[options.mark]\nnames = [1]', "must be a list, each entry a string"),
        ('passes = ["mark"]\n[options.study]\nthreads = 2', "which is not among its passes"),
        ('pases = ["mark"]', "did you mean 'passes'?"),
        ('title = "t"', "has no passes"),
        ('version = 2\npasses = ["mark"]', "version 2"),
        ('passes = ["study", "mark"]', "needs 'mark | stamp' before it"),
        ("passes =", "is not TOML"),
        ('extends = "static-w8a9"', "did you mean 'static-w8a"),
        ('extends = "nowhere.toml"', "cannot be read"),
    ],
)  # fmt: skip
def test_faults_are_named_before_any_work(text, said):
    with pytest.raises(QonnxError, match=said.replace("?", r"\?").replace("|", r"\|")):
        parse_recipe(text, "mine")
    assert not Mark.seen


def test_a_recipe_that_needs_data_says_so_before_any_work():
    one = Recipe("mine", "t", (Step("mark"), Step("study")))
    with pytest.raises(QonnxError, match="needs calibration data for its pass 'study'"):
        one.run(model(), target=TARGETS["onnx"])
    assert not Mark.seen


def test_user_options_reach_passes_or_are_refused():
    one = recipe("static-w8a8").override(Settings(percentile=99.5, per_channel=False))
    options = {step.name: step.options for step in one.steps}
    assert options["assign"] == {
        **options["assign"],
        "method": "percentile",
        "percentile": 99.5,
        "granularity": "tensor",
    }
    assert options["observe"]["histogram"] is True
    with pytest.raises(QonnxError, match="--calibration-method has no effect in recipe 'spell-only'"):
        recipe("spell-only").override(Settings(calibration_method="mse"))


def test_override_leaves_the_preset_as_it_was():
    one = recipe("static-w8a8")
    before = one.to_dict()
    one.override(Settings(percentile=99.5))
    assert one.to_dict() == before


def test_choice_without_a_wish_depends_on_data():
    assert choose_recipe(Settings(), has_data=True).name == "static-w8a8"
    assert choose_recipe(Settings(), has_data=False).name == "weight-int8"
    assert choose_recipe(Settings(recipe="spell-only"), has_data=True).name == "spell-only"


def test_toml_strings_survive(tmp_path):
    nasty = 'a "b" \\ c\n\té€'
    one = Recipe("mine", nasty, (Step("mark", {"sign": nasty, "ratio": 1e-9, "names": ("x", nasty)}),))
    assert parse_recipe(one.to_toml(), "mine").to_dict() == {
        **one.to_dict(),
        "options": {"mark": {"sign": nasty, "ratio": 1e-9, "names": ["x", nasty]}},
    }

"""Reports: JSON round trip, a page that asks nobody for anything, a terminal view that says the figures."""

from __future__ import annotations

import dataclasses
import html.parser
import io
import json
import math
import re

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper
from rich.console import Console

from qonnx import notes, report_html, report_terminal
from qonnx.compare import compare
from qonnx.comparison import Bounds
from qonnx.errors import QonnxError
from qonnx.ledger import ledger, summary
from qonnx.model import load
from qonnx.passes import Change
from qonnx.records import from_plain, to_plain
from qonnx.report import Report, timed

FLOAT = """<ir_version: 8, opset_import: ["": 17]>
net (float[N, 8] x) => (float[N, 4] y) { [<b>"&first] h = MatMul(x, w) [relu] a = Relu(h) [last] y = MatMul(a, v) }"""
NAME = '<b>"&first'  # a name that breaks a page which does not escape it
QUANTIZED = """<ir_version: 8, opset_import: ["": 17]>
net (float[N, 8] x) => (float[N, 4] y) {
  xq = QuantizeLinear(x, s, z) xd = DequantizeLinear(xq, s, z)
  wd = DequantizeLinear(wq, ws, wz) [first] h = MatMul(xd, wd) [relu] a = Relu(h) [last] y = MatMul(a, v) }"""


def saved(text: str, arrays: dict, path, name: str) -> str:
    model = onnx.parser.parse_model(text.replace(f"[{NAME}]", "[first]"))
    model.graph.node[[n.name for n in model.graph.node].index("first")].name = name
    model.graph.initializer.extend(numpy_helper.from_array(array, key) for key, array in arrays.items())
    onnx.save(model, path)
    return str(path)


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Report:
    folder, rng = tmp_path_factory.mktemp("report"), np.random.default_rng(2)
    w, v = (rng.normal(size=shape).astype(np.float32) for shape in ((8, 6), (6, 4)))
    scale = np.abs(w).max() / np.float32(127)
    codes = np.rint(w / scale).astype(np.int8)
    numbers = {"s": np.float32(0.03), "z": np.uint8(128), "ws": np.float32(scale), "wz": np.int8(0), "wq": codes}
    before = saved(FLOAT, {"w": w, "v": v}, folder / "net.onnx", NAME)
    after = saved(QUANTIZED, {**{k: np.asarray(a) for k, a in numbers.items()}, "v": v}, folder / "net.q.onnx", NAME)
    data = [{"x": rng.normal(size=(3, 8)).astype(np.float32)} for _ in range(3)]
    made = compare(before, after, data, threads=1, bounds=Bounds(min_sqnr=500))
    started = Report.start(before, target="ort-cpu", recipe={"bits": 8, "path": folder, "limit": math.inf})
    with timed("quantize") as step:
        step.changes = [Change("first", "u8 × s8"), Change("last", "left alone")]
    started = started.with_step(step.record).with_warning("the data is made up")
    return started.finish(after, model=load(after), comparison=made)


def test_json_round_trip(report):
    assert Report.from_json(report.to_json()) == report
    plain = json.loads(report.to_json())
    assert plain["schema"] == "qonnx-report/1"
    assert plain["steps"][0]["changes"] == 2 and plain["steps"][0]["details"][0] == "first: u8 × s8"
    json.loads(report.to_json(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_other_schemas_and_fields_are_errors(report):
    with pytest.raises(QonnxError, match="qonnx-report/9"):
        Report.from_json(report.to_json().replace("qonnx-report/1", "qonnx-report/9"))
    with pytest.raises(QonnxError, match="unknown field 'surprise'"):
        Report.from_json(report.to_json().replace('"verb":', '"surprise": 1, "verb":'))
    with pytest.raises(QonnxError, match="not a JSON report"):
        Report.from_json("<html>")


@dataclasses.dataclass(frozen=True)
class Sample:
    number: float
    maybe: float | None
    table: dict[str, float]
    rows: tuple[str, ...] = ()


@pytest.mark.parametrize("number", [0.0, -1.5, math.inf, -math.inf, 1e-300])
def test_records_survive_json(number):
    sample = Sample(number, None, {"a": number}, ("x", "y"))
    text = json.dumps(to_plain(sample), allow_nan=False)
    assert from_plain(Sample, json.loads(text)) == sample


class Page(html.parser.HTMLParser):
    """Collects tags and text, and fails on a tag that is closed out of order."""

    void = frozenset({"meta", "input", "br", "line", "rect", "circle", "polyline", "path"})

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.text, self.attributes = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        if tag not in self.void:
            assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def page(report) -> tuple[str, Page]:
    text = report_html.render(report)
    parser = Page()
    parser.feed(text)
    parser.close()
    assert not parser.open
    return text, parser


def test_page_is_self_contained(page):
    text, parser = page
    assert not re.search(r"https?://|//[a-z]", text.replace("// Tables of", ""))
    assert not {"link", "img", "iframe", "object"} & set(parser.tags)
    assert not [value for name, value in parser.attributes if name in ("src", "href", "srcset")]
    assert "@import" not in text and "url(" not in text


def test_page_shows_every_ledger_row_and_plot(report, page):
    text, parser = page
    shown = set(parser.text)
    assert report.ledger and all(row.node in shown for row in report.ledger)
    assert text.count("<svg") >= 4  # layers, tensors, sizes, latency
    assert report.broken[0] in " ".join(parser.text)
    assert "the data is made up" in shown
    assert '<b>"&first' not in text  # names of nodes are escaped


def test_terminal_says_the_headline_and_what_is_broken(report):
    out = io.StringIO()
    report_terminal.render(report, Console(file=out, width=100))
    text = out.getvalue()
    for words in ("size on disk", "latency", "SQNR", "bits per weight", "500 dB", "the data is made up", "net.q.onnx"):
        assert words in text
    assert max(map(len, text.splitlines())) <= 100


def test_write_chooses_the_form_by_the_name(report, tmp_path):
    report.write(tmp_path / "r.json")
    report.write(tmp_path / "r.html")
    assert Report.from_json((tmp_path / "r.json").read_text(encoding="utf-8")) == report
    assert (tmp_path / "r.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert {path.name for path in tmp_path.iterdir()} == {"r.json", "r.html"}
    with pytest.raises(QonnxError, match="cannot write"):
        report.write(tmp_path / "missing" / "r.json")


def test_a_report_without_comparison_renders(report):
    bare = dataclasses.replace(report, comparison=None)
    assert "net.onnx" in report_html.render(bare)
    out = io.StringIO()
    report_terminal.render(bare, Console(file=out, width=100))
    assert "net.onnx" in out.getvalue()


def test_ledger_prefers_the_fates_that_passes_noted():
    model = ir.from_onnx_text(FLOAT.replace(NAME, "first"))
    assert summary(ledger(model)) == [("left-float", 2)]
    first, _, last = model.graph
    notes.done(first, "u8 × s8")
    notes.skip(last, "excluded", "last")
    rows = ledger(model)
    assert [(row.node, row.state, row.reason) for row in rows] == [
        ("first", "done", ""),
        ("last", "skipped", "excluded"),
    ]
    assert summary(rows) == [("done", 1), ("excluded", 1)]

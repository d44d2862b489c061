"""A model in several runtimes: the exchange folder, the table, what is missing, what fails, and bounds."""

from __future__ import annotations

import json
import pathlib
import urllib.error
import urllib.request

import numpy as np
import onnx_ir as ir
import pytest

from models import digits
from models.tiny import build, inputs
from qonnx import oracles
from qonnx.__main__ import main
from qonnx.conversion import convert
from qonnx.errors import QonnxError
from qonnx.everywhere import JUDGE, markdown, run_everywhere
from qonnx.runtimes import RUNTIMES, worker
from qonnx.runtimes.browser import NO_BROWSER, browsing, find_browser, served
from qonnx.runtimes.exchange import Job, Result, counts, read_job, read_result, write_error
from qonnx.runtimes.ort import arithmetic
from tests import test_kernels_low_rank
from tests.low_bit_cases import model_of, weight_of

NETWORK = """
<ir_version: 10, opset_import: ["": 21]>
g (float[N,3,16,16] x, float[8,3,3,3] w1, float[8] b1, float[8,10] w2) => (float[N,10] y)
{
  a = Conv<pads = [1,1,1,1], strides = [2,2]>(x, w1, b1)
  b = Relu(a)
  c = GlobalAveragePool(b)
  d = Flatten(c)
  e = MatMul(d, w2)
  y = Softmax<axis = -1>(e)
}
"""
ABSENT = {name: r.missing(None) for name, r in RUNTIMES.items()}


OTHERS = ("openvino", "ort-node", "ort-web", "ort-web-2", "litert")


def needs(name: str):
    return pytest.mark.skipif(bool(ABSENT[name]), reason=f"{name}: {ABSENT[name]}")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """(float file, W8A8 file, samples)."""
    folder = tmp_path_factory.mktemp("runtimes")
    model = build(NETWORK)
    ir.save(model, folder / "float.onnx")
    samples = [inputs(model, seed, open_dimension=1) for seed in range(4)]
    convert(folder / "float.onnx", data=samples, output=folder / "w8a8.onnx", quiet=True)
    np.savez(folder / "data.npz", x=np.concatenate([sample["x"] for sample in samples]))
    return folder / "float.onnx", folder / "w8a8.onnx", samples


@pytest.fixture(scope="module")
def low_bit(tmp_path_factory):
    """A 3-bit product of ai.qonnx with its function, and a sample."""
    path = tmp_path_factory.mktemp("lowbit") / "low.onnx"
    model = model_of("MatMulLowBit", weight_of("b3", 24, 64, 32))
    ir.save(model, path)
    return path, [inputs(model, 1)]


# ------------------------------------------------------------------------------------------------ the folder


def test_jobs_and_results_come_back_as_they_went(tmp_path):
    sample = {"a": np.arange(6, dtype=np.float16).reshape(2, 3), "b": np.array([True, False]), "c": np.array(7)}
    job = Job(tmp_path, "ort", "m.onnx", (sample, sample), ("y",), 2, 0.5, ("lib.so",))
    job.write()
    again = read_job(tmp_path)
    assert (again.runtime, again.outputs, again.threads, again.libraries) == ("ort", ("y",), 2, ("lib.so",))
    for name, array in sample.items():
        assert again.samples[1][name].dtype == array.dtype
        np.testing.assert_array_equal(again.samples[1][name], array)
    Result(0.1, (0.2, 0.3), None, "", "x 1", (sample,)).write(tmp_path)
    found = read_result(tmp_path, "it")
    assert (found.seconds, found.memory, found.version) == ((0.2, 0.3), None, "x 1")
    np.testing.assert_array_equal(found.samples[0]["a"], sample["a"])


def test_what_a_runtime_says_is_an_error_and_silence_too(tmp_path):
    with pytest.raises(QonnxError, match="ended without a result"):
        read_result(tmp_path, "it")
    write_error(tmp_path, "no kernel\nfor Foo")
    with pytest.raises(QonnxError, match="no kernel for Foo"):
        read_result(tmp_path, "it")


def test_every_python_runtime_has_a_module_and_every_module_a_runtime():
    files = {path.stem for path in pathlib.Path(worker.__file__).parent.glob("*.py")}
    assert set(worker.MODULES) <= set(RUNTIMES)
    assert set(worker.MODULES.values()) <= files


def test_arithmetic_counts_products():
    assert arithmetic(["QLinearConv", "Add", "QLinearConv", "MatMul"]) == "2 QLinearConv; float: 1 MatMul"
    assert counts(["a", "b", "b"]) == "2 b, 1 a"
    assert arithmetic(["Add"]) == "no products"


# ------------------------------------------------------------------------------------------------ the table


def test_onnx_runtime_and_the_specification_agree(pair):
    reference, result, samples = pair
    rows = {r.runtime: r for r in run_everywhere(reference, result, samples, [JUDGE, "ort", "reference"], seconds=0.01)}
    assert all(row.state == "ran" for row in rows.values()), rows
    assert rows[JUDGE].agreement.sqnr_db == np.inf and rows[JUDGE].agreement.max_abs == 0
    for name in ("ort", "reference"):
        assert rows[name].agreement.sqnr_db > 30
        assert rows[name].top1 >= 0.75
    assert "QLinearConv" in rows["ort"].fused and rows[JUDGE].fused == "nothing, as asked"
    assert rows["ort"].float_sqnr_db == pytest.approx(rows[JUDGE].float_sqnr_db, abs=6)
    assert 0 < rows["ort"].seconds < 60
    text = markdown(list(rows.values()))
    assert text.count("\n") == 5 and "| ort (onnxruntime" in text


def test_our_operators_run_by_their_functions_where_the_library_is_not(low_bit):
    path, samples = low_bit
    rows = run_everywhere(None, path, samples, ["ort", "ort-portable", "reference"], seconds=0.01)
    assert [row.state for row in rows] == ["ran"] * 3, rows
    assert all(row.agreement.sqnr_db > 90 for row in rows)
    assert all(row.float_sqnr_db is None for row in rows)
    assert "MatMul" in rows[1].fused and "LowBit" not in rows[1].fused


def test_overloads_of_one_operator_run_in_the_specification(tmp_path, monkeypatch):
    """onnx.reference knows functions by domain and name only: products with and without a low-rank branch are two."""
    weight, rng = weight_of("b3", 24, 64, 32), np.random.default_rng(3)
    a, b = (rng.standard_normal(shape).astype(np.float32) / 4 for shape in ((64, 3), (3, 24)))
    model = test_kernels_low_rank.model_of("MatMulLowBit", weight, a, b, plain_too=True)
    assert len({function.overload for function in model.functions.values()}) == 2
    ir.save(model, tmp_path / "branch.onnx")
    sample = {"x": rng.standard_normal((3, 64)).astype(np.float32)}
    (row,) = run_everywhere(None, tmp_path / "branch.onnx", [sample], ["reference"], seconds=0.01)
    assert row.state == "ran" and row.agreement.sqnr_db > 90, row.note
    for macs in (None, -1):  # the whole model, then node by node
        if macs is not None:
            monkeypatch.setattr(oracles, "_WHOLE_MACS", macs)
        gaps, coverage = oracles.against_reference(model, sample, {})
        assert {gap.tensor for gap in gaps} == ({"y", "plain"} if macs is None else {"product", "plain"}), coverage
        assert all(gap.figures.sqnr_db > 90 for gap in gaps), gaps


@pytest.mark.runtimes
@pytest.mark.parametrize("name", OTHERS)
def test_other_runtimes_agree(name, pair, low_bit):
    if ABSENT[name]:
        pytest.skip(ABSENT[name])
    (row,) = run_everywhere(*pair, [name], seconds=0.01)
    assert row.state == "ran", row.note
    assert row.agreement.sqnr_db > 30 and row.top1 == 1
    path, samples = low_bit
    (row,) = run_everywhere(None, path, samples, [name], seconds=0.01)
    if name == "litert":
        assert row.state == "failed" and "ONNX_POW" in row.note, "it has no powers of integers"
        return
    assert row.state == "ran", row.note
    assert row.agreement.sqnr_db > 90


@pytest.mark.runtimes
@needs("ncnn")
def test_ncnn_runs_floats_and_names_what_it_does_not_know(pair):
    reference, result, samples = pair
    (row,) = run_everywhere(None, reference, samples, ["ncnn"], seconds=0.01)
    assert row.state == "ran" and row.agreement.sqnr_db > 30, row.note
    (row,) = run_everywhere(None, result, samples, ["ncnn"], seconds=0.01)
    assert row.state == "failed" and "QuantizeLinear" in row.note


def test_what_is_missing_says_how_to_get_it(pair, tmp_path, monkeypatch):
    monkeypatch.delenv("QONNX_NODE_MODULES", raising=False)
    monkeypatch.chdir(tmp_path)
    rows = run_everywhere(*pair, ["ort-node", "ort-web", "tensorrt"], node_modules=tmp_path)
    for row in rows:
        if row.state == "missing":
            assert "install" in row.note
    assert rows[0].state == "missing", "there is no package in that folder"
    with pytest.raises(QonnxError, match="nowhere' is not a folder"):
        run_everywhere(*pair, ["ort-node"], node_modules=tmp_path / "nowhere")


@pytest.fixture(scope="module", params=["static-w8a8", "vit-w8a8-qdq", "weight-int4"])
def trained(request, tmp_path_factory):
    """(float file, converted file) of the digits network or transformer."""
    source = digits.CNN if request.param == "static-w8a8" else digits.VIT
    images = [] if request.param == "weight-int4" else digits.samples("calibration", 24)[0]
    result = tmp_path_factory.mktemp("trained") / "q.onnx"
    data = [{digits.INPUT: image[None]} for image in images] or None
    convert(source, data=data, recipe=request.param, output=result, quiet=True, threads=1)
    return source, result


@pytest.mark.runtimes
@pytest.mark.parametrize("name", OTHERS)
def test_trained_models_choose_alike_in_other_runtimes(name, trained):
    if ABSENT[name]:
        pytest.skip(ABSENT[name])
    images = [{digits.INPUT: image[None]} for image in digits.samples("evaluation", 12)[0]]
    (row,) = run_everywhere(*trained, images, [name], samples=12, seconds=0.01)
    assert row.state == "ran", row.note
    assert row.top1 == 1 and row.agreement.sqnr_db > 30, row


def test_what_a_converter_says_is_the_reason(pair, tmp_path, monkeypatch):
    """onnx2tf ends with success on what it does not know; its words, without colours, are the row."""
    monkeypatch.setenv("QONNX_LITERT", str(tmp_path))
    assert "litert/bin/pip install onnx2tf" in RUNTIMES["litert"].missing(None)
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "onnx2tf"
    program.write_text("#!/bin/sh\nprintf '\\033[31mERROR:\\033[0m OP Foo is unsupported\\nbye\\n'\n")
    program.chmod(0o755)
    (row,) = run_everywhere(*pair, ["litert"])
    assert (row.state, row.note) == ("failed", "onnx2tf does not convert it: ERROR: OP Foo is unsupported")
    program.write_text("#!/bin/sh\nmkdir converted\ntouch converted/model_float32.tflite\n")
    (tmp_path / "bin" / "python").write_text("#!/bin/sh\necho no interpreter >&2\nexit 4\n")
    (tmp_path / "bin" / "python").chmod(0o755)
    (row,) = run_everywhere(*pair, ["litert"])
    assert (row.state, row.note) == ("failed", "it ended the process (exit code 4): no interpreter")


def test_an_old_node_and_a_browser_that_is_not_there_are_missing(monkeypatch, tmp_path):
    (tmp_path / "node").write_text("#!/bin/sh\necho v12.22.9\n")
    (tmp_path / "node").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "node is v12.22.9; install Node.js 18" in RUNTIMES["ort-node"].missing(tmp_path)
    monkeypatch.setenv("QONNX_BROWSER", str(tmp_path / "nothing"))
    assert RUNTIMES["ort-web"].missing(tmp_path) == NO_BROWSER


def test_operators_beyond_the_specification_are_named(tmp_path):
    head = '<ir_version: 10, opset_import: ["": 21, "com.microsoft": 1]>'
    ir.save(
        ir.from_onnx_text(f"{head}\ng (float[2] x) => (float[2] y) {{ y = com.microsoft.Gelu(x) }}"),
        tmp_path / "g.onnx",
    )
    rows = run_everywhere(None, tmp_path / "g.onnx", [{"x": np.ones(2, np.float32)}], ["reference"], seconds=0.01)
    assert rows[0].state == "failed"
    assert "com.microsoft.Gelu" in rows[0].note and "--variant standard" in rows[0].note


def test_a_process_that_dies_is_a_row(pair, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setattr("sys.executable", "/bin/false")
    (row,) = run_everywhere(*pair, ["ort"], seconds=0.01)
    assert row.state == "failed" and "exit code 1" in row.note


def test_unknown_runtimes_and_no_samples_are_sentences(pair):
    with pytest.raises(QonnxError, match="did you mean 'openvino'"):
        run_everywhere(*pair, ["openvin"])
    with pytest.raises(QonnxError, match="no samples"):
        run_everywhere(pair[0], pair[1], [], ["ort"])


# ------------------------------------------------------------------------------------------------ the command


def test_the_command_shows_the_table_and_holds_bounds(pair, tmp_path, capsys):
    reference, result, _ = pair
    words = ["check", str(reference), str(result), "--data", str(reference.parent / "data.npz"), "--runtime", "ort"]
    words += ["--samples", "2", "--threads", "1"]
    assert main([*words, "--min-sqnr", "20", "--json", str(tmp_path / "rows.json")]) == 0
    assert "QLinearConv" in capsys.readouterr().out
    (row,) = json.loads((tmp_path / "rows.json").read_text())
    assert row["runtime"] == "ort" and row["state"] == "ran"
    assert main([*words, "--min-sqnr", "400", "--quiet"]) == 1
    assert "the bound is 400 dB" in capsys.readouterr().err
    assert main([*words, "--max-size", "0.5"]) == 2
    assert "--max-size has no effect with --runtime" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------ the browser


@pytest.mark.runtimes
@pytest.mark.skipif(find_browser() is None, reason=NO_BROWSER)
def test_a_page_is_isolated_and_can_answer(tmp_path):
    """Threads of WebAssembly need cross-origin isolation: two headers of the server."""
    (tmp_path / "page.html").write_text(
        "<script>fetch('/post/result.json', {method: 'POST', body: String(crossOriginIsolated)})</script>"
    )
    with served({"": tmp_path, "post": tmp_path}) as (address, done), browsing(f"{address}/page.html"):
        assert done.wait(60)
    assert (tmp_path / "result.json").read_text() == "true"


def test_the_server_gives_files_of_its_folders_only(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.wasm").write_bytes(b"x")
    (tmp_path / "secret").write_text("no")
    with served({"in": tmp_path / "in"}) as (address, _):
        with urllib.request.urlopen(f"{address}/in/a.wasm") as answer:
            assert answer.read() == b"x" and answer.headers["Content-Type"] == "application/wasm"
        for path in ("/in/..%2fsecret", "/in/../secret", "/secret"):
            with pytest.raises(urllib.error.HTTPError):
                urllib.request.urlopen(address + path)
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(urllib.request.Request(f"{address}/post/x", data=b"y", method="POST"))

"""Weights solved by executors and worker processes, kept on disk: the same codes, nothing solved twice."""

import concurrent.futures
import dataclasses
import os

import numpy as np
import onnx_ir as ir
import pytest

from models.tiny import build
from qonnx.codebooks import CODEBOOKS
from qonnx.conversion import convert
from qonnx.errors import QonnxError
from qonnx.formats import FORMATS, TABLES
from qonnx.notes import note
from qonnx.passes import solve_jobs
from qonnx.passes.assign_weights import AssignWeights
from qonnx.passes.observe import Observe
from qonnx.passes.solve_jobs import Job, solved
from qonnx.passes.solve_weights import SolveWeights
from qonnx.solvers import Layout
from qonnx.targets import TARGETS

NET = """<ir_version: 13, opset_import: ["": 25]> g (float[N,64] x, float[64,96] w1, float[48,96] w2, float[48,48] w3)
    => (float[N,48] y) { a = MatMul(x, w1)  b = Relu(a)  c = Gemm<transB = 1>(b, w2)  d = Tanh(c)  e = MatMul(d, w3)
    y = MatMul(e, w3) }"""


def jobs(seed: int = 0) -> list[Job]:
    generator, found = np.random.default_rng(seed), []
    for shape, format in (
        ((64, 24), dataclasses.replace(FORMATS["u4"], granularity="block", block=16)),
        ((32, 8), dataclasses.replace(FORMATS["s8"], granularity="channel")),
        ((48, 40), TABLES["nf4"]),
        ((64, 24), dataclasses.replace(FORMATS["u4"], granularity="block", block=16, scale_fraction=10)),
        ((16, 8), FORMATS["s2"]),
    ):
        x = generator.normal(size=(200, shape[0]))
        weight = generator.normal(size=shape).astype(np.float32)
        gram = (x.T @ x)[None].astype(np.float32)
        found.append(Job(weight, Layout("MatMul", shape), format, ir.DataType.FLOAT, "gptq", gram))
    return found


def same(one, other) -> bool:
    fields = ("codes", "scale", "zero_point", "axis")
    return one.format == other.format and all(
        np.array_equal(np.asarray(getattr(one, f)), np.asarray(getattr(other, f))) for f in fields
    )


def test_executors_give_what_this_process_gives_in_order():
    here = list(solved(jobs()))
    with concurrent.futures.ThreadPoolExecutor(3) as threads:
        there = list(solved(jobs(), threads, under_way=2))
    assert len(here) == len(there) == 5 and all(map(same, here, there))


def test_no_more_jobs_are_under_way_than_allowed():
    class Counting:
        most = open = 0

        def submit(self, function, job):
            self.open += 1
            self.most = max(self.most, self.open)
            future = concurrent.futures.Future()
            result = function(job)
            future.result = lambda timeout=None: (setattr(self, "open", self.open - 1), result)[1]
            return future

    counting = Counting()
    assert len(list(solved(jobs() + jobs(1), counting, under_way=3))) == 10
    assert counting.most == 3 and counting.open == 0


def test_a_stopped_run_goes_on_where_it_was(tmp_path, monkeypatch):
    first = solved(jobs(), folder=tmp_path)
    begun = [next(first) for _ in range(3)]
    first.close()
    ran = []
    run = Job.run
    monkeypatch.setattr(solve_jobs.Job, "run", lambda job: (ran.append(job), run(job))[1])
    again = list(solved(jobs(), folder=tmp_path))
    assert len(ran) == 2 and all(map(same, begun, again[:3]))
    assert all(one.codes.dtype == job.format.numpy_dtype for one, job in zip(again, jobs(), strict=True))
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("change", ["weight", "gram", "solver", "format", "dtype"])
def test_another_job_finds_nothing(change):
    job = jobs()[0]
    other = {
        "weight": job.weight + np.float32(1e-6),
        "gram": job.gram * np.float32(1.0001),
        "solver": "nearest",
        "format": dataclasses.replace(job.format, block=32),
        "dtype": ir.DataType.FLOAT16,
    }
    assert dataclasses.replace(job, **{change: other[change]}).digest() != job.digest() == jobs()[0].digest()


def test_worker_processes_multiply_on_one_thread_each(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    with solve_jobs.executor_for(2, None) as pool:
        assert pool.submit(os.getenv, "OMP_NUM_THREADS").result() == "1"
    assert os.environ["OMP_NUM_THREADS"] == "5" and "MKL_NUM_THREADS" not in os.environ


def test_worker_processes_solve_a_model():
    feeds = [{"x": np.random.default_rng(i).normal(size=(50, 64)).astype(np.float32)} for i in range(2)]
    results = []
    for solver in (SolveWeights("gptq"), SolveWeights("gptq", workers=2)):
        model = build(NET)
        Observe(feeds, gram=True)(model)
        AssignWeights(TARGETS["ort-cpu"], bits=4)(model)
        assert len(solver(model).changes) == 4
        results.append([note(node).solved for node in model.graph if note(node).solved is not None])
    assert all(map(same, *results))


def test_no_workers_are_refused():
    with pytest.raises(QonnxError, match="0 workers"):
        SolveWeights(workers=0)


def test_rows_of_a_matrix_are_shared_out_and_put_together_again():
    generator = np.random.default_rng(3)
    x = generator.normal(size=(300, 96))
    gram = (x.T @ x)[None].astype(np.float32)
    for op, transposed, shape in (("MatMul", False, (96, 200)), ("Gemm", True, (200, 96))):
        for format in (
            dataclasses.replace(FORMATS["u4"], granularity="block", block=32),
            dataclasses.replace(FORMATS["s8"], granularity="channel"),
            TABLES["nf4"],
        ):
            weight = generator.normal(size=shape).astype(np.float32)
            job = Job(weight, Layout(op, shape, transposed=transposed), format, ir.DataType.FLOAT, "nearest", gram)
            parts = solve_jobs.split(job, 3)
            assert [part.layout.shape for part in parts] == [part.weight.shape for part in parts] and len(parts) == 3
            assert same(solve_jobs.joined([part.run() for part in parts], job.layout), job.run())
            careful = dataclasses.replace(job, solver="gptq")
            errors = []
            for solution in (careful.run(), *solve_jobs.in_parts([careful], Here(), 3, None)):
                apart = careful.layout.to_rows(weight - solution.decode())[0]
                errors.append(np.einsum("rk,kl,rl->", apart, gram[0], apart))
            assert errors[1] == pytest.approx(errors[0], rel=0.01)


class Here:
    """An executor that runs at once."""

    def submit(self, function, job):
        future = concurrent.futures.Future()
        future.set_result(function(job))
        return future


def test_rows_that_belong_together_stay_together():
    job = jobs()[0]
    assert solve_jobs.split(job, 8) == [job]  # 24 rows
    wide = Job(np.zeros((64, 512), np.float32), Layout("MatMul", (64, 512)), FORMATS["u4"], ir.DataType.FLOAT, "gptq")
    assert solve_jobs.split(wide, 8) == [wide]  # one scale for all
    books = dataclasses.replace(wide, format=CODEBOOKS["1x8v4"])
    assert solve_jobs.split(books, 8) == [books]
    channels = dataclasses.replace(wide, format=dataclasses.replace(FORMATS["u4"], granularity="channel"))
    assert len(solve_jobs.split(channels, 8)) == 8 and len(solve_jobs.split(channels, 99)) == 8


@pytest.mark.parametrize("name", ["1x8v4", "vptq-2x8v8"])
def test_code_books_are_kept_too(name, tmp_path, monkeypatch):
    weight = np.random.default_rng(5).normal(size=(64, 64)).astype(np.float32)
    job = Job(weight, Layout("MatMul", weight.shape), CODEBOOKS[name], ir.DataType.FLOAT, "additive")
    (first,) = solved([job], folder=tmp_path)
    monkeypatch.setattr(solve_jobs.Job, "run", lambda job: pytest.fail("solved again"))
    (again,) = solved([job], folder=tmp_path)
    assert again.format == job.format and len(again.parts) == len(first.parts)
    assert np.array_equal(again.decode(), first.decode()) and again.nbytes == first.nbytes


def test_how_it_was_solved_is_no_part_of_the_file(tmp_path):
    ir.save(build(NET), tmp_path / "model.onnx")
    feeds = {"x": np.random.default_rng(0).normal(size=(50, 64)).astype(np.float32)}
    files = []
    for more in ({}, {"solutions": tmp_path / "kept"}, {"solutions": tmp_path / "kept"}, {"workers": 1}):
        files.append(tmp_path / f"{len(files)}.onnx")
        options = {"recipe": "weight-int4-calibrated", "output": files[-1], "quiet": True, **more}
        convert(tmp_path / "model.onnx", data=[feeds], **options)
    assert len({file.read_bytes() for file in files}) == 1
    assert len(list((tmp_path / "kept").glob("*.npz"))) == 2  # what reads the input keeps 8 bits and needs no solver

"""Fuzzed cases of every operator: the answer of its function body or a sentence, never a crash or another answer.

Cases run in another process. The quick profile finds what is broken everywhere; `-m fuzz` searches for minutes.
"""

import dataclasses
import os

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from qonnx.custom_ops import library_path, ops
from tests.operator_cases import EXAMPLES, FLOATS, Case, Size, disagreement
from tests.operator_worker import Crash, Worker

pytestmark = [pytest.mark.native, pytest.mark.skipif(library_path() is None, reason="no native library")]

TYPES = (*FLOATS, np.float64, np.uint8, np.int8, np.uint16, np.int32, np.int64, np.bool_)
SPECIAL = (0.0, -0.0, np.nan, np.inf, -np.inf, 1e-42, 1e38, -1e38, 65504.0, -1.0)
# Sizes that a function body fills with tensors go no further; kernels must refuse or bear any.
BODY_LIMIT = 1 << 12
ATTRIBUTES = (-(2**63), -1, 0, 1, 2, 3, 5, 7, 8, 16, 31, 64, 100, 255, 256, 4096, 65536, 2**31, 2**40, 2**63 - 1)

sizes = st.builds(
    Size,
    rows=st.integers(1, 70),
    columns=st.integers(1, 200),
    block=st.sampled_from([16, 32, 48, 100, 128]),
    lead=st.sampled_from([(), (0,), (1,), (3,), (8,), (2, 5), (1, 0), (17,)]),
    kind=st.integers(0, 23),
    dtype=st.sampled_from(FLOATS),
    rank=st.sampled_from([None, None, 1, 7, 33]),
    wide_bias=st.booleans(),
    seed=st.integers(0, 5),
)


@st.composite
def changed(draw, case: Case) -> Case:
    """The case with one thing about it changed."""
    name = draw(st.sampled_from(list(case.arrays)))
    array = case.arrays[name]
    what = draw(st.sampled_from(["attribute", "missing", "extra", "type", "shape", "rank", "values", "constant"]))
    if what == "attribute" and case.attributes:
        name = draw(st.sampled_from(list(case.attributes)))
        value = case.attributes[name]
        if isinstance(value, str):
            return case
        if isinstance(value, tuple):
            numbers = st.lists(st.sampled_from([-1, 0, 1, 2, 3, 5, 7, 40, 2**31, 2**62]), max_size=5)
            return dataclasses.replace(case, attributes={**case.attributes, name: tuple(draw(numbers))})
        near = [value - 1, value + 1, value * 2]
        value = type(value)(draw(st.sampled_from([*near, *ATTRIBUTES])))
        value = value if isinstance(value, float) else min(max(value, -(2**63)), 2**63 - 1)
        return dataclasses.replace(case, attributes={**case.attributes, name: value})
    if what == "constant":
        return dataclasses.replace(case, constant=case.constant ^ {name})
    if what == "extra":
        return dataclasses.replace(case, arrays={**case.arrays, f"extra{len(case.arrays)}": np.ones(1, np.float32)})
    if array is None or what == "missing":
        if draw(st.booleans()):
            names = list(case.arrays)[: list(case.arrays).index(name)]
            return dataclasses.replace(case, arrays={name: case.arrays[name] for name in names} or case.arrays)
        return dataclasses.replace(case, arrays={**case.arrays, name: None})
    if what == "type":
        with np.errstate(all="ignore"):
            array = array.astype(draw(st.sampled_from(TYPES)))
    elif what == "rank":
        array = array.reshape(1, *array.shape) if draw(st.booleans()) or not array.ndim else array.ravel()
    elif what == "shape" and array.ndim:
        axis = draw(st.integers(0, array.ndim - 1))
        shape = list(array.shape)
        shape[axis] = max(0, draw(st.sampled_from([0, 1, shape[axis] - 1, shape[axis] + 1, 2 * shape[axis]])))
        array = np.resize(array, shape)
    elif what == "values" and array.size:
        array = array.copy()
        value = draw(st.sampled_from(SPECIAL))
        if array.dtype.kind in "iu":
            bounds = np.iinfo(array.dtype)
            value = draw(st.sampled_from([bounds.min, bounds.max, -1 % (bounds.max + 1)]))
        elif array.dtype == np.bool_:
            value = True
        with np.errstate(all="ignore"):
            array.flat[draw(st.integers(0, array.size - 1))] = value
    return dataclasses.replace(case, arrays={**case.arrays, name: array})


@st.composite
def cases(draw, op: str) -> Case:
    case = EXAMPLES[op](op, draw(sizes))
    for _ in range(draw(st.sampled_from([0, 1, 1, 1, 2]))):
        case = draw(changed(case))
    return case


def body_fits(case: Case) -> bool:
    """Whether the function body of this case can run at all without filling the memory."""
    numbers = [value for value in case.attributes.values() if isinstance(value, int)]
    return max(numbers, default=0) <= max(BODY_LIMIT, case.attributes.get("levels", 0) if numbers else 0)


def check(case: Case, worker: Worker) -> None:
    has_body = ops.OPS[case.op].body is not None and body_fits(case)
    native, body = worker.run(case, has_body)
    if isinstance(native, str):
        assert "unknown error" not in native and len(native) > 20, f"no sentence: {native!r} at {case}"
        return
    if not has_body:
        return
    assert not isinstance(body, str), f"the kernel answers where the body says {body!r}: {case}"
    problem = disagreement(case, native, body)
    assert problem is None, problem


@pytest.fixture(scope="module")
def worker():
    with Worker() as opened:
        yield opened


def search(op: str, worker: Worker, examples: int) -> None:
    profile = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    profile(given(cases(op))(lambda case: check(case, worker)))()


def test_there_is_an_example_of_every_operator():
    assert set(EXAMPLES) == set(ops.OPS)


@pytest.mark.parametrize("op", EXAMPLES)
def test_fuzzed_cases(op, worker):
    search(op, worker, 25)


@pytest.mark.fuzz
@pytest.mark.parametrize("op", EXAMPLES)
def test_many_fuzzed_cases(op, worker):
    search(op, worker, int(os.environ.get("QONNX_FUZZ_EXAMPLES", "1000")))


@pytest.mark.parametrize(
    ("op", "name", "change", "sentence"),
    [
        ("QuantizedMatMulLowBit", "table", lambda t: np.array([np.nan, *t[1:]], np.float32), "not finite"),
        ("DynamicQuantizeMatMulCodebook", "codebooks", lambda b: b * np.where(b == b.max(), np.nan, 1), "not finite"),
        ("GatherCodebook", "weight_scale", np.ravel, "input scale has shape"),
        ("MatMulLowBit", "codes", lambda c: c.reshape(1, -1), "input codes has shape"),
        ("LogAttention", "table", lambda t: t[None], "table has shape"),
        ("LogQuantizeDequantize", "table", lambda t: t[None], "table has shape"),
    ],
)
def test_what_a_body_refuses_or_spoils_is_refused(op, name, change, sentence, worker):
    case = EXAMPLES[op](op, Size(kind=2))
    changed = change(case.arrays[name]).astype(case.arrays[name].dtype)
    native, _ = worker.run(dataclasses.replace(case, arrays={**case.arrays, name: changed}), body=False)
    assert isinstance(native, str) and sentence in native


def test_words_whose_values_overflow_are_refused(worker):
    """65536 to the fourth is 0 in 64 bits, and four such codes seemed to fit in a word."""
    case = EXAMPLES["MatMulCodebook"]("MatMulCodebook", Size())
    attributes = {**case.attributes, "levels": 65536, "codes_per_word": 4, "bytes_per_word": 7}
    native, _ = worker.run(dataclasses.replace(case, attributes=attributes), body=False)
    assert isinstance(native, str) and "do not fit" in native


def test_a_crash_and_a_wrong_answer_are_noticed(worker, monkeypatch):
    """The checks of this file see the faults that they are there for."""
    case = EXAMPLES["MatMulLowBit"]("MatMulLowBit", Size())
    check(case, worker)
    arrays = {**case.arrays, "bias": case.arrays["bias"] + np.float32(1)}
    wrong, right = worker.run(dataclasses.replace(case, arrays=arrays))[0], worker.run(case)[1]
    fake = type("Fake", (), {"run": lambda self, *_: (wrong, right)})()
    with pytest.raises(AssertionError, match="output 0 is"):
        check(case, fake)
    worker.process.kill()
    with pytest.raises(Crash, match="status -9 at MatMulLowBit"):
        worker.run(case)
    assert ml_dtypes.bfloat16 in FLOATS and worker.run(case)[0]

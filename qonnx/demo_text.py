"""Text as the input of a demo page: which inputs of a model are token ids, and how a visitor's words become them.

With a vocabulary (one token a line) words are cut greedily into its longest tokens; tokens that begin with "##" go on
with a word, as WordPiece has them. Without one, ids are the bytes of the text in UTF-8. Inputs beside the ids are known
by their names: a mask of ones, types of zeros, positions that count.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from qonnx.data import Input
from qonnx.errors import QonnxError

_ROLES = {"mask": "mask", "type": "types", "segment": "types", "position": "positions"}  # part of a name -> role
_FIRST, _LAST, _UNKNOWN, _PAD = ("[CLS]", "<s>"), ("[SEP]", "</s>"), ("[UNK]", "<unk>"), ("[PAD]", "<pad>")
BYTES = 256


@dataclasses.dataclass(frozen=True)
class TextInput:
    """`inputs`: (name, role, number type) of every input, roles "ids", "mask", "types", "positions". `length`: tokens
    that the model wants, None for any number. `first`, `last`, `unknown`, `pad`: ids, None where there is none."""

    inputs: tuple[tuple[str, str, str], ...]
    vocabulary: tuple[str, ...]
    length: int | None
    first: int | None = None
    last: int | None = None
    unknown: int | None = None
    pad: int | None = None

    @property
    def ids(self) -> str:
        """Name of the input of token ids."""
        return next(name for name, role, _ in self.inputs if role == "ids")

    def decode(self, ids: Sequence[int]) -> str:
        """The text that ids mean, without the marks of beginning, end and padding."""
        marks = (self.first, self.last, self.pad)
        if not self.vocabulary:
            return bytes(i for i in ids if 0 < i < BYTES).decode("utf-8", "replace")
        tokens = [self.vocabulary[i] for i in ids if 0 <= i < len(self.vocabulary) and i not in marks]
        return " ".join(tokens).replace(" ##", "")


def text_input(inputs: Sequence[Input], vocabulary: Sequence[str] = ()) -> TextInput | None:
    """How text is fed to a model with these inputs; None if they are no token ids.

    Raises QonnxError if one of several integer inputs has a name that tells nothing.
    """
    if not inputs or any(one.dtype not in (np.int64, np.int32) or len(one.shape or ()) != 2 for one in inputs):
        return None
    roles = [next((role for part, role in _ROLES.items() if part in one.name.lower()), "ids") for one in inputs]
    if roles.count("ids") != 1:
        names = ", ".join(one.name for one in inputs)
        raise QonnxError(
            f"which of the inputs {names} are token ids? The page knows masks, types and positions by name"
        )
    of = lambda marks: next((vocabulary.index(mark) for mark in marks if mark in vocabulary), None)  # noqa: E731 - read four times below
    rows = tuple((one.name, role, np.dtype(one.dtype).name) for one, role in zip(inputs, roles, strict=True))
    length = inputs[roles.index("ids")].shape[1]
    return TextInput(rows, tuple(vocabulary), length, of(_FIRST), of(_LAST), of(_UNKNOWN), of(_PAD))

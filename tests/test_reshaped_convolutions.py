"""ConvTranspose split into phases, patch convolutions as MatMul: the same function, and only where it is."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest

from models.tiny import build, inputs
from qonnx.passes.patches_to_matmul import PatchesToMatMul
from qonnx.passes.split_conv_transpose import SplitConvTranspose
from qonnx.runtime import session
from qonnx.targets import TARGETS

ORT, QNN = TARGETS["ort-cpu"], TARGETS["qnn"]
HEAD = '<ir_version: 10, opset_import: ["": 21]>'


def up(kernel: int, stride: int, pads: str, extra: str = "", tail: str = "y = Identity(c)") -> str:
    return f"""{HEAD} g (float[B,3,5,4] x, float[3,2,{kernel},{kernel}] w, float[2] b) => (float[B,2,H,W] y) {{
    c = ConvTranspose<strides = [{stride},{stride}], pads = {pads}{extra}>(x, w, b)
    {tail}
}}"""


def patch(
    kernel: int, stride: int, shape: str = "float[B,3,12,8]", extra: str = "", tail: str = "y = Identity(c)"
) -> str:
    return f"""{HEAD} g ({shape} x, float[5,3,{kernel},{kernel}] w, float[5] b) => (float[B,5,H,W] y) {{
    c = Conv<strides = [{stride},{stride}]{extra}>(x, w, b)
    {tail}
}}"""


def kinds(model: ir.Model) -> Counter:
    return Counter(node.op_type for node in model.graph)


def agree(text: str, change) -> tuple[ir.Model, bool]:
    """The changed model; fails unless it computes what it did. Says whether it was changed."""
    model = build(text)
    feeds = inputs(model, 1)
    (before,) = session(model.clone(), optimization="none").run(None, feeds)
    changed = bool(change(model).changes)
    (after,) = session(model.clone(), optimization="none").run(None, feeds)
    assert before.shape == after.shape
    # sums of at most 3·16 products in another order
    assert np.abs(before - after).max() <= 48 * 2**-23 * np.abs(before).max()
    assert not change(model).changes
    return model, changed


@pytest.mark.parametrize(
    ("kernel", "stride", "pads", "convolutions"),
    [
        (2, 2, "[0,0,0,0]", 1),  # every phase has the same padding: one Conv makes all
        (3, 3, "[0,0,0,0]", 1),
        (4, 2, "[1,1,1,1]", 4),
        (6, 3, "[1,1,2,2]", 9),
        (6, 2, "[2,2,2,2]", 1),  # the same padding again
        (5, 3, "[1,1,1,1]", 9),  # phases with different numbers of taps
    ],
)
def test_phases_add_up_to_the_transposed_convolution(kernel, stride, pads, convolutions):
    model, changed = agree(up(kernel, stride, pads), SplitConvTranspose(ORT))
    assert changed
    assert kinds(model)["Conv"] == convolutions
    assert kinds(model)["DepthToSpace"] == 1
    assert "ConvTranspose" not in kinds(model)


def test_a_relu_moves_in_front_of_the_interleaving():
    model, changed = agree(up(4, 2, "[1,1,1,1]", tail="y = Relu(c)"), SplitConvTranspose(ORT))
    assert changed
    assert kinds(model)["Relu"] == 4
    assert model.graph.outputs[0].producer().op_type == "DepthToSpace"


@pytest.mark.parametrize(
    "text",
    [
        up(3, 2, "[1,1,1,1]"),  # the output is not twice the input
        up(4, 2, "[1,1,1,1]", ", dilations = [2,2]"),
        up(3, 2, "[1,1,1,1]", ", output_padding = [1,1]"),
        up(3, 1, "[1,1,1,1]"),
    ],
)
def test_other_transposed_convolutions_stay(text):
    assert not agree(text, SplitConvTranspose(ORT))[1]


def test_a_target_with_integer_transposed_convolutions_keeps_them():
    assert "ConvTranspose" in QNN.operators
    assert not agree(up(4, 2, "[1,1,1,1]"), SplitConvTranspose(QNN))[1]


@pytest.mark.parametrize("kernel", [2, 4])
def test_patches_as_rows(kernel):
    model, changed = agree(patch(kernel, kernel), PatchesToMatMul(ORT))
    assert changed
    assert kinds(model)["MatMul"] == 1
    assert "Conv" not in kinds(model)


@pytest.mark.parametrize(
    "text",
    [
        patch(3, 2),  # patches overlap
        patch(1, 1),  # no patches: a 1×1 convolution
        patch(2, 2, "float[B,3,H,W]"),  # size unknown
        patch(4, 4, "float[B,3,13,8]"),  # a row of pixels is left over
        patch(4, 4, extra=", pads = [0,0,4,0]"),
        patch(4, 4, tail="y = Relu(c)"),  # Conv and Relu are one integer unit anyway
    ],
)
def test_other_convolutions_stay(text):
    assert not agree(text, PatchesToMatMul(ORT))[1]


def test_a_target_that_quantizes_every_output_keeps_the_convolution():
    assert not agree(patch(4, 4), PatchesToMatMul(QNN))[1]

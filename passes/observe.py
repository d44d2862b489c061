"""Run the calibration data once: note statistics of tensors that may be quantized, and multiply-adds of nodes."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar

import onnx_ir as ir

from qonnx.calibrate import Wish, observe
from qonnx.errors import QonnxError
from qonnx.macs import macs_from_shapes
from qonnx.notes import note, warn
from qonnx.passes.assign import output_of
from qonnx.passes.assign_elementwise import concerned, observed
from qonnx.passes.base import Change, Pass
from qonnx.passes.label import MOVES
from qonnx.passes.rewire import is_op, scalar
from qonnx.stats import Stats, Window, merge_stats
from qonnx.stats_file import fingerprint, load_stats, save_stats
from qonnx.targets import Target
from qonnx.wishes import values_by_name

MULTIPLIERS = ("Conv", "ConvTranspose", "MatMul", "Gemm")
ELEMENTWISE = (
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Concat",
    "Softmax",
    "LayerNormalization",
    "AveragePool",
    "GlobalAveragePool",
)


@dataclasses.dataclass
class Observe(Pass):
    """Writes `note(value).stats` (qonnx.stats.Stats) and `note(node).macs`; the model itself stays as it is.

    Tensors: float inputs and outputs of Conv, ConvTranspose, MatMul and Gemm; of other operators where `target`
    quantizes them, or if `elementwise`. Channel statistics are kept along the axis that a constant weight reduces, and
    along channels of outputs.

    Attributes:
        data: dicts name -> array, one for each sample; None takes everything from `stats_file`.
        histogram: keep histograms of all tensors (percentile, MSE and entropy ranges need them); tensors to which all
            consumers apply an activation (`note(value).after`) always have one.
        gram: keep Gram matrices of inputs that meet a constant weight (GPTQ and relatives need them).
        elementwise: observe operators without weights as well.
        stats_file: what this file holds is added to what the data says, and the sum is written back. Observing the same
            data twice counts it twice.
        threads, libraries: of the session; the user's custom-op libraries.
        progress: called with the number of samples done.
    """

    tolerance: ClassVar[float | None] = 0.0
    recurses: ClassVar[bool] = False  # activations inside bodies and functions cannot be read from outside

    data: Iterable[dict[str, Any]] | None = None
    target: Target | None = None
    histogram: bool = False
    gram: bool = False
    elementwise: bool = False
    stats_file: str | None = None
    threads: int | None = None
    libraries: tuple[str, ...] = ()
    progress: Callable[[int], None] | None = None

    def changes(self, model: ir.Model) -> Iterator[Change]:
        found = self._observed(model)
        if self.stats_file:
            found = self._with_file(model, found)
        for value in values_by_name(model).values():
            if value.name in found:
                note(value).stats = found[value.name]
        self._warn_of_constants(model, found)
        shapes = {name: stats.shape for name, stats in found.items() if stats.shape is not None}
        for node, count in macs_from_shapes(model, shapes).items():
            note(node).macs = count
        yield from ()

    def _warn_of_constants(self, model: ir.Model, found: dict[str, Stats]) -> None:
        """Tensors that never changed have ranges that say nothing about other data."""
        still = [name for name, stats in found.items() if stats.elements > 1 and stats.minimum == stats.maximum]
        if still:
            warn(
                model,
                f"{len(still)} of {len(found)} tensors had one value throughout the calibration data, '{still[0]}' "
                "among them; their ranges fit nothing else, so check that the samples are real ones",
            )

    def _observed(self, model: ir.Model) -> dict[str, Stats]:
        if self.data is None:
            if not self.stats_file:
                raise QonnxError("'observe' has neither data nor a statistics file; give --data or --stats")
            return {}
        wishes = self.wishes(model)
        return observe(model, self.data, wishes, threads=self.threads, libraries=self.libraries, progress=self.progress)

    def _with_file(self, model: ir.Model, found: dict[str, Stats]) -> dict[str, Stats]:
        """What was observed together with what the statistics file holds; the file then holds both."""
        path, mark = pathlib.Path(self.stats_file), fingerprint(model)
        if path.exists():
            found = merge_stats(load_stats(path, mark), found)
        elif not found:
            raise QonnxError(f"statistics file '{path}' does not exist; give --data to make it")
        if self.data is not None:
            save_stats(path, found, mark)
        return found

    def wishes(self, model: ir.Model) -> dict[str, Wish]:
        """What to gather about each tensor, by name."""
        wishes: dict[str, Wish] = {}
        for node in model.graph:
            if is_op(node, "LayerNormalization", "RMSNormalization"):  # layers may read moved rows of it
                self._add(wishes, node.outputs[0], Wish(channel_axis=-1))
            if is_op(node, "GroupNormalization", "BatchNormalization"):
                self._add(wishes, node.outputs[0], Wish(channel_axis=1))
            if node.op_type in MULTIPLIERS and node.domain == "":
                for index in (0, 1):
                    self._add(wishes, node.inputs[index], self._input_wish(node, index))
                    if (maker := _maker(node, index)) is not None:
                        self._add(wishes, maker, Wish(channel_axis=-1))
                if self._wants_output(node):
                    self._add(wishes, node.outputs[0], Wish(channel_axis=1 if "Conv" in node.op_type else -1))
                if (closing := output_of(node)) is not node.outputs[0]:  # the Relu behind it: where its Q/DQ will stand
                    self._add(wishes, closing, Wish())
            elif self.target is not None and concerned(node, self.target):
                for value in observed(node, self.target):
                    self._add(wishes, value, Wish())
            elif self.elementwise and node.op_type in ELEMENTWISE and node.domain == "":
                for value in (*node.inputs, *node.outputs):
                    self._add(wishes, value, Wish())
        return wishes

    def _wants_output(self, node: ir.Node) -> bool:
        """Whether a grid may stand on the node's output; without a target all are kept."""
        return self.target is None or self.target.node_units or node.op_type in self.target.outputs

    def _add(self, wishes: dict[str, Wish], value: ir.Value | None, wish: Wish) -> None:
        """Enter a wish; of two for one tensor, the one for a Gram matrix or for channels wins."""
        if value is None or not value.name or ir.convenience.get_const_tensor(value) is not None:
            return
        old = wishes.get(value.name, Wish())
        first = old if old.gram or (old.channel_axis is not None and not wish.gram) else wish
        histogram = self.histogram or note(value).after is not None
        wishes[value.name] = dataclasses.replace(first, histogram=histogram)

    def _input_wish(self, node: ir.Node, index: int) -> Wish:
        """Wish for the activation at input `index`: channels are those that a constant at the other input reduces."""
        if ir.convenience.get_const_tensor(node.inputs[1 - index]) is None:
            return Wish()
        if "Conv" in node.op_type:
            window = window_of(node) if self.gram else None
            return Wish(channel_axis=1, gram=window is not None, window=window)
        transposed = node.op_type == "Gemm" and bool(node.attributes.get_int("trans" + "AB"[index], 0))
        if (index == 0) == transposed:
            return Wish(channel_axis=-2)
        return Wish(channel_axis=-1, gram=self.gram)


def _maker(node: ir.Node, index: int) -> ir.Value | None:
    """What a product of two activations reads, before it was split into heads; None for other products."""
    if any(ir.convenience.get_const_tensor(value) is not None for value in node.inputs[:2]):
        return None
    value = node.inputs[index]
    while is_op(maker := value.producer(), *MOVES, "Gather", "Expand", "Mul", "Div"):
        scaled = is_op(maker, "Mul") and scalar(maker.inputs[0]) is not None
        if is_op(maker, "Mul", "Div") and not scaled and scalar(maker.inputs[1]) is None:
            return None
        value = maker.inputs[1 if scaled else 0]
    return value if is_op(value.producer(), "Add", "MatMul", "Gemm") else None


def window_of(node: ir.Node) -> Window | None:
    """How a Conv slides; None for a ConvTranspose and for automatic padding (it depends on the size of the image)."""
    if node.op_type != "Conv" or node.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return None
    weight = ir.convenience.get_const_tensor(node.inputs[1])
    kernel = tuple(weight.shape.numpy()[2:])
    ones = (1,) * len(kernel)

    def integers(name: str, default: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(node.attributes.get_ints(name, default))

    pads = integers("pads", (0,) * (2 * len(kernel)))
    return Window(
        kernel, integers("strides", ones), pads, integers("dilations", ones), node.attributes.get_int("group", 1)
    )

"""Assign weights: plan weight-only quantization. Needs no data; activations stay float.

Eligible are MatMul and Gemm with a constant right factor, Conv and ConvTranspose with constant kernels, and Gather of
rows of a constant table, in the main graph and in every control-flow body. Cases, in order:
1. no constant weight, not float, already quantized, excluded by the user: skipped with that reason;
2. a stack of matrices (MatMul of rank above 2): 8 bits with one scale, since it has no one channel axis;
3. 8 bits: one scale a channel (of a table: a row). A target that wants one scale for the tensor gets that;
4. fewer than 8 bits: blocks along the input axis, asymmetric where the target allows. Where blocks do not fit (a kernel
   of several taps whose input channels are not whole blocks) 8 bits a channel: such layers are small and sensitive.
   Tables keep 8 bits too where the target gathers rows of codes: no runtime of those gathers smaller ones; and with
   `edges`, convolutions and what reads the model's inputs: a few per cent of a transformer, on which all else builds;
5. not worth it: fewer than 1 KiB saved, or a convolution with fewer than 32 weights a channel (depthwise, first):
   a few per cent of the file at most, but with so few terms rounding errors do not average out;
6. in a function that `inline_functions` left: skipped, since a function has no initializers;
7. a weight that anyone else reads is quantized only if all its readers have the same plan for it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from qonnx.cpu import has_vnni
from qonnx.errors import QonnxError
from qonnx.formats import FORMATS, FRACTIONS, TABLES, IntFormat, TableFormat
from qonnx.notes import note, skip
from qonnx.options import nearest
from qonnx.passes.base import Change, Pass
from qonnx.passes.label import MOVES
from qonnx.passes.rewire import array, bodies, integer, is_constant, is_op, rank
from qonnx.passes.solve_weights import layout_of
from qonnx.passes.stored_weights import bias_of
from qonnx.plan import Plan
from qonnx.targets import Target

OURS = "ai.qonnx"  # functions of this domain are specifications of our operators
PRODUCTS = ("MatMul", "Gemm", "Conv", "ConvTranspose")
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_BLOCKS = {8: 0, 6: 32, 5: 32, 4: 32, 3: 32, 2: 16}  # block by number of bits; 0: one scale a channel
STORED = {8: 8, 6: 8, 5: 8, 4: 4, 3: 4, 2: 2}  # bits of the ONNX type that holds them, until `lower` packs them
_OPSETS = {8: 13, 4: 21, 2: 25}  # the first that has the type, by its number of bits
_BLOCK_OPSET, _HALF_OPSET = 21, 19  # block_size; scales of 16-bit floats
_WORTH = 1024  # bytes that a weight must save: three tensors and a node cost about 300 in the file, and a kernel call
_TERMS = 32  # weights a channel of a convolution: case 5
_NO_ZERO_POINT = {"asymmetric-weight", "nonzero-zero-point"}  # rules of targets


@dataclasses.dataclass
class AssignWeights(Pass):
    """Plan weight-only quantization.

    bits: of the codes. block: entries of the input axis that share a scale; None takes the usual one of `bits`.
    symmetric: zero point 0; None: at 8 bits as the target says, below only where the target demands it. granularity:
    None: "block" if there is a block, else "channel". activations: "dynamic" prepares for `lower_dynamic`, whose
    integer products saturate without VNNI unless weights have 7 bits. table: key of TABLES, for matrices in place of
    integers (`place_low_bit` must follow); `bits` then speak of everything else. scale_bits: matrices of fewer than 8
    bits get scales of 16 or 8 bits where the target reads our operators (`place_low_bit` must follow, and for 8
    `narrow_constants`); blocks of 8 fit then.
    edges: "8" or, as the rest, "same".
    Raises QonnxError when the target or the model's opset cannot hold such weights.
    """

    target: Target
    settings: Any = None
    bits: Literal[8, 6, 5, 4, 3, 2] = 8
    block: int | None = None
    symmetric: bool | None = None
    granularity: Literal["tensor", "channel", "block"] | None = None
    activations: Literal["float", "dynamic"] = "float"
    table: str | None = None
    scale_bits: Literal[32, 16, 8] = 32
    edges: Literal["8", "same"] = "same"

    tolerance = 0.0

    def __post_init__(self):
        if self.table is not None and self.table not in TABLES:
            raise QonnxError(f"there is no table format '{self.table}'; {nearest(self.table, TABLES)}")
        usual = self.target.weight_only
        if str(self.bits) not in usual:
            raise QonnxError(
                f"target '{self.target.name}' takes no {self.bits}-bit weights; choose --bits from {', '.join(usual)}"
            )
        needed = self._opset(self._main())
        if self._writes_standard() and needed > self.target.opset[1]:
            raise QonnxError(
                f"{self.bits}-bit weights need opset {needed}, target '{self.target.name}' reads up to "
                f"{self.target.opset[1]}; choose more bits or another target"
            )
        self._fraction = None if self.target.standard_only else FRACTIONS[self.scale_bits]
        least = 16 if self._fraction is None else 8
        if self.block is not None and (self.block < least or self.block & (self.block - 1)):
            raise QonnxError(
                f"block size {self.block} is not a power of two of at least {least}, as runtimes demand; try 32"
            )

    def changes(self, model: ir.Model) -> Iterator[Change]:
        self._check_opset(model)
        candidates: dict[ir.Node, Plan] = {}
        for graph in bodies(model):
            for node in graph:
                if not _eligible(node) or note(node).fate is not None or note(node).plan is not None:
                    continue
                reason, detail = self._obstacle(node)
                if reason:
                    skip(node, reason, detail)
                    continue
                plan = Plan({}, self._format(node), 0 if node.op_type == "Gather" else 1)
                if small := _too_small(node, plan):
                    skip(node, "too-small", small)
                    continue
                candidates[node] = plan
        for function in model.functions.values():
            for node in () if function.domain == OURS else function:
                if _eligible(node) and note(node).fate is None:
                    skip(node, "subgraph", f"in function {function.name}")
        for node, plan in candidates.items():
            if (other := _dissenter(node, plan, candidates)) is not None:
                skip(node, "shared-weight", other)
                continue
            note(node).plan = plan
            yield Change(node.name or node.outputs[0].name, str(plan))

    def _obstacle(self, node: ir.Node) -> tuple[str, str]:
        """Reason code and detail if the node must stay as it is, else two empty strings."""
        weight = node.inputs[0 if node.op_type == "Gather" else 1]
        if weight.dtype is not None and weight.dtype not in _FLOATS:
            return "not-float", weight.dtype.name
        if is_op(weight.producer(), "DequantizeLinear"):
            return "already-quantized", ""
        if self.settings is not None and (why := self.settings.exclusion(node)):
            return "excluded", why
        if not is_constant(weight):
            return "no-constant-weight", "the constant is the left factor" if is_constant(node.inputs[0]) else ""
        shape = ir.convenience.get_const_tensor(weight).shape.numpy()
        if len(shape) < 2 or 0 in shape:
            return "shape", str(list(shape))
        if node.op_type == "Gather" and (len(shape) != 2 or integer(node, "axis", 0) != 0):
            return "shape", f"rows of {list(shape)} along axis {integer(node, 'axis', 0)}"
        if not np.isfinite(array(weight).astype(np.float32)).all():
            return "not-finite", weight.name or ""
        return "", ""

    def _format(self, node: ir.Node) -> IntFormat | TableFormat:
        """Cases 2 to 4."""
        shape = node.inputs[0 if node.op_type == "Gather" else 1].shape.numpy()
        byte = self._byte("channel")
        if node.op_type == "MatMul" and len(shape) != 2:
            return dataclasses.replace(byte, granularity="tensor")
        main = self._main()
        if node.op_type in self.target.tensor_only:
            return dataclasses.replace(byte, granularity="tensor")
        if self.bits < 8 and node.op_type == "Gather" and self.target.tables == "rows":
            return byte
        if self.edges == "8" and (node.op_type in ("Conv", "ConvTranspose") or _reads_input(node)):
            return byte
        if self.table is not None and _plain_product(node):
            return self._table()
        if self._fraction is not None and self.bits < 8 and _plain_product(node):
            return dataclasses.replace(main, scale_fraction=self._fraction)
        if main.block == 8:
            main = dataclasses.replace(main, block=16)
        if main.granularity == "block" and node.op_type in ("Conv", "ConvTranspose"):
            groups = integer(node, "group", 1)
            inputs = shape[1] if node.op_type == "Conv" else shape[0] // groups
            pointwise = set(shape[2:]) == {1} and (node.op_type == "Conv" or groups == 1)
            if inputs % main.block and (not pointwise or inputs < main.block):
                return byte
        return main

    def _table(self) -> TableFormat:
        """The table format, with the user's block or granularity where there is a wish."""
        chosen, granularity = TABLES[self.table], self.granularity or "block"
        fraction = self._fraction if chosen.scale_fraction is None else chosen.scale_fraction
        block = (self.block or chosen.block) if granularity == "block" else 0
        return dataclasses.replace(chosen, granularity=granularity, block=block, scale_fraction=fraction)

    def _main(self) -> IntFormat:
        """The format that the options ask for."""
        block = _BLOCKS[self.bits] if self.block is None else self.block
        granularity = self.granularity or ("block" if block else "channel")
        if granularity == "block" and (self.bits < 8 and self.target.weight_only_granularity == "channel"):
            granularity = "channel"
        if self.bits == 8:
            plain = self._byte("channel" if granularity == "block" else granularity)
        else:
            types = self.target.weight_types
            symmetric = self.symmetric
            if symmetric is None:
                symmetric = f"u{STORED[self.bits]}" not in types or bool(
                    _NO_ZERO_POINT.intersection(self.target.forbid)
                )
            stored = STORED[self.bits]
            plain = FORMATS[f"{'s' if symmetric else 'u'}{stored}"]
            if stored != self.bits:
                plain = dataclasses.replace(plain, levels=2**self.bits)
        block = (block or 32) if granularity == "block" else 0
        return dataclasses.replace(plain, granularity=granularity, block=block)

    def _byte(self, granularity: str) -> IntFormat:
        """8 bits, as the target likes its weights."""
        number, settings = self.target.weight, self.settings
        symmetric = number.symmetric if self.symmetric is None else self.symmetric
        plain = FORMATS["s8" if symmetric or self.activations == "dynamic" else "u8"]
        narrow = number.narrow and symmetric
        reduce = self.activations == "dynamic" and (
            self.target.reduce_range == "always" or (self.target.reduce_range == "auto" and not has_vnni())
        )
        if settings is not None and settings.reduce_range is not None:
            reduce = settings.reduce_range
        return dataclasses.replace(
            plain, symmetric=symmetric, narrow=narrow, granularity=granularity, levels=128 if reduce else 0
        )

    def _writes_standard(self) -> bool:
        return self.target.weight_only[str(self.bits)] == "dq"

    def _opset(self, format: IntFormat) -> int:
        return max(_OPSETS[format.bits], _BLOCK_OPSET if format.granularity == "block" else 0)

    def _check_opset(self, model: ir.Model) -> None:
        have, needed, what = model.graph.opset_imports.get("", 1), self._opset(self._main()), f"{self.bits}-bit weights"
        kinds = {value.dtype for graph in bodies(model) for value in graph.initializers.values()}
        if kinds & set(_FLOATS[1:]) and needed < _HALF_OPSET:
            needed, what = _HALF_OPSET, "quantized weights of a 16-bit float model"
        if have < needed:
            raise QonnxError(f"{what} need opset {needed} and the model has {have}; give --opset {needed}")


def _eligible(node: ir.Node) -> bool:
    if is_op(node, "Gather"):  # look-ups in a table of weights only: most Gathers pick sizes out of shapes
        table = node.inputs[0]
        if not is_constant(table):
            return is_op(table.producer(), "DequantizeLinear")
        tensor = ir.convenience.get_const_tensor(table)
        return tensor.dtype.is_floating_point() and len(tensor.shape) > 1
    return is_op(node, *PRODUCTS) and len(node.inputs) > 1


def _reads_input(node: ir.Node) -> bool:
    """Whether only data movement lies between an input of the graph and the node."""
    value = node.inputs[0]
    while is_op(value.producer(), *MOVES, "Cast"):
        value = value.producer().inputs[0]
    return value.is_graph_input()


def _plain_product(node: ir.Node) -> bool:
    """Whether MatMulLowBit can stand in for the node."""
    if is_op(node, "Gemm"):
        return bias_of(node, layout_of(node).to_rows(array(node.inputs[1])).shape[1]) is not None
    return is_op(node, "MatMul") and rank(node.inputs[0]) != 1


def _too_small(node: ir.Node, plan: Plan) -> str:
    """Case 5 in a few words; empty if the weight is large enough."""
    if (saved := _saved(node, plan)) < _WORTH:
        return f"{saved} bytes saved"
    layout = layout_of(node)
    outputs = layout.shape[1] * layout.groups if node.op_type == "ConvTranspose" else layout.shape[0]
    terms = math.prod(layout.shape) // outputs
    return f"{terms} weights a channel" if node.op_type in ("Conv", "ConvTranspose") and terms < _TERMS else ""


def _saved(node: ir.Node, plan: Plan) -> int:
    """Bytes that the plan takes off the file, before the fixed cost of a DequantizeLinear."""
    tensor = ir.convenience.get_const_tensor(node.inputs[plan.weight_index])
    format, layout = plan.weight, layout_of(node)
    scales = 1
    if format.granularity == "channel":
        scales = layout.shape[layout.channel_axis]
    elif format.granularity == "block":
        length = layout.shape[layout.reduction_axis]
        scales = tensor.size // length * -(-length // format.block)
    each = tensor.dtype.bitwidth + format.bits  # a scale and a zero point
    return tensor.nbytes - (tensor.size * format.bits + scales * each) // 8


def _dissenter(node: ir.Node, plan: Plan, candidates: dict[ir.Node, Plan]) -> str | None:
    """Who reads the node's weight without the same plan for it; None if nobody does."""
    weight = node.inputs[plan.weight_index]
    if weight.is_graph_output():
        return "output of the graph"
    layout = layout_of(node)
    for use in weight.uses():
        theirs = candidates.get(use.node)
        same = theirs == plan and use.idx == plan.weight_index and _alike(layout_of(use.node), layout)
        if not same:
            return f"read by {use.node.name or use.node.outputs[0].name or use.node.op_type}"
    return None


def _alike(one, other) -> bool:
    return (one.channel_axis, one.reduction_axis) == (other.channel_axis, other.reduction_axis)

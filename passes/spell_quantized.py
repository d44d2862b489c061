"""spell_quantized: quantized operators of other tools become QuantizeLinear and DequantizeLinear of the standard.

ONNX Runtime's QOperator files, MatMulNBits and the operators of Brevitas then look like what every target, linter and
lowering pass of qonnx reads. What cannot be spelled stays as it is, with a warning that names the node and the reason.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import onnx_ir as ir

from qonnx.notes import warn
from qonnx.passes import (
    spell_brevitas,
    spell_clipped_codes,
    spell_contrib,
    spell_qoperators,
    spell_renamed_quantizers,
)
from qonnx.passes.base import Change, Pass
from qonnx.passes.rewire import bodies, forget_domains

SPELLINGS = {
    **spell_contrib.SPELLINGS,
    **spell_qoperators.SPELLINGS,
    **spell_brevitas.SPELLINGS,
    **spell_clipped_codes.SPELLINGS,
    **spell_renamed_quantizers.SPELLINGS,
}


@dataclasses.dataclass
class SpellQuantized(Pass):
    """Rewrite every operator of SPELLINGS; exact up to float rounding at ties of a quantizer."""

    tolerance = 1e-5

    def changes(self, model: ir.Model) -> Iterator[Change]:
        spelled = 0
        for body in bodies(model):
            for node in list(body):
                domain = "" if node.domain == "ai.onnx" else node.domain
                spell = SPELLINGS.get((domain, node.op_type))
                if spell is None:
                    continue
                name = node.name or node.outputs[0].name or node.op_type
                why = spell(node)
                if why is None:  # an operator that has nothing to do with quantization
                    continue
                if why:
                    warn(model, f"{node.op_type} '{name}' stays as it is: {why}")
                else:
                    spelled += 1
                    yield Change(name, f"{node.op_type} spelled with DequantizeLinear")
        if spelled:
            forget_domains(model, {domain for domain, _ in SPELLINGS})

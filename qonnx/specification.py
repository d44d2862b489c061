"""onnx.reference, the specification in Python, made to run every model that the specification allows.

It looks functions up by domain and name alone: of several overloads one would stand for all, with wrong inputs. Calls
of functions with an overload are therefore replaced by their bodies first.
"""

from __future__ import annotations

import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator
from onnx_ir.passes.common import InlinePass


def evaluator(model: ir.Model | onnx.ModelProto) -> ReferenceEvaluator:
    """An evaluator of `model`, which is left as it is. Raises whatever onnx.reference does about what it lacks."""
    proto = ir.to_proto(model) if isinstance(model, ir.Model) else model
    if any(function.overload for function in proto.functions):
        copy = ir.from_proto(proto)
        InlinePass(criteria=lambda function: bool(function.overload))(copy)
        proto = ir.to_proto(copy)
    return ReferenceEvaluator(proto)

"""PASSES: every pass by name, in the order in which recipes use them."""

from qonnx.passes.allocate import Allocate
from qonnx.passes.assign import Assign
from qonnx.passes.assign_codebooks import AssignCodebooks
from qonnx.passes.assign_weights import AssignWeights
from qonnx.passes.base import Change, Pass, PassResult
from qonnx.passes.convert_opset import ConvertOpset
from qonnx.passes.correct_bias import CorrectBias
from qonnx.passes.fit_levels import FitLevels
from qonnx.passes.fold_affine import FoldAffine
from qonnx.passes.fold_constants import FoldConstants
from qonnx.passes.fold_norms import FoldNorms
from qonnx.passes.fuse_norms import FuseLayerNorm, FuseRmsNorm
from qonnx.passes.infer_shapes import InferShapes
from qonnx.passes.inline_functions import InlineFunctions
from qonnx.passes.keep_salient import KeepSalient
from qonnx.passes.label import Label
from qonnx.passes.lift_constants import LiftConstants
from qonnx.passes.low_rank import LowRank
from qonnx.passes.lower import Lower
from qonnx.passes.lower_dynamic import LowerDynamic
from qonnx.passes.lower_static import LowerStatic
from qonnx.passes.narrow_constants import NarrowConstants
from qonnx.passes.observe import Observe
from qonnx.passes.patches_to_matmul import PatchesToMatMul
from qonnx.passes.place_codebooks import PlaceCodebooks
from qonnx.passes.place_low_bit import PlaceLowBit
from qonnx.passes.place_qdq import PlaceQDQ
from qonnx.passes.protect import Protect
from qonnx.passes.recognise_activations import RecogniseActivations
from qonnx.passes.remove_dead import RemoveDead
from qonnx.passes.remove_identities import RemoveIdentities
from qonnx.passes.reparameterize import Reparameterize
from qonnx.passes.reparameterize_attention import ReparameterizeAttention
from qonnx.passes.reparameterize_inputs import ReparameterizeInputs
from qonnx.passes.rotate_heads import RotateHeads
from qonnx.passes.rotate_inputs import RotateInputs
from qonnx.passes.rotate_residual import RotateResidual
from qonnx.passes.scale_salient import ScaleSalient
from qonnx.passes.search_ranges import SearchRanges
from qonnx.passes.share_tables import ShareTables
from qonnx.passes.solve_in_turn import SolveInTurn
from qonnx.passes.solve_weights import SolveWeights
from qonnx.passes.spell_fused import SpellFused
from qonnx.passes.spell_quantized import SpellQuantized
from qonnx.passes.split_channels import SplitChannels
from qonnx.passes.split_conv_transpose import SplitConvTranspose
from qonnx.passes.tidy import Tidy

PASSES: dict[str, type[Pass]] = {
    "inline_functions": InlineFunctions,
    "lift_constants": LiftConstants,
    "convert_opset": ConvertOpset,
    "spell_quantized": SpellQuantized,
    "infer_shapes": InferShapes,
    "spell_fused": SpellFused,
    "fold_constants": FoldConstants,
    "remove_identities": RemoveIdentities,
    "fuse_layer_norm": FuseLayerNorm,
    "fuse_rms_norm": FuseRmsNorm,
    "recognise_activations": RecogniseActivations,
    "fold_norms": FoldNorms,
    "fold_affine": FoldAffine,
    "remove_dead": RemoveDead,
    "split_conv_transpose": SplitConvTranspose,
    "patches_to_matmul": PatchesToMatMul,
    "rotate_residual": RotateResidual,
    "label": Label,
    "rotate_heads": RotateHeads,
    "rotate_inputs": RotateInputs,
    "observe": Observe,
    "split_channels": SplitChannels,
    "reparameterize": Reparameterize,
    "reparameterize_attention": ReparameterizeAttention,
    "reparameterize_inputs": ReparameterizeInputs,
    "scale_salient": ScaleSalient,
    "share_tables": ShareTables,
    "assign": Assign,
    "search_ranges": SearchRanges,
    "fit_levels": FitLevels,
    "assign_codebooks": AssignCodebooks,
    "assign_weights": AssignWeights,
    "allocate": Allocate,
    "low_rank": LowRank,
    "keep_salient": KeepSalient,
    "solve_weights": SolveWeights,
    "solve_in_turn": SolveInTurn,
    "correct_bias": CorrectBias,
    "protect": Protect,
    "place_codebooks": PlaceCodebooks,
    "place_low_bit": PlaceLowBit,
    "place_qdq": PlaceQDQ,
    "lower_dynamic": LowerDynamic,
    "lower_static": LowerStatic,
    "lower": Lower,
    "narrow_constants": NarrowConstants,
    "tidy": Tidy,
}

# The passes that bring a model into one canonical spelling, in order: activations before fold_affine, which would
# otherwise take the "+ 3" of a hard-swish for a bias.
SPELLING: tuple[str, ...] = (
    "inline_functions",
    "lift_constants",
    "convert_opset",
    "infer_shapes",
    "spell_fused",
    "fold_constants",
    "remove_identities",
    "fuse_layer_norm",
    "fuse_rms_norm",
    "recognise_activations",
    "fold_norms",
    "fold_affine",
    "remove_dead",
)

__all__ = ["PASSES", "SPELLING", "Change", "Pass", "PassResult"]

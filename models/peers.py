"""Other people's quantizers behind one interface, each run in an environment of its own: PEERS.

This file is run as a script by the Python of a peer's environment, so it imports nothing of ours and a peer only inside
its function:

    python peers.py NAME model.onnx data.npz result.onnx

Every function takes the float file, the calibration samples (a list of feeds, batch 1) and the file to write. Settings
are what each tool's documentation recommends for int8 on a CPU: u8 activations, s8 weights by output channel.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Feeds = list[dict[str, np.ndarray]]

# Environment -> what pip installs into it.
ENVIRONMENTS = {
    "ort": ("onnxruntime==1.32.0", "onnx==1.23.2", "onnx_ir", "sympy"),
    "ort-torch": ("onnxruntime==1.32.0", "onnx==1.23.2", "onnx_ir", "sympy", "torch==2.13.0"),
    "nncf": ("nncf==3.4.0", "onnxruntime==1.32.0", "onnx==1.23.2", "sympy"),
    "onnxsim": ("onnxsim==0.8.1", "onnxruntime==1.32.0", "onnx==1.23.2"),
    "modelopt": ("nvidia-modelopt[onnx]==0.47.0",),
    "quark": ("amd-quark==0.13", "onnxruntime==1.32.0", "onnx==1.22.0", "setuptools"),
}

_PRODUCTS = ["MatMul", "Gemm", "Conv", "ConvTranspose"]


@dataclass(frozen=True)
class Peer:
    """One way to run one tool. `by_default`: part of every benchmark, not only of `--peers all`."""

    environment: str
    function: Callable[[str, Feeds, str], None]
    models: tuple[str, ...]
    by_default: bool = True
    samples: int = 32


def ort_static(model: str, feeds: Feeds, output: str, **options: Any) -> None:
    """ONNX Runtime's quantize_static: Q/DQ, u8 activations, s8 weights per channel, min-max unless told."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.left = iter(feeds)

        def get_next(self):
            return next(self.left, None)

    defaults = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8, "quant_format": QuantFormat.QDQ}
    quantize_static(model, output, Reader(), per_channel=True, **{**defaults, **options})


def ort_static_products(model: str, feeds: Feeds, output: str) -> None:
    """The same for matrix products and convolutions only, which is what vendors advise for transformers."""
    ort_static(model, feeds, output, op_types_to_quantize=_PRODUCTS)


def ort_entropy(model: str, feeds: Feeds, output: str) -> None:
    from onnxruntime.quantization import CalibrationMethod

    ort_static(model, feeds, output, calibrate_method=CalibrationMethod.Entropy)


def ort_percentile(model: str, feeds: Feeds, output: str) -> None:
    from onnxruntime.quantization import CalibrationMethod

    ort_static(model, feeds, output, calibrate_method=CalibrationMethod.Percentile)


def ort_static_16(model: str, feeds: Feeds, output: str) -> None:
    """16-bit activations, 8-bit weights."""
    from onnxruntime.quantization import QuantType

    ort_static(model, feeds, output, activation_type=QuantType.QUInt16, extra_options={"UseQDQContribOps": True})


def ort_dynamic(model: str, feeds: Feeds, output: str) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(model, output, per_channel=True, weight_type=QuantType.QInt8)


def ort_weights_8(model: str, feeds: Feeds, output: str) -> None:
    _ort_weights(model, output, bits=8)


def ort_weights_4(model: str, feeds: Feeds, output: str) -> None:
    _ort_weights(model, output, bits=4)


def ort_weights_2(model: str, feeds: Feeds, output: str) -> None:
    _ort_weights(model, output, bits=2)


def ort_weights_hqq(model: str, feeds: Feeds, output: str) -> None:
    _ort_weights(model, output, bits=4, half_quadratic=True)


def _ort_weights(model: str, output: str, bits: int, half_quadratic: bool = False) -> None:
    """Weights of matrix products only, in blocks of 32 (MatMulNBits). half_quadratic needs PyTorch."""
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import HQQWeightOnlyQuantConfig, MatMulNBitsQuantizer

    config = HQQWeightOnlyQuantConfig(block_size=32, bits=bits) if half_quadratic else None
    quantizer = MatMulNBitsQuantizer(onnx.load(model), block_size=32, is_symmetric=True, bits=bits, algo_config=config)
    quantizer.process()
    quantizer.model.save_model_to_file(output)


def prepared(quantize: Callable[[str, Feeds, str], None]) -> Callable[[str, Feeds, str], None]:
    """`quantize` after what an expert user does by hand: opset 17, constants lifted to initializers, BN folded."""

    def run(model: str, feeds: Feeds, output: str) -> None:
        import onnx
        from onnxruntime.quantization.shape_inference import quant_pre_process

        raised = output + ".opset17"
        onnx.save(onnx.version_converter.convert_version(onnx.load(model), 17), raised)
        quant_pre_process(raised, raised, skip_symbolic_shape=True)
        quantize(raised, feeds, output)

    return run


def nncf_default(model: str, feeds: Feeds, output: str) -> None:
    _nncf(model, feeds, output)


def nncf_transformer(model: str, feeds: Feeds, output: str) -> None:
    """NNCF's transformer settings with SmoothQuant at 0.5, the best static peer of its size that we know."""
    import nncf

    smooth = nncf.AdvancedSmoothQuantParameters(matmul=0.5)
    advanced = nncf.AdvancedQuantizationParameters(smooth_quant_alphas=smooth)
    _nncf(model, feeds, output, model_type=nncf.ModelType.TRANSFORMER, advanced_parameters=advanced)


def _nncf(model: str, feeds: Feeds, output: str, **options: Any) -> None:
    import nncf
    import onnx

    preset = nncf.QuantizationPreset.MIXED
    result = nncf.quantize(onnx.load(model), nncf.Dataset(feeds), preset=preset, subset_size=len(feeds), **options)
    onnx.save(result, output)


def onnxsim_static(model: str, feeds: Feeds, output: str) -> None:
    """onnxsim's static quantization: products with constant weights only, so attention's own products stay float.

    It leaves the float weights in the file, unused; they are dropped here, which is kind to it (117 -> 31 MB).
    """
    import onnx
    import onnxsim

    simplified, _ = onnxsim.simplify(model)
    result = onnxsim.quantize_static(simplified, feeds)
    used = {name for node in result.graph.node for name in node.input}
    weights = [tensor for tensor in result.graph.initializer if tensor.name in used]
    del result.graph.initializer[:]
    result.graph.initializer.extend(weights)
    onnx.save(result, output)


def modelopt_max(model: str, feeds: Feeds, output: str) -> None:
    """NVIDIA ModelOpt, int8 with maximum calibration, on a copy: it writes into the file that it is given."""
    import shutil

    from modelopt.onnx.quantization import quantize

    copy = output + ".input.onnx"
    shutil.copyfile(model, copy)
    data = {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}
    quantize(
        copy, quantize_mode="int8", calibration_data=data, calibration_method="max", calibration_eps=["cpu"],
        output_path=output,
    )  # fmt: skip


def quark_a8w8(model: str, feeds: Feeds, output: str) -> None:
    """AMD Quark's A8W8."""
    from onnxruntime.quantization import CalibrationDataReader
    from quark.onnx import Int8Spec, ModelQuantizer, QConfig, QLayerConfig

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.left = iter(feeds)

        def get_next(self):
            return next(self.left, None)

    config = QConfig(global_config=QLayerConfig(activation=Int8Spec(), weight=Int8Spec()))
    ModelQuantizer(config).quantize_model(model, output, Reader())


_ALL = ("vit-s", "ppocr-rec", "ppocr-det")
_OCR = ("ppocr-rec", "ppocr-det")

PEERS: dict[str, Peer] = {
    "ORT static min-max": Peer("ort", ort_static, _ALL),
    "ORT static min-max, products only": Peer("ort", ort_static_products, ("vit-s",)),
    "ORT static entropy, 8 samples": Peer("ort", ort_entropy, ("vit-s",), samples=8),
    "ORT static percentile, 8 samples": Peer("ort", ort_percentile, ("vit-s",), samples=8),
    "ORT static A16W8": Peer("ort", ort_static_16, ("vit-s",)),
    "ORT dynamic": Peer("ort", ort_dynamic, _ALL),
    "ORT dynamic, prepared": Peer("ort", prepared(ort_dynamic), _OCR),
    "ORT weights 8 bit, block 32": Peer("ort", ort_weights_8, ("vit-s",)),
    "ORT weights 4 bit, block 32": Peer("ort", ort_weights_4, ("vit-s",)),
    "ORT weights 2 bit, block 32": Peer("ort", ort_weights_2, ("vit-s",), by_default=False),
    "ORT weights 4 bit, block 32, HQQ": Peer("ort-torch", ort_weights_hqq, ("vit-s",), by_default=False),
    "ORT weights 4 bit, block 32, prepared": Peer("ort", prepared(ort_weights_4), ("ppocr-rec",)),
    "ORT static min-max, prepared": Peer("ort", prepared(ort_static), _OCR),
    "ORT static percentile, prepared, 8 samples": Peer("ort", prepared(ort_percentile), _OCR, samples=8),
    "ORT static A16W8, prepared": Peer("ort", prepared(ort_static_16), _OCR),
    "NNCF, defaults": Peer("nncf", nncf_default, _ALL, by_default=False),
    "NNCF, prepared": Peer("nncf", prepared(nncf_default), _OCR, by_default=False),
    "NNCF transformer, SmoothQuant 0.5": Peer("nncf", nncf_transformer, ("vit-s",), by_default=False),
    "onnxsim static": Peer("onnxsim", onnxsim_static, _ALL, by_default=False),
    "ModelOpt int8 max": Peer("modelopt", modelopt_max, _ALL, by_default=False),
    "Quark A8W8": Peer("quark", quark_a8w8, _ALL, by_default=False),
}


def main(name: str, model: str, data: str, output: str) -> None:
    arrays = dict(np.load(data))
    count = min(PEERS[name].samples, *(len(array) for array in arrays.values()))
    feeds = [{key: array[i : i + 1] for key, array in arrays.items()} for i in range(count)]
    PEERS[name].function(model, feeds, output)


if __name__ == "__main__":
    main(*sys.argv[1:])

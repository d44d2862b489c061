"""Vision transformers as exporters of torch write them: small networks with seeded random weights, for their spellings.

    python -m models.exported [FOLDER]      writes every network of NETWORKS through every exporter of EXPORTERS

torch and timm are needed to make them. What they made is kept in models/exports without the weights, which `stored`
draws again with the same mean and deviation.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import pathlib
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx

from qonnx.errors import QonnxError

INPUT, OUTPUT = "image", "logits"
SIZE = 32  # height and width of the images
STORE = pathlib.Path(__file__).with_name("exports")
_FEW = 64  # different numbers that no drawn weight has as few of
INSTALL = "pip install torch torchvision timm onnxscript"


def images(count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """`count` feeds of one image, float32 [1, 3, 32, 32]: standard normal noise on a few random waves."""
    made = []
    for i in range(count):
        generator = np.random.default_rng([seed, i])
        wave, phase = generator.uniform(0.1, 0.9, (3, 2)), generator.uniform(0, 6, 3)
        rows, columns = np.mgrid[0:SIZE, 0:SIZE]
        smooth = [np.sin(a * rows + b * columns + p) for (a, b), p in zip(wave, phase, strict=True)]
        noise = generator.standard_normal((3, SIZE, SIZE))
        made.append({INPUT: (np.stack(smooth) + 0.5 * noise)[None].astype(np.float32)})
    return made


def _vit(fused: bool) -> Any:
    from timm.models.vision_transformer import VisionTransformer

    with _attention(fused):
        return VisionTransformer(img_size=SIZE, patch_size=8, embed_dim=64, depth=3, num_heads=4, num_classes=10)


def _deit() -> Any:
    from timm.models.deit import VisionTransformerDistilled

    with _attention(True):
        return VisionTransformerDistilled(
            img_size=SIZE, patch_size=8, embed_dim=96, depth=2, num_heads=3, num_classes=10
        )


def _swin(fused: bool) -> Any:
    """Every second block has shifted windows and therefore a mask."""
    from timm.models.swin_transformer import SwinTransformer

    with _attention(fused):
        return SwinTransformer(
            img_size=SIZE,
            patch_size=2,
            window_size=4,
            embed_dim=64,
            depths=(2, 2),
            num_heads=(2, 4),
            num_classes=10,
        )


def _encoder() -> Any:
    """torch's own encoder layers: projections of query, key and value in one matrix, tokens first."""
    import torch
    from torch import nn

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, 64, 8, 8)
            self.position = nn.Parameter(torch.zeros(1, (SIZE // 8) ** 2, 64))
            layer = nn.TransformerEncoderLayer(64, 4, 128, 0.0, "gelu", batch_first=True, norm_first=True)
            self.layers = nn.TransformerEncoder(layer, 2, nn.LayerNorm(64), enable_nested_tensor=False)
            self.head = nn.Linear(64, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            tokens = self.patches(x).flatten(2).transpose(1, 2) + self.position
            return self.head(self.layers(tokens).mean(1))

    return Encoder()


# Each makes a torch module; "-spelled" ones write attention out instead of calling scaled_dot_product_attention.
NETWORKS: dict[str, Callable[[], Any]] = {
    "vit": lambda: _vit(True),
    "vit-spelled": lambda: _vit(False),
    "deit": _deit,
    "swin": lambda: _swin(True),
    "swin-spelled": lambda: _swin(False),
    "encoder": _encoder,
}
BLOCKS = {"vit": 3, "vit-spelled": 3, "deit": 2, "swin": 4, "swin-spelled": 4, "encoder": 2}  # of attention


def _torchscript(module: Any, image: Any, path: str) -> None:
    import torch

    names = {"input_names": [INPUT], "output_names": [OUTPUT], "dynamic_axes": {INPUT: {0: "N"}, OUTPUT: {0: "N"}}}
    torch.onnx.export(module, (image,), path, dynamo=False, opset_version=17, **names)


def _dynamo(module: Any, image: Any, path: str, opset: int = 20) -> None:
    import torch

    names = {"input_names": [INPUT], "output_names": [OUTPUT]}
    batch = ({0: torch.export.Dim("N", min=1, max=64)},)
    torch.onnx.export(
        module,
        (image,),
        path,
        dynamo=True,
        dynamic_shapes=batch,
        external_data=False,
        verbose=False,
        opset_version=opset,
        **names,
    )


# "dynamo-23" writes the standard's Attention where a network calls torch's in one piece.
EXPORTERS: dict[str, Callable[[Any, Any, str], None]] = {
    "torchscript": _torchscript,
    "dynamo": _dynamo,
    "dynamo-23": functools.partial(_dynamo, opset=23),
}


def export(network: str, exporter: str, path: str | os.PathLike) -> None:
    """Write NETWORKS[network], its weights drawn anew, through EXPORTERS[exporter] to `path`.

    The input `image` is float32 [N, 3, 32, 32], the output `logits` [N, 10]. Raises QonnxError where torch or timm are
    not installed.
    """
    try:
        import timm  # noqa: F401 - says at once, and for every network, what is missing
        import torch
    except ImportError as error:
        raise QonnxError(f"'{error.name}' is missing; install what makes these files with: {INSTALL}") from error
    module = NETWORKS[network]().eval()
    _draw(module)
    torch.backends.mha.set_fastpath_enabled(False)  # its one operator for a layer has no translation to ONNX
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # on sizes that become constants, which these networks mean to be
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        EXPORTERS[exporter](module, torch.zeros(2, 3, SIZE, SIZE), str(path))


def strip(model: onnx.ModelProto) -> None:
    """Take the numbers of weights away; what is left of each are its mean and deviation, in `doc_string`.

    Tensors of few different numbers stay: masks, indices, shapes.
    """
    for tensor in model.graph.initializer:
        data = onnx.numpy_helper.to_array(tensor)
        if data.dtype == np.float32 and np.unique(data).size >= _FEW:
            tensor.ClearField("raw_data")
            tensor.ClearField("float_data")
            tensor.doc_string = f"{data.mean():.6g} {data.std():.6g}"
    del model.graph.value_info[:]
    for node in model.graph.node:  # where in whose source code it came from
        node.ClearField("doc_string")
        del node.metadata_props[:]


def stored(network: str, exporter: str) -> onnx.ModelProto:
    """NETWORKS[network] as EXPORTERS[exporter] once wrote it, the weights drawn from the names of their tensors."""
    model = onnx.load(STORE / f"{network}-{exporter}.onnx")
    for tensor in model.graph.initializer:
        if tensor.doc_string:
            mean, deviation = map(float, tensor.doc_string.split())
            generator = np.random.default_rng(list(tensor.name.encode()))
            drawn = mean + deviation * generator.standard_normal(tuple(tensor.dims))
            tensor.raw_data = drawn.astype("<f4").tobytes()
            tensor.ClearField("doc_string")
    return model


@contextlib.contextmanager
def _attention(fused: bool) -> Iterator[None]:
    """Whether modules of timm made inside call torch's attention in one piece."""
    from timm.layers import set_fused_attn, use_fused_attn

    before = use_fused_attn()
    set_fused_attn(fused, fused)  # Swin asks whether experimental uses are wanted too
    try:
        yield
    finally:
        set_fused_attn(bool(before))


def _draw(module: Any) -> None:
    """Weights of 1/√inputs, biases and tokens of one fifth, scales of norms in [0.5, 1.5]: no quantity vanishes, as
    initial ones of biases do, and scores differ enough that attention is not flat."""
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "norm" in name and name.endswith("weight"):
                parameter.uniform_(0.5, 1.5, generator=generator)
            elif name.endswith("weight"):
                parameter.normal_(0, parameter[0].numel() ** -0.5, generator=generator)
            else:
                parameter.normal_(0, 0.2, generator=generator)


def main(arguments: list[str]) -> int:
    if len(arguments) > 1:
        print("usage: python -m models.exported [FOLDER]", file=sys.stderr)
        return 2
    folder = pathlib.Path(arguments[0]) if arguments else STORE
    folder.mkdir(parents=True, exist_ok=True)
    try:
        for network in NETWORKS:
            for exporter in EXPORTERS:
                file = folder / f"{network}-{exporter}.onnx"
                export(network, exporter, file)
                if folder == STORE:
                    model = onnx.load(file)
                    strip(model)
                    onnx.save(model, file)
                print(file)
    except QonnxError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

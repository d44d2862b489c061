"""Preprocess: how a photograph becomes the input of a vision model.

A preset's name, options, or a preset with options on top, separated by commas; numbers of a vector by colons:

    imagenet      imagenet,layout=nhwc      resize=256,crop=224,mean=0.485:0.456:0.406,std=0.229:0.224:0.225

Order of the steps: colour, size (`resize`, `height`, `least`, `multiple`), `crop`, pixels / `scale`, − `mean`, / `std`,
layout.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

from qonnx.errors import QonnxError
from qonnx.options import nearest

_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
}


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """Steps from an image file to a float32 array (uint8 if nothing changes pixel values).

    resize: one number scales the short side to it, height and width ("224x224") stretch. Without any size option,
    images are stretched to the model's height and width where these are fixed.
    height: scale to this height and keep the ratio. least: enlarge if the short side is smaller. multiple: round both
    sides to a multiple of this. crop: cut the middle square, or height x width.
    """

    resize: tuple[int, ...] = ()
    height: int = 0
    least: int = 0
    multiple: int = 0
    crop: tuple[int, ...] = ()
    scale: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    layout: Literal["nchw", "nhwc"] = "nchw"
    color: Literal["rgb", "bgr", "grey"] = "rgb"
    filter: Literal["bilinear", "bicubic", "lanczos", "nearest"] = "bilinear"

    @property
    def keeps_pixels(self) -> bool:
        """Whether the values of pixels stay the integers 0…255."""
        return self.scale == 1.0 and not self.mean and not self.std

    def spatial(self, shape: tuple[int | None, ...]) -> tuple[int | None, int | None]:
        """Height and width of an input of `shape`."""
        return (shape[1], shape[2]) if self.layout == "nhwc" else (shape[2], shape[3])

    def __call__(self, image: Image.Image, shape: tuple[int | None, ...] | None = None) -> np.ndarray:
        """The input [1, C, H, W] or [1, H, W, C] for an image; `shape` is the model's."""
        image = ImageOps.exif_transpose(image).convert("L" if self.color == "grey" else "RGB")
        image = self._sized(image, shape)
        pixels = np.asarray(image)
        pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
        if self.color == "bgr":
            pixels = pixels[:, :, ::-1]
        if not self.keeps_pixels:
            pixels = pixels.astype(np.float32) / np.float32(self.scale)
            if self.mean:
                pixels -= np.array(self.mean, np.float32)
            if self.std:
                pixels /= np.array(self.std, np.float32)
        if self.layout == "nchw":
            pixels = pixels.transpose(2, 0, 1)
        return np.ascontiguousarray(pixels[None])

    def _sized(self, image: Image.Image, shape: tuple[int | None, ...] | None) -> Image.Image:
        width, height = image.size
        if len(self.resize) == 2:
            height, width = self.resize
        elif self.resize:
            short = min(width, height)
            width, height = round(width * self.resize[0] / short), round(height * self.resize[0] / short)
        elif self.height:
            width, height = max(1, round(width * self.height / height)), self.height
        elif self.least and min(width, height) < self.least:
            short = min(width, height)
            width, height = round(width * self.least / short), round(height * self.least / short)
        elif not (self.crop or self.multiple or self.least) and shape is not None and len(shape) == 4:
            wanted = self.spatial(shape)
            height, width = (wanted[0] or height), (wanted[1] or width)
        if self.multiple:
            width, height = (max(1, round(side / self.multiple)) * self.multiple for side in (width, height))
        if (width, height) != image.size:
            image = image.resize((width, height), _FILTERS[self.filter], reducing_gap=3)
        if self.crop:
            rows, columns = self.crop if len(self.crop) == 2 else self.crop * 2
            left, top = round((width - columns) / 2), round((height - rows) / 2)
            image = image.crop((left, top, left + columns, top + rows))
        return image


_IMAGENET = {"scale": 255.0, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
PRESETS: dict[str, Preprocess] = {
    # torchvision's evaluation transform, and the same stretched to the input without a crop
    "imagenet": Preprocess(resize=(256,), crop=(224,), **_IMAGENET),
    "imagenet-stretched": Preprocess(resize=(224, 224), **_IMAGENET),
    # values in [0, 1], in [-1, 1], or as they are; stretched to the model's input
    "unit": Preprocess(scale=255.0),
    "signed": Preprocess(scale=127.5, mean=(1.0,)),
    "pixels": Preprocess(),
    # PaddleOCR: lines of text 48 pixels high; pages with a short side of 736 at least, sides in multiples of 32
    "ppocr-rec": Preprocess(height=48, scale=255.0, mean=(0.5,), std=(0.5,), color="bgr"),
    "ppocr-det": Preprocess(least=736, multiple=32, scale=255.0, mean=(0.5,), std=(0.5,), color="bgr"),
}


def preprocess(text: str) -> Preprocess:
    """The steps that `text` names (see the top of this file); a misspelt name or value is a QonnxError."""
    chosen, options = Preprocess(), {}
    fields = {field.name: field for field in dataclasses.fields(Preprocess)}
    for index, part in enumerate(piece.strip() for piece in text.split(",")):
        name, equals, value = part.partition("=")
        if not equals and index == 0 and name in PRESETS:
            chosen = PRESETS[name]
        elif not equals:
            raise QonnxError(f"unknown preprocess '{name}'; {nearest(name, PRESETS)}")
        elif name not in fields:
            raise QonnxError(f"unknown preprocess option '{name}' in '{text}'; {nearest(name, fields)}")
        else:
            options[name] = _value(name, value, fields[name].type)
    result = dataclasses.replace(chosen, **options)
    if 0 in result.std or result.scale == 0:
        raise QonnxError(f"preprocess '{text}' divides by 0; give another scale or std")
    return result


def _value(name: str, value: str, kind: str) -> object:
    """`value` as the type of the field, spelled in its annotation."""
    if kind.startswith("Literal"):
        known = _FILTERS if name == "filter" else {"layout": ("nchw", "nhwc"), "color": ("rgb", "bgr", "grey")}[name]
        if value not in known:
            raise QonnxError(f"preprocess option {name}={value}; {nearest(value, known)}")
        return value
    try:
        if kind.startswith("tuple[int"):
            numbers = tuple(int(part) for part in value.split("x"))
            if not 1 <= len(numbers) <= 2 or min(numbers) < 1:
                raise ValueError
            return numbers
        if kind.startswith("tuple[float"):
            return tuple(float(part) for part in value.split(":"))
        return int(value) if kind == "int" else float(value)
    except ValueError:
        form = {"tuple[int, ...]": "224 or 224x320", "tuple[float, ...]": "0.5 or 0.5:0.5:0.5"}.get(kind, "a number")
        raise QonnxError(f"preprocess option {name}={value} is not understood; write {name}={form}") from None

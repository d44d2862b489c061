"""Pages and street scenes with text in them, for the detection model: rendered text over photos and paper, and scans.

Splits share no font family, no word and no photo (models/text_lines.py, models/photos.py); the two scanned pages that
scikit-image carries are seen in evaluation only.

    python -m models.pages calibration 16 data.npz      writes what `qonnx convert --data` reads
"""

from __future__ import annotations

import sys

import numpy as np
from PIL import Image, ImageDraw

from models import photos, real, text_lines
from qonnx.errors import QonnxError

HEIGHT, WIDTH = 480, 640  # multiples of 32, as the model demands; one size, so that samples stack
SCANS = ("page.png", "text.png")


def pages(split: str, count: int, seed: int = 0) -> list[np.ndarray]:
    """`count` float32 arrays [1,3,480,640] in [-1, 1]; each from its own generator."""
    if split not in text_lines.FAMILIES:
        raise QonnxError(f"there is no split '{split}' of the pages; choose one of {', '.join(text_lines.FAMILIES)}")
    place = list(text_lines.FAMILIES).index(split)
    scans = SCANS if split == "evaluation" else ()
    images = [
        photos.photo(scans[i]) if i < len(scans) else scene(split, np.random.default_rng([seed, place, i]))
        for i in range(count)
    ]
    return [normalise(image) for image in images]


def scene(split: str, generator: np.random.Generator) -> Image.Image:
    """One picture: a photo of the split (two thirds) or paper, with three to ten labels or bare lines of text."""
    names = photos.SPLITS[split]
    if generator.random() < 2 / 3:
        photo = photos.photo(names[generator.integers(len(names))])
        image = photo.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC, reducing_gap=3)
    else:
        image = text_lines.background((WIDTH, HEIGHT), generator.random() < 0.3, split, generator)
    taken = np.zeros((HEIGHT, WIDTH), bool)
    for _ in range(int(generator.integers(3, 11))):
        _place(image, taken, split, generator)
    return text_lines.worn(image, 0.8, generator)


def _place(image: Image.Image, taken: np.ndarray, split: str, generator: np.random.Generator) -> None:
    """Put one phrase at a free place of the picture: as a label with its own ground, or straight on the picture."""
    face = text_lines.font(split, generator)
    phrase = text_lines.phrase(split, generator)
    label = text_lines.draw(phrase, face, split, generator)
    if label.width > WIDTH or label.height > HEIGHT:
        return
    x, y = int(generator.integers(0, WIDTH - label.width + 1)), int(generator.integers(0, HEIGHT - label.height + 1))
    around = taken[max(0, y - 8) : y + label.height + 8, max(0, x - 8) : x + label.width + 8]
    if around.any():
        return
    around[:] = True
    if generator.random() < 0.5:
        image.paste(label, (x, y))
        return
    ground = np.asarray(image.crop((x, y, x + label.width, y + label.height)).convert("L"))
    level = int(generator.integers(0, 60)) if ground.mean() > 127 else int(generator.integers(200, 256))
    left, top, _, _ = face.getbbox(phrase)
    ImageDraw.Draw(image).text((x - left, y - top), phrase, font=face, fill=(level, level, level))


def normalise(image: Image.Image) -> np.ndarray:
    """Scale to 480 x 640 and map [0, 255] to [-1, 1]: float32 [1,3,480,640]."""
    pixels = np.asarray(image.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR, reducing_gap=3), np.float32)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None] / 127.5 - 1)


def main(arguments: list[str]) -> int:
    if len(arguments) != 3 or not arguments[1].isdigit():
        print(f"usage: python -m models.pages {{{','.join(text_lines.FAMILIES)}}} COUNT FILE.npz")
        return 2
    split, count, file = arguments
    np.savez(file, **{real.REAL["ppocr-det"].input_name: np.concatenate(pages(split, int(count)))})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

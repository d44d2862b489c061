"""Rendered lines of English text, as a text detector would cut them out of a photo, for the recognition model.

A line is drawn in a real font over paper, a gradient or a photo, bent a little, blurred, given noise and JPEG blocks,
then scaled to 48 rows and padded on the right with zeros *after* normalisation, as PP-OCR's own pre-processing does:
most users' lines are shorter than the 320 columns, and that flat padding is what a quantized first layer gets wrong.

Splits share no font family, no word and no background photo.

    python -m models.text_lines calibration 32 data.npz      writes what `qonnx convert --data` reads
"""

from __future__ import annotations

import io
import math
import pathlib
import sys
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from models import photos, real
from qonnx.errors import QonnxError

HEIGHT, WIDTH = 48, 320  # PP-OCRv4's recognition shape

# Family -> files inside its wheel; Aileron is the TrueType font that Pillow itself carries.
_FACES = {
    "font-source-sans-pro": ("font_source_sans_pro/files/SourceSansPro-{}.ttf", ("Regular", "Bold", "It", "Semibold")),
    "font-caladea": ("font_caladea/files/Caladea-{}.ttf", ("Regular", "Bold", "Italic", "BoldItalic")),
    "font-manrope": ("font_manrope/files/Manrope-{}.ttf", ("Regular", "Bold", "Medium")),
    "font-hanken-grotesk": ("font_hanken_grotesk/files/HankenGrotesk-{}.otf", ("Regular", "Bold", "Italic", "Medium")),
    "font-source-serif-pro": (
        "font_source_serif_pro/files/SourceSerifPro-{}.ttf",
        ("Regular", "Bold", "It", "Semibold"),
    ),
    "pillow": ("", ("Aileron",)),
}
FAMILIES = {
    "calibration": ("font-source-sans-pro", "font-caladea"),
    "tuning": ("font-manrope",),
    "evaluation": ("font-hanken-grotesk", "font-source-serif-pro", "pillow"),
}

_WORDS = pathlib.Path(__file__).with_name("words.txt").read_text().split()


@dataclass(frozen=True)
class Line:
    """One line: float32 `pixels` [1,3,48,320] in [-1, 1] (0 in the padding) and the `text` that was drawn."""

    pixels: np.ndarray
    text: str


def words(split: str) -> list[str]:
    """The words of a split: every fifth word for calibration, every fifth for tuning, the rest for evaluation."""
    residues = {"calibration": (0,), "tuning": (1,), "evaluation": (2, 3, 4)}[split]
    return [word for i, word in enumerate(_WORDS) if i % 5 in residues]


def lines(split: str, count: int, seed: int = 0) -> list[Line]:
    """`count` lines of a split; each from its own generator, so that the first are the same for every `count`."""
    if split not in FAMILIES:
        raise QonnxError(f"there is no split '{split}' of the text lines; choose one of {', '.join(FAMILIES)}")
    place = list(FAMILIES).index(split)  # otherwise two splits would show the same numbers
    return [_line(split, np.random.default_rng([seed, place, i])) for i in range(count)]


def _line(split: str, generator: np.random.Generator) -> Line:
    face = font(split, generator)
    text = phrase(split, generator)
    image = draw(text, face, split, generator)
    while image.width * HEIGHT > WIDTH * image.height and " " in text:  # too long for the model's width: drop a word
        text = text.rsplit(" ", 1)[0]
        image = draw(text, face, split, generator)
    return Line(normalise(image), text)


def font(split: str, generator: np.random.Generator) -> ImageFont.FreeTypeFont:
    """A face of the split's families at 11 to 40 pixels."""
    families = FAMILIES[split]
    family = families[generator.integers(len(families))]
    size = int(generator.integers(11, 41))
    member, styles = _FACES[family]
    style = styles[generator.integers(len(styles))]
    if family == "pillow":
        return ImageFont.load_default(size)
    file = real.installed(family, member.format(style))
    if file is None:
        raise QonnxError(f"the fonts of '{family}' are not installed; install them with: pip install {family}")
    return ImageFont.truetype(str(file), size)


def phrase(split: str, generator: np.random.Generator) -> str:
    """One to three words in one case, or a number as forms and signs carry it, or both."""
    case = (str.lower, str.title, str.upper)[generator.choice(3, p=(0.4, 0.4, 0.2))]
    chosen = [case(str(word)) for word in generator.choice(words(split), int(generator.integers(1, 4)), replace=False)]
    kind = generator.random()
    if kind < 0.15:
        return _number(generator)
    return " ".join([*chosen[:2], _number(generator)] if kind < 0.35 else chosen)


def _number(generator: np.random.Generator) -> str:
    digits = generator.integers(0, 10, 8)
    forms = (
        "{}{}{}", "{}{}:{}{}", "{}{}/{}{}/{}{}{}{}", "{}{},{}{}{}.{}{}", "{}.{}{}", "{}{}%", "No.{}{}{}",
        "A{}-{}{}{}{}", "({}{}{}) {}{}{}{}", "{}{}{}{}{}{}{}{}",
    )  # fmt: skip
    return forms[generator.integers(len(forms))].format(*digits)


def draw(text: str, face: ImageFont.FreeTypeFont, split: str, generator: np.random.Generator) -> Image.Image:
    """The line as cut out of a photo, at its own resolution: RGB, a few pixels of margin around the text."""
    left, top, right, bottom = face.getbbox(text)
    margin = [int(m) for m in generator.integers(2, 3 + face.size // 4, 4)]
    size = (math.ceil(right - left) + margin[0] + margin[2], math.ceil(bottom - top) + margin[1] + margin[3])
    dark = generator.random() < 0.7  # dark text on light paper, else the reverse
    image = background(size, not dark, split, generator)
    ink = tuple(int(c) for c in (generator.integers(0, 130, 3) if dark else generator.integers(150, 256, 3)))
    ImageDraw.Draw(image).text((margin[0] - left, margin[1] - top), text, font=face, fill=ink)
    return worn(bent(image, generator), 0.03 * image.height, generator)


def background(size: tuple[int, int], dark: bool, split: str, generator: np.random.Generator) -> Image.Image:
    """Flat paper, a gradient, or a blurred piece of one of the split's photos, kept within a dark or a light range."""
    kind = generator.choice(3, p=(0.4, 0.3, 0.3))
    columns, rows = size
    if kind == 2:
        names = photos.SPLITS[split]
        photo = photos.photo(names[generator.integers(len(names))])
        x, y = (int(generator.integers(0, max(1, full - part))) for full, part in zip(photo.size, size, strict=True))
        piece = photo.crop((x, y, x + columns, y + rows)).filter(ImageFilter.GaussianBlur(1.5))
        pixels = np.asarray(piece, np.float64) * 0.35
    else:
        corners = generator.uniform(0, 90, (2, 3))
        ramp = np.linspace(0, 1, columns)[None, :, None] if kind == 1 else np.zeros((1, 1, 1))
        pixels = np.broadcast_to(corners[0] * (1 - ramp) + corners[1] * ramp, (rows, columns, 3))
    return Image.fromarray((pixels if dark else 255 - pixels).astype(np.uint8))


def bent(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Seen slightly from the side: each corner moves by up to 4 % of the height."""
    reach = 0.04 * image.height
    columns, rows = image.size
    corners = np.array([(0, 0), (0, rows), (columns, rows), (columns, 0)]) + generator.uniform(-reach, reach, (4, 2))
    corners = corners.clip((0, 0), (columns, rows))  # outside there is nothing to see
    return image.transform(image.size, Image.Transform.QUAD, corners.ravel().tolist(), Image.Resampling.BICUBIC)


def worn(image: Image.Image, blur: float, generator: np.random.Generator) -> Image.Image:
    """Blur of up to `blur` pixels, sensor noise and JPEG compression as phones leave them."""
    image = image.filter(ImageFilter.GaussianBlur(generator.uniform(0, blur)))
    pixels = np.asarray(image, np.float64) + generator.normal(
        0, generator.uniform(0, 10), (image.height, image.width, 3)
    )
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=int(generator.integers(40, 96)))
    return Image.open(buffer).convert("RGB")


def normalise(image: Image.Image) -> np.ndarray:
    """Scale to 48 rows, map [0, 255] to [-1, 1] and pad with zeros to 320 columns: float32 [1,3,48,320]."""
    columns = min(WIDTH, max(1, math.ceil(HEIGHT * image.width / image.height)))
    pixels = np.asarray(image.resize((columns, HEIGHT), Image.Resampling.BILINEAR), np.float32).transpose(2, 0, 1)
    padded = np.zeros((1, 3, HEIGHT, WIDTH), np.float32)
    padded[0, :, :, :columns] = pixels / 127.5 - 1
    return padded


def main(arguments: list[str]) -> int:
    if len(arguments) != 3 or not arguments[1].isdigit():
        print(f"usage: python -m models.text_lines {{{','.join(FAMILIES)}}} COUNT FILE.npz")
        return 2
    split, count, file = arguments
    pixels = np.concatenate([line.pixels for line in lines(split, int(count))])
    np.savez(file, **{real.REAL["ppocr-rec"].input_name: pixels})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Measures the real models in every runtime that is here and writes the tables of docs/runtimes.md.

    python -m docs.measure_runtimes FOLDER [MODEL …]
    QONNX_RUNTIMES="ort openvino" python -m …            only these; rows of the others stay as they were

FOLDER keeps the converted models between runs. Each is converted by its recipe on its calibration data and run on
samples that no conversion saw. npm packages come from QONNX_NODE_MODULES, onnx2tf from QONNX_LITERT.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import platform
import sys

from models import pages, photos, real, text_lines
from models.bench import machine
from qonnx.conversion import convert
from qonnx.everywhere import RuntimeRow, markdown, run_everywhere
from qonnx.records import from_plain, to_plain

DOCS = pathlib.Path(__file__).parent
RUNTIMES = ("ort-unoptimized", "ort", "openvino", "ort-node", "ort-web", "ort-web-2", "litert", "ncnn")
RUNTIMES += ("ort-cuda", "tensorrt")
SAMPLES = 2


@dataclasses.dataclass(frozen=True)
class Case:
    """A real model, how it is converted, and its samples of a split."""

    title: str
    model: str
    options: dict
    calibration: int

    def samples(self, split: str, count: int) -> list[dict]:
        name = real.REAL[self.model].input_name
        if self.model == "vit-s":
            return [{name: x} for x in photos.crops(split, count)]
        if self.model == "ppocr-rec":
            return [{name: line.pixels} for line in text_lines.lines(split, count)]
        return [{name: x} for x in pages.pages(split, count)]


CASES = {
    "vit-w8a8": Case("ViT-S, W8A8", "vit-s", {}, 32),
    "vit-int4": Case("ViT-S, 4-bit weights", "vit-s", {"recipe": "weight-int4"}, 0),
    "rec-w8a8": Case("PP-OCRv4 recognition, W8A8", "ppocr-rec", {}, 32),
    "det-w8a8": Case("PP-OCRv4 detection, W8A8", "ppocr-det", {}, 16),
}


def measure(name: str, folder: pathlib.Path) -> list[RuntimeRow]:
    """Convert unless `folder` has the file, run everywhere, keep the rows as JSON."""
    case, file = CASES[name], folder / f"{name}.onnx"
    source = real.path(case.model)
    if not file.exists():
        data = case.samples("calibration", case.calibration) if case.calibration else None
        convert(source, data=data, output=file, threads=2, quiet=True, **case.options)
    chosen = os.environ.get("QONNX_RUNTIMES", " ".join(RUNTIMES)).split()
    found = run_everywhere(source, file, case.samples("evaluation", SAMPLES), chosen, samples=SAMPLES, threads=2)
    rows = {row.runtime: row for row in (*kept(name), *found)}
    (DOCS / "results").mkdir(exist_ok=True)
    plain = to_plain([rows[name] for name in RUNTIMES if name in rows])
    (DOCS / "results" / f"{name}.json").write_text(json.dumps(plain, indent=1, ensure_ascii=False) + "\n")
    return kept(name)


def kept(name: str) -> list[RuntimeRow]:
    """Rows of earlier runs."""
    file = DOCS / "results" / f"{name}.json"
    return [from_plain(RuntimeRow, row) for row in json.loads(file.read_text())] if file.exists() else []


def page() -> str:
    """docs/runtimes.md from the results that are kept."""
    where = machine()
    text = (DOCS / "runtimes.head.md").read_text()
    for name, case in CASES.items():
        if rows := kept(name):
            text += f"\n## {case.title}\n\n{markdown(rows)}"
    system = f"{where['cpu']}, {where['cores']} cores, {platform.system()}"
    return f"{text}\nMeasured on {system}, by `python -m docs.measure_runtimes`; {SAMPLES} samples, 2 threads.\n"


def main(arguments: list[str]) -> int:
    folder = pathlib.Path(arguments[0])
    folder.mkdir(parents=True, exist_ok=True)
    for name in arguments[1:] or CASES:
        print(f"{name} …", file=sys.stderr, flush=True)
        print(markdown(measure(name, folder)))
    (DOCS / "runtimes.md").write_text(page())
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    sys.exit(main(sys.argv[1:]))

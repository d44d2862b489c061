"""Every operator under the sanitizers of the compiler: addresses and undefined behaviour, and data races.

Library and runner are compiled with the same sanitizer and run without Python, which would bring its own allocations
and threads. For races several threads share a session, and tasks of an operator go to threads that the sanitizer sees.
"""

import os
import pathlib
import shutil
import subprocess

import onnxruntime
import pytest

from tests import native_cases

RUNTIME = next((pathlib.Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so*"), None)
MISSING = [name for name in ("cmake", "g++") if shutil.which(name) is None]

pytestmark = [
    pytest.mark.sanitize,
    pytest.mark.skipif(bool(MISSING), reason=f"needs {' and '.join(MISSING)}"),
    pytest.mark.skipif(RUNTIME is None, reason="this package of ONNX Runtime has no shared library for C++ programs"),
]

OPTIONS = {
    # ONNX Runtime keeps what it made until the process ends
    "address,undefined": {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"},
    # what ONNX Runtime does between its own threads is not ours to judge
    "thread": {"TSAN_OPTIONS": "ignore_noninstrumented_modules=1 halt_on_error=1"},
}


@pytest.fixture(scope="module", params=list(OPTIONS))
def built(request, tmp_path_factory):
    """(sanitizer, runner, library)"""
    folder = tmp_path_factory.mktemp("sanitized")
    source, generator = native_cases.ROOT / "custom_ops", ["-G", "Ninja"] if shutil.which("ninja") else []
    for command in (
        ["cmake", "-S", str(source), "-B", str(folder), f"-DQONNX_SANITIZE={request.param}", *generator],
        ["cmake", "--build", str(folder), "--parallel", "2"],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    runner = native_cases.runner(["g++", f"-fsanitize={request.param}"], folder / "run_cases")
    return request.param, runner, folder / "libqonnx_ops.so"


@pytest.mark.parametrize("tier", ["scalar", "avx2", "avx2vnni", "avx512", "avx512vnni"])
def test_operators_pass(built, tier, tmp_path):
    sanitizer, runner, library = built
    environment = {**os.environ, **OPTIONS[sanitizer], "QONNX_CPU": tier}
    threads = {"threads": 3} if sanitizer == "thread" else {}
    command = [str(runner), str(RUNTIME), str(library)]
    native_cases.judge(tmp_path, command, native_cases.cases(), env=environment, **threads)


def test_the_library_is_watched(built):
    """Its code calls the sanitizer: what passes, passes under it."""
    sanitizer, _, library = built
    calls = {"address,undefined": (b"__asan_report_load4", b"__ubsan_handle"), "thread": (b"__tsan_read4",)}
    assert all(call in library.read_bytes() for call in calls[sanitizer])

"""The CUDA kernels on the emulated device under the address, undefined-behaviour and thread sanitizers."""

import os
import subprocess
import sys

import pytest

from tests.cuda_build import ROOT, build, needs_compiler

_RUN = """
import sys
from tests import cuda_codebook_cases, cuda_product_cases, cuda_rows_cases
from tests.cuda_emulation import Device
device = Device(sys.argv[1])
for seed in (0, 1):
    device.seed(seed)
    for cases in (cuda_rows_cases, cuda_product_cases, cuda_codebook_cases):
        getattr(cases, sys.argv[2])(device)
"""


def run(library: str, cases: str, runtimes: tuple[str, ...], **options: str) -> None:
    found = [subprocess.check_output(["g++", f"-print-file-name={name}"], text=True).strip() for name in runtimes]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LD_PRELOAD": " ".join(found), **options}
    # ThreadSanitizer cannot run where addresses are drawn at random
    command = ["setarch", "-R", sys.executable, "-c", _RUN, library, cases]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.sanitize
@needs_compiler
def test_no_address_is_out_of_bounds_and_nothing_is_undefined():
    library = build(sanitizer="address")
    run(
        library,
        "check_all",
        ("libasan.so", "libstdc++.so"),
        ASAN_OPTIONS="detect_leaks=0",
        UBSAN_OPTIONS="halt_on_error=1",
    )


@pytest.mark.sanitize
@needs_compiler
def test_no_two_threads_meet_in_memory_between_barriers():
    run(
        build(sanitizer="thread"),
        "check_few",
        ("libtsan.so", "libstdc++.so"),
        TSAN_OPTIONS="halt_on_error=1",
        OPENBLAS_NUM_THREADS="1",
    )

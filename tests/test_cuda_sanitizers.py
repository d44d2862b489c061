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
for seed in map(int, sys.argv[3:]):
    device.seed(seed)
    for cases in (cuda_rows_cases, cuda_product_cases, cuda_codebook_cases):
        getattr(cases, sys.argv[2])(device)
"""


def run(
    library: str, cases: str, seeds: str, runtimes: tuple[str, ...], **options: str
) -> subprocess.CompletedProcess[str]:
    found = [subprocess.check_output(["g++", f"-print-file-name={name}"], text=True).strip() for name in runtimes]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LD_PRELOAD": " ".join(found), **options}
    # ThreadSanitizer cannot run where addresses are drawn at random
    command = ["setarch", "-R", sys.executable, "-c", _RUN, library, cases, *seeds]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)


def run_threads(library: str) -> subprocess.CompletedProcess[str]:
    runtimes = ("libtsan.so", "libstdc++.so")
    return run(library, "check_few", "1", runtimes, TSAN_OPTIONS="halt_on_error=1", OPENBLAS_NUM_THREADS="1")


@pytest.mark.sanitize
@needs_compiler
def test_no_address_is_out_of_bounds_and_nothing_is_undefined():
    library = build(sanitizer="address")
    options = {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "halt_on_error=1"}
    done = run(library, "check_all", "01", ("libasan.so", "libstdc++.so"), **options)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.sanitize
@needs_compiler
def test_no_two_threads_meet_in_memory_between_barriers():
    done = run_threads(build(sanitizer="thread"))
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.sanitize
@needs_compiler
@pytest.mark.parametrize("fault", ["rows_transform_barrier", "sums_finish_barrier"])
def test_two_threads_that_meet_are_noticed(fault):
    done = run_threads(build(fault, "thread"))
    assert done.returncode and "ThreadSanitizer: data race" in done.stderr, done.stderr[-4000:]

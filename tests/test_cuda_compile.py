"""The CUDA kernels under nvcc: every architecture compiles, nothing spills, no inline PTX outside ptx.cuh."""

import pathlib
import re
import shutil
import subprocess

import pytest

from tests.cuda_build import CUDA

_USUAL = pathlib.Path("/usr/local/cuda/bin/nvcc")
NVCC = shutil.which("nvcc") or (str(_USUAL) if _USUAL.exists() else None)
needs_nvcc = pytest.mark.skipif(NVCC is None, reason="nvcc is not installed: the kernels are compiled by g++ only")
SMALL = (
    "rows.cu",
    "product.cu",
    "product_x.cu",
    "gather.cu",
    "log_attention.cu",
    "log_quantize.cu",
    "lookup_quantize.cu",
    "runtime.cu",
)
PRODUCTS = tuple(f"{weight}_{math}.cu" for weight in ("lowbit", "codebook") for math in ("float16", "bfloat16", "int8"))
ARCHITECTURES = (75, 80, 86, 87, 89, 90, 100, 120)
# Few formats and architectures in every run, all of them by hand: -m nvcc
CASES = [(name, architecture, "-DQONNX_FOUR_BITS") for name in SMALL[:-1] for architecture in (80, 90)]
CASES += [("lowbit_float16.cu", 80, "-DQONNX_FOUR_BITS"), ("lowbit_int8.cu", 90, "-DQONNX_FOUR_BITS")]
CASES += [("codebook_float16.cu", 80, "-DQONNX_FOUR_BITS"), ("codebook_int8.cu", 90, "-DQONNX_FOUR_BITS")]
CASES += [("lowbit_bfloat16.cu", 75, "-DQONNX_FOUR_BITS"), ("lowbit_float16.cu", 87, "-DQONNX_FOUR_BITS")]


def resources(name: str, architecture: int, *flags: str) -> list[tuple[int, int]]:
    """Registers and bytes of local memory (spills and stack) of each kernel of a file."""
    command = [NVCC, "-std=c++20", f"-arch=sm_{architecture}", "-Xptxas", "-v", "-Werror", "all-warnings", *flags]
    done = subprocess.run([*command, "-c", str(CUDA / name), "-o", "/dev/null"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    local = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", done.stderr)
    registers = re.findall(r"Used (\d+) registers", done.stderr)
    return [(int(count), sum(map(int, spills))) for count, spills in zip(registers, local, strict=True)]


def supported() -> set[int]:
    listed = subprocess.run([NVCC, "--list-gpu-arch"], capture_output=True, text=True).stdout
    return {int(number) for number in re.findall(r"compute_(\d+)", listed)}


def check(name: str, architecture: int, *flags: str) -> None:
    if architecture not in supported():
        pytest.skip(f"this nvcc does not know sm_{architecture}")
    kernels = resources(name, architecture, *flags)
    assert kernels or name == "runtime.cu"
    assert all(not local and registers <= 255 for registers, local in kernels), kernels


@pytest.mark.slow
@needs_nvcc
@pytest.mark.parametrize("case", CASES, ids=str)
def test_kernels_compile_without_local_memory(case):
    check(*case)


@pytest.mark.nvcc
@needs_nvcc
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", SMALL + PRODUCTS)
def test_every_kernel_compiles_without_local_memory_for_every_architecture(name, architecture):
    check(name, architecture)


def test_inline_ptx_stands_in_one_file():
    files = [path for path in CUDA.rglob("*") if path.suffix in (".cu", ".cuh", ".h", ".cc")]
    with_asm = {path.name for path in files if re.search(r"\basm\b", path.read_text(encoding="utf-8"))}
    assert with_asm == {"ptx.cuh", "fiber.cc"}  # the second switches stacks of the emulated device


def test_every_source_file_is_small():
    files = [path for path in CUDA.rglob("*") if path.suffix in (".cu", ".cuh", ".h", ".cc", ".py", ".cmake")]
    lines = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert all(count <= 400 for count in lines.values()), lines

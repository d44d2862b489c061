"""Fragments of the emulated tensor cores against NVIDIA's own layouts (CuTe, of the package nvidia-cutlass)."""

import importlib.util
import os
import pathlib
import shutil
import subprocess

import pytest

from tests.cuda_build import CUDA

_PROGRAM = r"""
#include <cute/atom/mma_traits_sm80.hpp>
#include <cstdio>
using namespace cute;
template <class Layout> int differ(Layout layout, int values, int rows, int (*row)(int, int), int (*column)(int, int)) {
  int wrong = 0;
  for (int lane = 0; lane < 32; ++lane)
    for (int v = 0; v < values; ++v) wrong += int(layout(lane, v)) != row(lane, v) + rows * column(lane, v);
  return wrong;
}
int g(int lane) { return lane / 4; }
int t(int lane) { return lane % 4; }
int main() {
  using Half = MMA_Traits<SM80_16x8x16_F32F16F16F32_TN>;
  using Brain = MMA_Traits<SM80_16x8x16_F32BF16BF16F32_TN>;
  using Byte = MMA_Traits<SM80_16x8x32_S32S8S8S32_TN>;
  // value v of a thread: number h of register r, as custom_ops/cuda/emulate/tensor_core.cc says
  auto a_row = [](int l, int v) { return g(l) + 8 * (v / 2 % 2); };
  auto a_column = [](int l, int v) { return 2 * t(l) + v % 2 + 8 * (v / 4); };
  auto b_row = [](int l, int) { return g(l); };
  auto b_column = [](int l, int v) { return 2 * t(l) + v % 2 + 8 * (v / 2); };
  auto c_row = [](int l, int v) { return g(l) + 8 * (v / 2); };
  auto c_column = [](int l, int v) { return 2 * t(l) + v % 2; };
  auto a8_row = [](int l, int v) { return g(l) + 8 * (v / 4 % 2); };
  auto a8_column = [](int l, int v) { return 4 * t(l) + v % 4 + 16 * (v / 8); };
  auto b8_column = [](int l, int v) { return 4 * t(l) + v % 4 + 16 * (v / 4); };
  std::printf("%d %d %d\n", differ(Half::ALayout{}, 8, 16, a_row, a_column),
              differ(Half::BLayout{}, 4, 8, b_row, b_column),
              differ(Half::CLayout{}, 4, 16, c_row, c_column));
  std::printf("%d %d %d\n", differ(Brain::ALayout{}, 8, 16, a_row, a_column),
              differ(Brain::BLayout{}, 4, 8, b_row, b_column),
              differ(Brain::CLayout{}, 4, 16, c_row, c_column));
  std::printf("%d %d %d\n", differ(Byte::ALayout{}, 16, 16, a8_row, a8_column),
              differ(Byte::BLayout{}, 8, 8, b_row, b8_column),
              differ(Byte::CLayout{}, 4, 16, c_row, c_column));
}
"""


def headers() -> pathlib.Path | None:
    """CuTe's include folder: of CUTLASS_INCLUDE_DIR, or of the installed package."""
    spec = importlib.util.find_spec("cutlass_library")
    folders = [pathlib.Path(os.environ.get("CUTLASS_INCLUDE_DIR", "missing"))]
    folders += [pathlib.Path(spec.origin).parent / "source" / "include"] if spec and spec.origin else []
    return next((folder for folder in folders if (folder / "cute").is_dir()), None)


def test_the_emulated_device_states_the_layouts_that_are_compared():
    text = (CUDA / "emulate" / "tensor_core.cc").read_text(encoding="utf-8")
    assert "row g + 8 (r % 2), column 2t + h + 8 (r / 2)" in text and "row 4t + i + 16r, column g" in text


@pytest.mark.skipif(headers() is None or shutil.which("g++") is None, reason="nvidia-cutlass is not installed")
def test_fragments_are_those_of_cute(tmp_path):
    source, program = tmp_path / "layouts.cc", tmp_path / "layouts"
    source.write_text(_PROGRAM)
    cuda = pathlib.Path("/usr/local/cuda/include")  # CuTe reads vector types and, since CUDA 13, cccl from there
    includes = [f"-I{folder}" for folder in (headers(), cuda, cuda / "cccl") if folder.is_dir()]
    done = subprocess.run(["g++", "-std=c++17", "-w", *includes, str(source), "-o", str(program)], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    assert subprocess.run([program], capture_output=True, text=True).stdout.split() == ["0"] * 9

"""Cases of GPU operators that go through ONNX Runtime, on the emulated device or a GPU.

Static products, logarithmic attention and quantizers, decoded code books.
"""

from __future__ import annotations

import ctypes

import numpy as np
import onnx_ir as ir

from qonnx.custom_ops.log_attention import weight_table
from qonnx.custom_ops.log_quantize import QUANTIZE, QUANTIZE_DEQUANTIZE
from qonnx.custom_ops.static_product import QLINEAR, QUANTIZED, STATIC, StaticGrid
from qonnx.runtime import session
from tests import test_kernels_gather_codebook as gather
from tests import test_kernels_log_attention as attention
from tests import test_kernels_log_quantize as quantizers
from tests import test_kernels_lookup_quantize as lookup
from tests import test_kernels_static_product as products
from tests.low_bit_cases import weight_of

# outputs, columns, block, rows of x: every regime, one block and several, ragged ones
STATIC_SHAPES = [(32, 64, 64, 1), (100, 200, 64, 13), (7, 7, 16, 3), (33, 1100, 1100, 9), (40, 96, 100, 70)]
ATTENTION_SHAPES = [((2, 3, 7, 13), 16), ((1, 1), 1), ((257, 61), 64), ((2, 12, 16), 80), ((3, 25, 130), 9)]
GATHERED = [(8, 40, None), (5, 35, 10), (2, 18, 7), (16, 32, 16)]  # length, columns, block


class Plugin:
    """The library of emulated operators: its schedules."""

    def __init__(self, library: str) -> None:
        self.library = ctypes.CDLL(library)

    def seed(self, seed: int) -> None:
        self.library.emulated_seed(ctypes.c_uint64(seed))


def check_static(op: str, kind: str, grid: StaticGrid, shape, element: str = "FLOAT") -> np.ndarray:
    rows, columns, block, tokens = shape
    dtype = ir.DataType[element].numpy()
    weight = weight_of(kind, rows, columns, block, scale_type=np.float16 if rows == 100 else np.float32)
    bias = np.random.default_rng(2).standard_normal(rows).astype(dtype)
    x = products.x_for(op, grid, (1, tokens, columns), element)
    spread = products.expected(op, x, weight, grid, bias)[0].std()
    y_grid = StaticGrid(float(np.float32(spread / 40 + 1e-3)), 131)
    model = products.model_of(op, weight, grid, bias, element, y_grid=y_grid)
    y = products.run(model, x, rows, np.uint8 if op == QLINEAR else dtype)
    products.check(op, y, x, weight, grid, bias, y_grid)
    return y


def check_attention(shape, d, levels=16, per_octave=1.0, dtype=np.float32, int8=False, **more) -> np.ndarray:
    case = attention.case_of(shape, d, levels, per_octave, dtype, int8, **more)
    y = attention.run(case)
    attention.check(y, case)
    return y


def check_log_quantizers(levels: int, per_octave: float, scale: float) -> None:
    x = quantizers.numbers(levels, per_octave, scale)
    codes = session(quantizers.model_of(QUANTIZE, levels, per_octave, scale)).run(None, {"x": x})[0]
    quantizers.check_codes(codes, x, levels, per_octave, scale)
    values = session(quantizers.model_of(QUANTIZE_DEQUANTIZE, levels, per_octave, scale)).run(None, {"x": x})[0]
    np.testing.assert_array_equal(values, weight_table(levels, per_octave)[codes] * np.float32(scale))


def check_lookup(element: str = "FLOAT") -> None:
    scale, zero_point, table = 0.037, 93, lookup.table_of(16)
    with np.errstate(over="ignore"):  # float16 makes infinities of the largest: codes like any other
        x = lookup.numbers(scale).astype(ir.DataType[element].numpy())
    codes = run_before_guard(lookup.model_of(scale, zero_point, table, element), "x", x, "codes", np.uint8, x.shape)
    np.testing.assert_array_equal(codes, lookup.codes_of(x.astype(np.float32), scale, zero_point, table))


def run_before_guard(model: ir.Model, name: str, x: np.ndarray, output: str, dtype, shape) -> np.ndarray:
    """The output, written into memory behind which other bytes must stay as they are."""
    size, mark = int(np.prod(shape)) * np.dtype(dtype).itemsize, 0xA5
    memory = np.full(size + (1 << 16), mark, np.uint8)
    binding = (opened := session(model)).io_binding()
    kind = ir.DataType.from_numpy(x.dtype).value
    binding.bind_input(name, "cpu", 0, kind, x.shape, x.ctypes.data)
    binding.bind_output(output, "cpu", 0, ir.DataType.from_numpy(np.dtype(dtype)).value, shape, memory.ctypes.data)
    opened.run_with_iobinding(binding)
    assert (memory[size:] == mark).all(), "bytes behind the output were written"
    return memory[:size].view(dtype).reshape(shape)


def check_gather(bits: int, books: int, form, dtype=np.float32) -> None:
    length, columns, block = form
    weight = gather.weight_of(7, columns, length, books, bits, block, dtype)
    np.testing.assert_array_equal(gather.gather(weight), gather.decoded(weight).astype(dtype))


def check_all(_: Plugin) -> None:
    """A few cases that every fault of these kernels must break."""
    for op in (QUANTIZED, QLINEAR, STATIC):
        check_static(op, "b4", products.GRIDS["u8"], STATIC_SHAPES[1])
    x = products.x_for(STATIC, products.U8, (1, 11, 300))
    x[0, 1, 290] = np.nan
    y = products.run(products.model_of(STATIC, weight_of("b4", 40, 300, 300)), x, 40, np.float32)
    assert np.isnan(y[0, 1]).all() and np.isfinite(y[0, 2:]).all()
    for int8 in (False, True):
        for shape, d in (*ATTENTION_SHAPES, ((70, 200), 70)):
            check_attention(shape, d, int8=int8)
    check_log_quantizers(16, 2.0, 0.37)
    x = quantizers.numbers(16, 2.0, 0.37)
    run_before_guard(quantizers.model_of(QUANTIZE, 16, 2.0, 0.37), "x", x, "y", np.uint8, x.shape)
    check_lookup()
    for form in GATHERED:
        check_gather(6, 2, form)
    weight = gather.weight_of(7, 40, 8, 2, 6, None, np.float32)
    rows = np.arange(7)
    run_before_guard(gather.model_of(weight), "rows", rows, "y", np.float32, (7, 40))

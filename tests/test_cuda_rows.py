"""Hadamard and int8 rows of the CUDA kernels on the emulated device, against numpy."""

import numpy as np
import pytest

from qonnx.custom_ops.hadamard import rotation_of
from tests import cuda_rows_cases
from tests.cuda_build import build, needs_compiler
from tests.cuda_emulation import SCHEDULES, Device
from tests.test_kernels_hadamard import rows

pytestmark = needs_compiler


@pytest.fixture(scope="module")
def device():
    return Device(build())


@pytest.mark.parametrize("dtype", cuda_rows_cases.DTYPES, ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("case", cuda_rows_cases.ROTATIONS, ids=str)
def test_rotations(device, case, dtype):
    count, columns, order, block = case
    cuda_rows_cases.check_rotation(device, (count, columns), order, block, dtype)


@pytest.mark.parametrize("dtype", cuda_rows_cases.DTYPES, ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("case", cuda_rows_cases.ROWS, ids=str)
def test_rows_to_int8(device, case, dtype):
    count, columns, block = case
    cuda_rows_cases.check_quantized_rows(device, (count, columns), block, dtype)


def test_unit_vectors_read_the_matrix_exactly(device):
    for order in (8, 96):
        rotation = rotation_of(order)
        y = device.rows(np.eye(order, dtype=np.float32), rotation)[0]
        np.testing.assert_array_equal(y.T, rotation.matrix().astype(np.float32) * np.float32(rotation.factor))


def test_every_schedule_gives_the_same_bits(device):
    x = rows((3, 1536), np.float16)
    results = []
    for seed in SCHEDULES:
        device.seed(seed)
        results.append([a.tobytes() for a in device.rows(x, rotation_of(192), 384) + device.rows(x, block=768)])
    device.seed(0)
    assert all(result == results[0] for result in results)


def test_a_block_with_a_number_that_is_not_finite_is_nan(device):
    x = rows((2, 96))
    x[0, 40], x[1, 3] = np.inf, np.nan
    codes, scale = device.rows(x, block=32)
    assert np.isnan(scale).tolist() == [[False, True, False], [True, False, False]]
    assert not codes[0, 32:64].any() and not codes[1, :32].any()

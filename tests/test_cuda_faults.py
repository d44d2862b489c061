"""Every fault on the list is noticed by the cases of its kernels, and the list names every fault in the source."""

import re

import pytest

from tests.cuda_build import CUDA, needs_compiler
from tests.cuda_faults import FAULTS, caught_by, faulty


def test_every_fault_in_the_source_is_on_the_list():
    text = "".join(path.read_text(encoding="utf-8") for path in CUDA.glob("*.cu*"))
    assert set(re.findall(r"FAULT\((\w+)\)", text)) == set(FAULTS)


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("fault", FAULTS)
def test_the_fault_is_caught(fault):
    assert caught_by(fault, faulty(fault))

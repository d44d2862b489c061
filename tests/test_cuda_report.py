"""The report on CUDA kernels: reads what the tools print, counts what the emulated device does, and is up to date."""

import numpy as np
import pytest

from qonnx.custom_ops.cuda.report.__main__ import WRITTEN, report
from qonnx.custom_ops.cuda.report.compiled import ARCHITECTURES, SOURCES, USUAL, kernels_of, load, name_of
from qonnx.custom_ops.cuda.report.roofline import CARDS, FORMS, estimate, usual_kernel
from qonnx.custom_ops.cuda.report.work import Form, Packed, Work, most_in_one, resident
from tests.cuda_build import build, needs_compiler
from tests.cuda_codebook_cases import weight_of as codebook_weight
from tests.cuda_emulation import Device, PackedCodebook, PackedLowBit
from tests.low_bit_cases import weight_of as low_bit_weight

_ONE, _TWO = "_ZN5qonnx4cuda13finish_kernelENS1_4SumsE", "_ZN5qonnx4cuda11rows_kernelILNS0_7ElementE2ELb1ELb0EEEv"
_LOG = f"""ptxas info    : Compiling entry function '{_ONE}' for 'sm_80'
ptxas info    : Function properties for one
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 90 registers, used 1 barriers, 568 bytes cmem[0]
ptxas info    : Compiling entry function '{_TWO}' for 'sm_80'
ptxas info    : Function properties for two
    16 bytes stack frame, 8 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 568 bytes cmem[0]
"""
_SASS = f"""
\t\tFunction : {_ONE}
        /*0100*/                   LDL R5, [R1+0x8] ;
        /*0110*/              @!P0 LDGSTS.E.BYPASS.128 [R3], [R10.64] ;
        /*0120*/                   LDSM.16.M88.4 R12, [R7] ;
        /*0130*/                   HMMA.16816.F32 R4, R8, R2, R4 ;
        /*0140*/               @P1 BRA 0x120 ;
        /*0150*/                   LDG.E.U16 R5, [R2.64] ;
        /*0160*/              @!P2 BRA 0x110 ;
        /*0170*/                   EXIT ;
"""


def test_registers_local_memory_instructions_and_loops():
    one, two = kernels_of("rows.cu", 80, _LOG, _SASS)
    assert (one.name, one.registers, one.local) == ("finish", 90, 0)
    assert (two.name, two.registers, two.local) == ("rows bfloat16 1 0", 255, 24)
    mix = {"all": 8, "tensor core": 1, "16-byte copies": 1, "other global loads": 1, "shared loads": 1}
    assert one.instructions == {**mix, "local memory": 1}
    assert (one.loop, one.inner) == (6, 3), "0110 to 0160, and in it 0120 to 0140"


def test_names_of_products():
    form = "_ZN5qonnx4cuda14product_kernelINS0_4TileINS0_11LowBitCodesILi4ELb0ELNS0_4MathE2EEELi1ELi4ELi4ELi1ELi4EEE"
    assert name_of(form) == "4 bits, int8, few"


@pytest.fixture(scope="module")
def device():
    return Device(build())


# format, the same as arrays, block
SAME = [(Form("", 4, 64), "b4", 64), (Form("", 3, 48), "b3", 48), (Form("", 4, 32, int8=True), "b4", 32)]
SAME += [(Form("", 8, 0, 2), None, 0), (Form("", 8, 0, 2, int8=True), None, 0)]


@needs_compiler
@pytest.mark.parametrize(("form", "kind", "block"), SAME, ids=str)
@pytest.mark.parametrize(("rows", "processors"), [(1, 4), (13, 16), (70, 5), (33, 40)])
def test_the_emulated_device_does_the_work_that_is_counted(device, form, kind, block, rows, processors):
    """Splits, bytes of asynchronous copies and tensor-core instructions are those of the kernel."""
    outputs, columns = 150, 768
    if form.books:
        weight = codebook_weight(outputs, columns, columns, books=form.books, book_type=np.float16)
        weight.scale[:] = weight.scale.astype(np.float16)
        packed = PackedCodebook(device, weight, np.float16, form.int8)
    else:
        weight = low_bit_weight(kind, outputs, columns, block, scale_type=np.float16)
        packed = PackedLowBit(device, weight, np.float16, form.int8)
    x = np.random.default_rng(0).standard_normal((rows, columns)).astype(np.float16)
    device.counters()
    device.product(packed, x, processors=processors)
    counted = device.counters()
    work = Work(Packed(form, outputs, columns), rows, processors, 99 << 10)
    assert packed.plan(np.float16, rows, processors)[0][:2] == (work.regime, work.splits)
    assert counted["async_bytes"] == work.copied_bytes
    assert counted["multiplies"] == work.multiplies


@needs_compiler
@pytest.mark.parametrize("form", [form for form in SAME if form[0].books], ids=str)
def test_products_by_sums_are_divided_as_is_counted(device, form):
    weight = codebook_weight(2100, 256, 256, books=form[0].books, book_type=np.float16)
    packed = PackedCodebook(device, weight, np.float16, form[0].int8)
    for rows, processors in ((1, 3), (2, 40), (1, 1000)):
        work = Work(Packed(form[0], 2100, 256), rows, processors, 99 << 10)
        plan, workspace = packed.plan(np.float16, rows, processors)
        assert plan[:2] == (work.regime, work.splits) and work.regime == "sums"
        assert workspace >= work.workspace_bytes


def test_lanes_that_meet_in_a_bank():
    assert most_in_one(1, 8) == 1, "a copy for each lane"
    assert most_in_one(2, 1) == pytest.approx(1.5), "two balls, two bins"
    assert most_in_one(2, 4) == pytest.approx(2 - 0.5**4) and 2.5 < most_in_one(8, 1) < 2.7


def test_blocks_that_a_processor_holds():
    assert resident(128, 256, 10 << 10, processor_shared=100 << 10, most_threads=1536) == 2, "by registers"
    assert resident(32, 256, 40 << 10, processor_shared=100 << 10, most_threads=1536) == 2, "by shared memory"
    assert resident(32, 256, 1 << 10, processor_shared=100 << 10, most_threads=1536) == 6, "by threads"


def test_the_report_is_written_from_the_kernels_on_file():
    assert WRITTEN.read_text(encoding="utf-8") == report(load())


def test_no_kernel_on_file_uses_local_memory():
    kernels = load()
    assert all(k.local == 0 and k.instructions["local memory"] == 0 for k in kernels)
    assert {(k.source, k.architecture) for k in kernels} == {(s, a) for s in (*SOURCES, USUAL) for a in ARCHITECTURES}


def test_memory_is_read_once_at_few_rows():
    """Packed weights are at most a tenth larger than the format asks for; weights are copied 16 bytes at a time."""
    kernels = load()
    for card in CARDS:
        for form in (form for form in FORMS if form.bits in (4, 8, 16)):  # other indices are stored in 16 bits
            for rows in (1, 16):
                assert estimate(card, form, rows, kernels).moved <= 1.1, (card.name, form.name, rows)
    usual = usual_kernel(kernels, Work(Packed(FORMS[0], 4096, 4096), 1, 108, 163 << 10), 80)
    assert usual.instructions["16-byte copies"] >= 8


@pytest.mark.parametrize("card", [card for card in CARDS if card.reached == 1], ids=lambda card: card.name)
def test_many_rows_use_the_tensor_cores(card):
    assert estimate(card, FORMS[0], 256, load()).arithmetic >= 0.7


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_numbers_of_several_books_are_multiplied_once(card):
    """So the tensor cores do not know how many books there are."""
    one, two, three = (
        estimate(card, form, 256, load()).seconds["tensor cores"]
        for form in FORMS
        if form.bits == 8 and form.vector == 8 and not form.int8
    )
    assert one == two == three


def test_only_the_executed_half_of_a_loop_that_is_there_twice_counts():
    """0110 leads to the second half at 0150, 0140 past it; the loop is 0100 to 0180."""
    text = """
        /*0100*/                   BAR.SYNC ;
        /*0110*/              @!P0 BRA 0x150 ;
        /*0120*/                   IMMA.16832.S8.S8 R4, R8, R2, R4 ;
        /*0130*/                   MOV R1, R2 ;
        /*0140*/                   BRA 0x170 ;
        /*0150*/                   IMMA.16832.S8.S8 R4, R8, R2, R4 ;
        /*0160*/                   MOV R1, R2 ;
        /*0170*/                   LDGSTS.E.BYPASS.128 [R3], [R10.64] ;
        /*0178*/              @!P2 BRA 0x170 ;
        /*0180*/              @!P2 BRA 0x100 ;
"""
    first = _LOG[: _LOG.rindex("ptxas info    : Compiling")]
    (kernel,) = kernels_of("rows.cu", 80, first, f"\t\tFunction : {_ONE}{text}")
    assert (kernel.loop, kernel.twice, kernel.copying) == (10, 5, 2)

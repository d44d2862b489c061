"""The report on compiled CUDA kernels reads what ptxas and cuobjdump print."""

from qonnx.custom_ops.cuda.report.__main__ import table
from qonnx.custom_ops.cuda.report.compiled import kernels_of, mix_of

_LOG = """ptxas info    : Compiling entry function 'one' for 'sm_80'
ptxas info    : Function properties for one
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 90 registers, used 1 barriers, 568 bytes cmem[0]
ptxas info    : Compiling entry function 'two' for 'sm_80'
ptxas info    : Function properties for two
    16 bytes stack frame, 8 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 568 bytes cmem[0]
"""
_SASS = """
        /*0100*/                   HMMA.16816.F32 R4, R8, R2, R4 ;
        /*0110*/              @!P0 LDGSTS.E.BYPASS.128 [R3], [R10.64] ;
        /*0120*/               @P1 LDL R5, [R1+0x8] ;
        /*0130*/                   LDSM.16.M88.4 R12, [R7] ;
        /*0140*/                   IADD3 R5, R5, 0x1, RZ ;
"""


def test_registers_and_local_memory_of_each_kernel():
    one, two = kernels_of("rows.cu", 80, _LOG, None)
    assert (one.name, one.registers, one.local) == ("one", 90, 0)
    assert (two.name, two.registers, two.local) == ("two", 255, 24)
    assert "| rows.cu | sm_80 | 2 | 90 to 255 | 24 | ? |" in table([one, two])


def test_instructions_by_kind():
    mix = mix_of(_SASS)
    assert mix == {
        "all": 5,
        "tensor core": 1,
        "wide copies": 1,
        "narrow loads": 0,
        "shared loads": 1,
        "local memory": 1,
    }

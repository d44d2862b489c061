"""Faults of the CUDA kernels: each a build with one barrier, wait or guard less, or two registers swapped.

A fault counts as caught when the cases of its kernels fail on the emulated device: a wrong number, a sentence of the
device, or a stopped process (memory that must not be touched). As a program: prints what catches each, or those named.
"""

from __future__ import annotations

import os
import subprocess
import sys

from tests.cuda_build import ROOT, build

# Fault, cases that must notice it, what was taken away.
FAULTS = {
    "rows_fetch_barrier": ("rows", "barrier between reading a row and transforming it"),
    "rows_transform_barrier": ("rows", "barrier between steps of the transform"),
    "rows_mix_barrier": ("rows", "barrier between mixing and what reads the mixed row"),
    "rows_largest_barrier": ("rows", "barrier before the largest numbers of all warps are read"),
    "rows_next_block_barrier": ("rows", "barrier before the next block's largest numbers are written"),
    "rows_short_block": ("rows", "guard at the end of a row's last, short block"),
    "product_stage_wait": ("products", "wait for the asynchronous copies of a stage"),
    "product_stage_barrier": ("products", "barrier before a stage is read"),
    "product_last_barrier": ("products", "barrier before sums take the place of the stages"),
    "product_end_barrier": ("products", "barrier before the sums of all warps are read"),
    "product_swapped_x": ("products", "order of the two registers of B"),
    "lowbit_swapped_fragments": ("products", "order of two registers of A"),
    "product_token_guard": ("products", "guard at the last row of x"),
    "product_output_guard": ("products", "guard at the last output, one too far"),
    "product_finish_guard": ("products", "guard at the last sum"),
    "product_shared_vector": ("codebooks", "guard at the first column of a group, in a vector that two groups share"),
    "product_down_barrier": ("codebooks", "barrier before the low-rank sums of all warps are added"),
    "sums_reuse_barrier": ("codebooks", "barrier before sums of the next slab take the place of others"),
    "sums_table_barrier": ("codebooks", "barrier before sums are looked up"),
    "sums_finish_barrier": ("codebooks", "barrier before the parts of all warps are added"),
    "codebook_swapped_rows": ("codebooks", "order of the indices of two rows"),
    "product_spoiled_barrier": ("operators", "barrier before a row is known to hold a NaN"),
    "map_guard": ("operators", "guard at the last number of a quantizer, one too far"),
    "log_quantize_barrier": ("operators", "barrier before the table is read"),
    "lookup_quantize_barrier": ("operators", "barrier before the table is read"),
    "gather_guard": ("operators", "guard at the last row"),
    "attention_reuse_barrier": ("operators", "barrier before values take the place of others"),
    "attention_values_barrier": ("operators", "barrier before values are read"),
    "attention_column_guard": ("operators", "guard at the last column of the values, one too far"),
    "product_grid_barrier": ("products", "barrier before the scales of all groups are read"),
}
SEEDS = 20
_OF_PRODUCTS = ("product.cu", "product_x.cu")
# The kernels of tiles that cases run, where they do not run all: nothing else is compiled with a fault.
KERNELS = {
    "products": frozenset({"lowbit_float16.cu", "lowbit_int8.cu", *_OF_PRODUCTS}),
    "codebooks": frozenset({"codebook_float16.cu", "codebook_int8.cu", *_OF_PRODUCTS}),
}

_RUN = """
import sys
from tests import cuda_codebook_cases, cuda_operator_cases, cuda_product_cases, cuda_rows_cases
from tests.cuda_emulation import Device
library, cases, seeds = sys.argv[1:]
device = (cuda_operator_cases.Plugin if cases == "operators" else Device)(library)
for seed in range(1, int(seeds) + 1):
    device.seed(seed)
    print("schedule", seed, flush=True)
    {
        "rows": cuda_rows_cases,
        "products": cuda_product_cases,
        "codebooks": cuda_codebook_cases,
        "operators": cuda_operator_cases,
    }[cases].check_all(device)
"""


def faulty(fault: str) -> str:
    """Path of a library with the fault, of the kind that its cases need."""
    cases = FAULTS[fault][0]
    return build(fault, plugin=cases == "operators", kernels=KERNELS.get(cases))


def caught_by(fault: str, library: str) -> str:
    """What noticed the fault, and in which schedule; empty when nothing did in SEEDS of them."""
    command = [sys.executable, "-c", _RUN, library, FAULTS[fault][0], str(SEEDS)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "QONNX_OPS_LIBRARY": library}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    if not done.returncode:
        return ""
    noticed = f"signal {-done.returncode}" if done.returncode < 0 else done.stderr.strip().splitlines()[-1]
    return f"{noticed}; {done.stdout.strip().splitlines()[-1]}"


def main() -> None:
    for fault in sys.argv[1:] or FAULTS:
        what = FAULTS[fault][1]
        print(f"{fault}: {what}\n    caught by: {caught_by(fault, faulty(fault)) or 'NOTHING'}", flush=True)


if __name__ == "__main__":
    main()

"""Our slice of the ONNX Runtime ABI against the real header, where ONNXRUNTIME_INCLUDE_DIR names a copy."""

import os
import pathlib
import re

import pytest

OURS = pathlib.Path(__file__).parents[1] / "custom_ops" / "ort_abi.h"
REAL = pathlib.Path(os.environ.get("ONNXRUNTIME_INCLUDE_DIR", "missing")) / "onnxruntime_c_api.h"

# Members of a struct in order: macros that declare one (status-returning, releasing) and plain function pointers.
_MEMBER = re.compile(
    r"ORT_API2_STATUS\(\s*(\w+)|ORT_CLASS_RELEASE\(\s*(\w+)|\(\s*(?:ORT_API_CALL|ORT_API_CALL\s*)?\*\s*(\w+)\)\s*\("
)


def body_of(text: str, struct: str) -> str:
    """The text between the braces of a struct, comments removed."""
    text = re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.DOTALL)
    begin = text.index(f"struct {struct} {{") + len(f"struct {struct} {{")
    return text[begin : text.index("\n};", begin)]


def members(body: str) -> list[str]:
    found = [
        status or (released and f"Release{released}") or plain for status, released, plain in _MEMBER.findall(body)
    ]
    return list(dict.fromkeys(found))


def our_slots() -> dict[str, int]:
    return {name: int(slot) for name, slot in re.findall(r"F\((\w+), (\d+),", OURS.read_text())}


def test_the_table_names_each_slot_once():
    slots = our_slots()
    assert len(slots) > 30 and len(set(slots.values())) == len(slots)


@pytest.mark.skipif(not REAL.exists(), reason="ONNXRUNTIME_INCLUDE_DIR names no copy of the headers")
def test_slots_are_those_of_the_real_header():
    order = members(body_of(REAL.read_text(), "OrtApi"))
    wrong = {name: (slot, order.index(name)) for name, slot in our_slots().items() if order.index(name) != slot}
    assert not wrong


@pytest.mark.skipif(not REAL.exists(), reason="ONNXRUNTIME_INCLUDE_DIR names no copy of the headers")
def test_custom_op_fields_stand_in_the_order_of_the_real_header():
    ours = members(body_of(OURS.read_text(), "CustomOp"))
    real = [name.removesuffix("Fn") for name in members(body_of(REAL.read_text(), "OrtCustomOp"))]
    assert ours and ours == real[: len(ours)]

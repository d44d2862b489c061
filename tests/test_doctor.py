"""doctor: what it reports, what it calls broken, and the refusal to run beside another qonnx."""

import importlib.metadata
import json

import pytest

from qonnx import cpu, doctor
from qonnx.__main__ import main
from qonnx.errors import QonnxError


@pytest.fixture
def installed(monkeypatch):
    """Pretend that these distributions are installed as well."""
    extra = {}
    real = importlib.metadata.version

    def version(name):
        return extra[name] if name in extra else real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    return extra


def by_subject(subject: str) -> list[doctor.Line]:
    return [line for line in doctor.diagnose() if line.subject == subject]


def test_this_installation_is_sound(capsys):
    lines = doctor.diagnose()
    assert [line for line in lines if line.state == "broken"] == []
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert all(line.subject in printed for line in lines)
    assert main(["doctor", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["subject"] for row in rows} >= {"qonnx", "onnxruntime", "providers", "memory", "8-bit products"}


def test_states_are_known_and_what_is_broken_has_a_remedy(installed):
    installed["qonnx"] = "1.0"
    for line in doctor.diagnose():
        assert line.state in ("ok", "note", "broken")
        assert line.remedy or line.state != "broken"


def test_another_qonnx_is_refused_by_every_verb_but_doctor(installed, capsys):
    installed["qonnx"] = "1.0.0"
    with pytest.raises(QonnxError, match="owns the same import name"):
        doctor.refuse_conflicts()
    assert main(["targets"]) == 2
    assert "pip uninstall qonnx" in capsys.readouterr().err
    assert main(["doctor"]) == 1
    assert "broken" in capsys.readouterr().out


def test_an_unknown_owner_of_the_name_is_reported(monkeypatch):
    owners = {"qonnx": ["qonnx-toolkit", "someone-elses"]}
    monkeypatch.setattr(importlib.metadata, "packages_distributions", lambda: owners)
    (line,) = by_subject("conflict")
    assert line.state == "broken" and "someone-elses" in line.found


def test_two_onnxruntimes_are_reported(installed):
    installed.update({"onnxruntime": "1.20", "onnxruntime-gpu": "1.20"})
    (line,) = by_subject("conflict")
    assert line.state == "broken" and "overwrite" in line.found


def test_a_missing_package_is_broken(monkeypatch):
    real = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "polygraphy" else real(name))
    (line,) = by_subject("polygraphy")
    assert (line.state, line.remedy) == ("broken", "pip install polygraphy")


def test_without_a_compiler_the_native_library_is_only_a_note(monkeypatch):
    monkeypatch.setenv("QONNX_OPS_LIBRARY", "")
    (line,) = by_subject("native library")
    assert line.state == "note" and "function bodies" in line.found


def test_a_library_that_does_not_load_is_broken(monkeypatch, tmp_path):
    path = tmp_path / "libbroken.so"
    path.write_bytes(b"not a library")
    monkeypatch.setenv("QONNX_OPS_LIBRARY", str(path))
    (line,) = by_subject("native library")
    assert line.state == "broken" and "does not load" in line.found


def test_a_library_that_is_not_there_is_broken(monkeypatch):
    monkeypatch.setenv("QONNX_OPS_LIBRARY", "/nowhere/lib.so")
    (line,) = by_subject("native library")
    assert line.state == "broken" and "/nowhere/lib.so" in line.found


@pytest.mark.parametrize(
    ("machine", "flags", "answer"),
    [
        ("x86_64", {"avx2", "avx512_vnni"}, True),
        ("x86_64", {"avx2", "avx_vnni"}, True),
        ("x86_64", {"avx2", "avx512f"}, False),
        ("x86_64", set(), True),
        ("aarch64", {"asimd"}, True),
    ],
)
def test_saturation_is_known_from_the_cpu(monkeypatch, machine, flags, answer):
    monkeypatch.setattr(cpu.platform, "machine", lambda: machine)
    monkeypatch.setattr(cpu, "flags", lambda: frozenset(flags))
    assert cpu.has_vnni() is answer
    (line,) = by_subject("8-bit products")
    assert line.state == ("ok" if answer else "note")

"""Folders in the style of Hugging Face: every model converted, what belongs to it copied, nothing half done."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from models.tiny import build, inputs
from qonnx.__main__ import main
from qonnx.errors import QonnxError
from qonnx.folders import SUFFIX, convert_folder, read_folder
from qonnx.settings import Settings

NETWORK = """
<ir_version: 10, opset_import: ["": 21]>
g (float[N,32] x, float[32,64] w1, float[64,32] w2) => (float[N,32] y)
{
  a = MatMul(x, w1)
  b = Relu(a)
  y = MatMul(b, w2)
}
"""
QUIET = Settings(quiet=True, threads=1)


@pytest.fixture
def exported(tmp_path):
    """A folder as exporters leave it: two models, one with external data, a variant, and files beside them."""
    root = tmp_path / "exported"
    (root / "onnx").mkdir(parents=True)
    model = build(NETWORK)
    ir.save(model, root / "onnx" / "encoder_model.onnx")
    shutil.copyfile(root / "onnx" / "encoder_model.onnx", root / "onnx" / "encoder_model_fp16.onnx")
    onnx.save(
        onnx.load(root / "onnx" / "encoder_model.onnx"),
        root / "onnx" / "decoder_model.onnx",
        save_as_external_data=True,
        location="decoder.weights",
        size_threshold=0,
    )
    (root / "config.json").write_text(json.dumps({"model_type": "tiny"}))
    (root / "onnx" / "vocabulary.txt").write_text("a\nb\n")
    (root / "model.safetensors").write_bytes(b"x")
    (root / ".git").mkdir()
    (root / ".git" / "config").write_text("")
    return root


def names(folder) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_files_are_sorted(exported):
    found = read_folder(exported)
    assert [path.name for path in found.models] == ["decoder_model.onnx", "encoder_model.onnx"]
    assert {str(path) for path in found.companions} == {"config.json", "onnx/vocabulary.txt"}
    left_out = {"onnx/encoder_model_fp16.onnx", "onnx/decoder.weights", "model.safetensors"}
    assert {str(path) for path in found.left_out} == left_out


def test_a_variant_alone_is_a_model(exported):
    os.remove(exported / "onnx" / "encoder_model.onnx")
    assert "encoder_model_fp16.onnx" in {path.name for path in read_folder(exported).models}


def test_every_model_is_converted_and_the_folder_is_complete(exported, tmp_path):
    rows = convert_folder(exported, tmp_path / "out", settings=QUIET)
    assert all(row.conversion is not None and row.path.is_file() for row in rows)
    expected = {"config.json", "onnx/vocabulary.txt", f"onnx/encoder_model{SUFFIX}", f"onnx/decoder_model{SUFFIX}"}
    assert names(tmp_path / "out") == expected
    for row in rows:
        assert row.path.stat().st_size < 0.5 * (exported / "onnx" / "encoder_model.onnx").stat().st_size
    with pytest.raises(QonnxError, match="is not empty; pass --force"):
        convert_folder(exported, tmp_path / "out", settings=QUIET)


def test_each_model_has_samples_of_its_own(exported, tmp_path):
    (tmp_path / "data").mkdir()
    for seed, stem in enumerate(("encoder_model", "decoder_model")):
        np.savez(tmp_path / "data" / f"{stem}.npz", **inputs(build(NETWORK), seed, open_dimension=6))
    os.remove(tmp_path / "data" / "decoder_model.npz")
    rows = convert_folder(exported, tmp_path / "out", data=tmp_path / "data", settings=QUIET)
    kinds = {row.model.stem: {n.op_type for n in row.conversion.model.graph} for row in rows}
    assert "QuantizeLinear" in kinds["encoder_model"] and "QuantizeLinear" not in kinds["decoder_model"]


def test_what_cannot_be_quantized_is_copied_and_said(exported, tmp_path, capsys):
    plain = ir.from_onnx_text(
        '<ir_version: 10, opset_import: ["": 21]>\ng (float[2] x) => (float[2] y) { y = Relu(x) }'
    )
    ir.save(plain, exported / "onnx" / "decoder_model.onnx")
    assert main(["convert", str(exported), "-o", str(tmp_path / "out"), "--quiet", "--threads", "1"]) == 1
    assert "onnx/decoder_model.onnx stays in float: nothing was quantized" in capsys.readouterr().err
    assert "onnx/decoder_model.onnx" in names(tmp_path / "out")


def test_external_data_goes_with_a_model_that_stays(exported, tmp_path):
    excluded = Settings(quiet=True, threads=1, op_types_to_exclude=("MatMul",))
    rows = convert_folder(exported, tmp_path / "out", settings=excluded)
    assert all("nothing was quantized" in row.refused for row in rows)
    assert "onnx/decoder.weights" in names(tmp_path / "out")
    onnx.checker.check_model(tmp_path / "out" / "onnx" / "decoder_model.onnx")


def test_results_may_stand_beside_the_models(exported):
    before = names(exported)
    convert_folder(exported, exported, settings=QUIET)
    assert names(exported) - before == {f"onnx/encoder_model{SUFFIX}", f"onnx/decoder_model{SUFFIX}"}
    assert f"encoder_model{SUFFIX}" not in {path.name for path in read_folder(exported).models}
    with pytest.raises(QonnxError, match="exists"):
        convert_folder(exported, exported, settings=QUIET)


def test_bad_requests_are_sentences_before_any_work(exported, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "else.npz").write_bytes(b"")
    for arguments, sentence in (
        ({"root": tmp_path / "empty"}, "holds no .onnx file"),
        ({"output": exported / "inside"}, "lies inside"),
        ({"settings": Settings(size="1MB")}, "--size is for one model and the folder has 2"),
        ({"data": tmp_path / "data.npz"}, "give --data a folder with decoder_model.npz"),
        ({"data": tmp_path / "other"}, "samples for none of the models"),
    ):
        with pytest.raises(QonnxError, match=sentence):
            convert_folder(**{"root": exported, "output": tmp_path / "out", **arguments})
        assert not (tmp_path / "out").exists()


def test_the_command_names_the_folder_and_plans_without_writing(exported, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["convert", "exported", "--dry-run"]) == 0
    assert "would be quantized" in capsys.readouterr().out and not (tmp_path / "exported.quant").exists()
    assert main(["convert", "exported"]) == 0
    assert f"exported.quant: onnx/decoder_model{SUFFIX}" in capsys.readouterr().out

"""The tables of weight-only rows: every row is a recipe or a peer, and a run that stopped goes on where it was."""

import json

import numpy as np
import onnx
import pytest

from models import evaluate, peers, weight_table
from models.weight_rows import TABLES
from qonnx.recipe import parse_recipe

ROWS = [
    (model, title, row, how) for model in TABLES for title, rows in TABLES[model].items() for row, how in rows.items()
]


@pytest.mark.parametrize(("model", "title", "row", "how"), ROWS, ids=[": ".join(row[:3]) for row in ROWS])
def test_every_row_is_a_recipe_or_a_peer(model, title, row, how):
    if how in peers.PEERS:
        assert peers.PEERS[how].environment in peers.ENVIRONMENTS
        return
    options = {step.name: step.options for step in parse_recipe(how, row).steps}
    moves = "least squares" in f"{title}: {row}"
    assert "solve_weights" in options or (options["solve_in_turn"]["ridge"] < float("inf")) == moves


def test_rows_of_one_table_differ_in_their_names_only_once():
    for tables in TABLES.values():
        for rows in tables.values():
            assert len(set(rows.values())) == len(rows)


def test_every_model_of_the_tables_can_be_scored():
    assert set(TABLES) == set(weight_table.SUBJECTS)
    for name, subject in weight_table.SUBJECTS.items():
        assert name == subject.name in evaluate.EVALUATE


def test_bits_count_what_the_file_grew_less_by(tmp_path):
    weight = np.ones((64, 32), np.float32)
    tensors = [onnx.numpy_helper.from_array(weight, "w"), onnx.numpy_helper.from_array(np.ones(8, np.float32), "c")]
    nodes = [onnx.helper.make_node("MatMul", ["x", "w"], ["y"]), onnx.helper.make_node("Identity", ["c"], ["z"])]
    outputs = [onnx.helper.make_tensor_value_info(name, 1, None) for name in "yz"]
    inputs = [onnx.helper.make_tensor_value_info("x", 1, [1, 64])]
    file = tmp_path / "float.onnx"
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", inputs, outputs, tensors)), file)
    whole = file.stat().st_size
    assert weight_table.stored_bits(file, whole) == 32
    assert weight_table.stored_bits(file, whole - weight.nbytes + weight.size // 2) == 4
    onnx.save(
        onnx.load(file),
        tmp_path / "apart.onnx",
        save_as_external_data=True,
        location="apart.onnx.data",
        size_threshold=64,
    )
    whole = sum((tmp_path / name).stat().st_size for name in ("apart.onnx", "apart.onnx.data"))
    assert weight_table.stored_bits(tmp_path / "apart.onnx", whole - weight.nbytes) == 0


def test_what_was_measured_stays(monkeypatch, tmp_path):
    measured = []

    def measure(subject, name, how, data, folder, count):
        measured.append(name)
        if name == "gptq" and measured.count("gptq") == 1:
            raise KeyboardInterrupt
        scores = dict.fromkeys(subject.columns, 17.25)
        return weight_table.Row(name, 16.0, 4.5, scores, count, 3.0, 800.0)

    monkeypatch.setattr(weight_table, "measure", measure)
    monkeypatch.setattr(weight_table, "FOLDER", tmp_path)
    monkeypatch.setattr(weight_table.photos, "crops", lambda split, count: [[[0.0]]])
    title = "4 bit, blocks of 32"
    with pytest.raises(KeyboardInterrupt):
        weight_table.main(["vit-s", "--only", f"{title}: "])
    assert measured == ["nearest", "hqq", "pvq", "gptq"]
    weight_table.main(["vit-s", "--only", f"{title}: "])
    assert measured[4:] == list(TABLES["vit-s"][title])[3:]
    kept = json.loads((tmp_path / "weights-vit-s.json").read_text())[title]
    assert [row["name"] for row in kept] == list(TABLES["vit-s"][title])
    assert "| quantease | 16.0 | 4.50 | 17.2 | 17.250 | 3 | 800 |" in (tmp_path / "weights-vit-s.md").read_text()
    weight_table.main(["vit-s", "--only", f"{title}: gptq", "--again", "--count", "7"])
    assert measured[-1] == "gptq" and measured.count("gptq") == 3
    assert "| gptq | 16.0 | 4.50 | 17.2 (of 7) | 17.250 | 3 | 800 |" in (tmp_path / "weights-vit-s.md").read_text()

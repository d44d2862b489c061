"""The table of weight-only rows: every row is a recipe or a peer, and a run that stopped goes on where it was."""

import json

import pytest

from models import peers, weight_table
from qonnx.recipe import parse_recipe

ROWS = [(title, row, how) for title, rows in weight_table.TABLES.items() for row, how in rows.items()]


@pytest.mark.parametrize(("title", "row", "how"), ROWS, ids=[f"{title}: {row}" for title, row, _ in ROWS])
def test_every_row_is_a_recipe_or_a_peer(title, row, how):
    if how in peers.PEERS:
        assert peers.PEERS[how].environment in peers.ENVIRONMENTS
        return
    options = {step.name: step.options for step in parse_recipe(how, row).steps}
    assert options["assign_weights"]["edges"] == "8"
    assert "solve_weights" in options or options["solve_in_turn"]["ridge"] == float("inf")


def test_rows_of_one_table_differ_in_their_names_only_once():
    for rows in weight_table.TABLES.values():
        assert len(set(rows.values())) == len(rows)


def test_what_was_measured_stays(monkeypatch, tmp_path):
    measured = []

    def measure(name, how, data, folder):
        measured.append(name)
        if name == "gptq" and measured.count("gptq") == 1:
            raise KeyboardInterrupt
        return weight_table.Row(name, 16.0, 17.25, 0.9, None if how in peers.PEERS else 3.0, 5.0, 800.0)

    monkeypatch.setattr(weight_table, "measure", measure)
    monkeypatch.setattr(weight_table, "RESULTS", tmp_path / "weights")
    monkeypatch.setattr(weight_table.photos, "crops", lambda split, count: [[[0.0]]])
    with pytest.raises(KeyboardInterrupt):
        weight_table.main(["4 bit, blocks of 32: "])
    assert measured == ["nearest", "hqq", "pvq", "gptq"]
    weight_table.main(["4 bit, blocks of 32: "])
    assert measured[4:] == list(weight_table.TABLES["4 bit, blocks of 32"])[3:]
    kept = json.loads((tmp_path / "weights.json").read_text())["4 bit, blocks of 32"]
    assert [row["name"] for row in kept] == list(weight_table.TABLES["4 bit, blocks of 32"])
    text = (tmp_path / "weights.md").read_text()
    assert "| quantease | 16.0 | 17.2 | 0.900 | 3 | 800 |" in text or "| quantease | 16.0 | 17.3 |" in text
    weight_table.main(["4 bit, blocks of 32: gptq", "--again"])
    assert measured[-1] == "gptq" and measured.count("gptq") == 3

"""The documentation: every code block runs, every link leads somewhere, and the site builds."""

from __future__ import annotations

import pathlib
import re
import shutil

import numpy as np
import pytest

from docs.blocks import blocks, pages, parse, refreshed, run
from docs.build import DOCS, build, rendered
from models import digits
from qonnx.recipe import RECIPES

PAGES = pages(DOCS)
REAL = "<!-- real model -->"  # on top of a page whose blocks need models/real.py


def text_of(page: pathlib.Path) -> str:
    return page.read_text(encoding="utf-8")


def title(page: pathlib.Path) -> str:
    return str(page.relative_to(DOCS))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """What index.md promises: model.onnx, data.npz for calibration, test.npz."""
    shutil.copyfile(digits.CNN, tmp_path / "model.onnx")
    for split, count, name in (("calibration", 24, "data"), ("evaluation", 24, "test")):
        np.savez(tmp_path / f"{name}.npz", image=digits.samples(split, count)[0])
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "page", [page for page in PAGES if REAL not in text_of(page) and "```" in text_of(page)], ids=title
)
def test_blocks_run(page, folder):
    names: dict = {}
    for block in blocks(text_of(page)):
        if block.kind in ("bash", "python"):
            run(block, names)
        elif block.kind == "console":
            parse(block)


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.parametrize("page", [page for page in PAGES if REAL in text_of(page)], ids=title)
def test_blocks_of_real_models_run(page, folder):
    names: dict = {}
    for block in blocks(text_of(page)):
        if block.kind in ("bash", "python"):
            run(block, names)


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_links_lead_somewhere_and_blocks_have_a_kind(page):
    text = text_of(page)
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert (page.parent / link).exists(), link
    for block in blocks(text):
        assert block.kind in ("bash", "python", "console", "text", "json", "toml"), block
        assert block.kind != "text" or block.is_output, "a text block shows what a block printed"


def test_pages_of_recipes_are_of_recipes_that_exist():
    assert {page.stem for page in (DOCS / "recipes").glob("*.md")} - {"index"} <= set(RECIPES)


def test_the_site_builds_and_links_to_its_own_pages(tmp_path):
    written = build(tmp_path)
    assert tmp_path / "index.html" in written and len(written) >= len(PAGES)
    for file in tmp_path.rglob("*.html"):
        text = file.read_text(encoding="utf-8")
        assert "<h1>" in text and ".md" not in "".join(re.findall(r'href="([^"]*)"', text))
        for link in re.findall(r'(?:href|src)="([^"#]+)', text):
            assert (file.parent / link).exists(), f"{file.name}: {link}"


def test_output_blocks_are_renewed(folder):
    page = "x\n\n```python\nprint(1 + 1)\n```\n\n<!-- output -->\n```text\nold\nlines\n```\n"
    page += "\n```python\nprint('a')\n```\nend\n"
    assert refreshed(page) == page.replace("old\nlines", "2")


def test_a_failing_block_fails(folder):
    with pytest.raises(RuntimeError, match="ended with 2"):
        run(blocks("```bash\nqonnx convert nothing.onnx\n```\n")[0], {})
    assert "<script>" not in rendered("# t\n\n<script>alert(1)</script>\n", "")

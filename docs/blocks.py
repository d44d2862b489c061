"""Code blocks of a Markdown page, and how they are run: what the pages show is what happens.

```bash blocks run line by line, `qonnx …` in this process; ```python blocks run as they are and keep their names.
```console blocks need what a test does not have (a GPU, npm, a browser): their `qonnx` lines are only parsed.
A ```text block behind `<!-- output -->` is what the block above it printed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import pathlib
import re
import shlex
import subprocess

from qonnx.__main__ import main
from qonnx.cli import VERBS
from qonnx.cli.parser import Parser

OUTPUT = "<!-- output -->"


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block; `start`, `end`: its lines in the page, fences included; `is_output`: shows what was printed."""

    kind: str
    text: str
    start: int
    end: int
    is_output: bool


def blocks(page: str) -> list[Block]:
    found, lines, start = [], page.splitlines(), None
    for index, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if start is None:
            start = index
        else:
            before = next((row for row in reversed(lines[:start]) if row.strip()), "")
            text = "\n".join(lines[start + 1 : index])
            found.append(Block(lines[start][3:].strip(), text, start, index, before.strip() == OUTPUT))
            start = None
    return found


def commands(block: Block) -> list[list[str]]:
    """The lines of a shell block as words; a line that ends with a backslash goes on, "|| true" is left out."""
    joined = block.text.replace("\\\n", " ").replace("|| true", "")
    return [words for line in joined.splitlines() if (words := shlex.split(line, comments=True))]


def run(block: Block, names: dict) -> str:
    """Run a bash or python block in the current folder; what it printed. Raises RuntimeError if a command fails."""
    out = io.StringIO()
    if block.kind == "python":
        with contextlib.redirect_stdout(out):
            exec(compile(block.text, "<page>", "exec"), names)
        return out.getvalue()
    for words in commands(block):
        if words[0] == "qonnx":
            errors = io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
                code = main(words[1:])
            if code and "|| true" not in block.text:
                raise RuntimeError(f"{shlex.join(words)} ended with {code}: {errors.getvalue()}")
        else:
            out.write(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    return out.getvalue()


def parse(block: Block) -> None:
    """Check the `qonnx` lines of a block without running them; QonnxError for a verb or option that is not there."""
    for words in commands(block):
        if words[0] != "qonnx":
            continue
        verb = importlib.import_module(f"qonnx.cli.{words[1]}")
        parser = Parser(words[1], VERBS[words[1]], verb.EXAMPLE, verb.USAGE)
        verb.arguments(parser)
        parser.parse(words[2:])


def refreshed(page: str) -> str:
    """The page with every output block holding what the block above it prints now."""
    lines, names, shown, offset = page.splitlines(), {}, "", 0
    for block in blocks(page):
        if block.is_output:
            new = shown.rstrip().splitlines()
            new = [re.sub(r"\s+$", "", line) for line in new]
            lines[block.start + 1 + offset : block.end + offset] = new
            offset += len(new) - (block.end - block.start - 1)
        elif block.kind in ("bash", "python"):
            shown = run(block, names)
    return "\n".join(lines) + "\n"


def pages(folder: pathlib.Path) -> list[pathlib.Path]:
    """The pages of the documentation; "*.head.md" are parts of generated ones."""
    return sorted(path for path in folder.rglob("*.md") if not path.name.endswith(".head.md"))

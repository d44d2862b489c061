"""Laws on the source itself: imports go one way, files stay small, names say what is inside."""

from __future__ import annotations

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent
FOLDERS = ("qonnx", "passes", "custom_ops", "models", "tests")
NOT_SOURCE = {"build", "cache", "__pycache__"}
PATHS = [p for folder in FOLDERS for p in (ROOT / folder).rglob("*") if not NOT_SOURCE & set(p.parts)]
FILES = sorted(p for p in PATHS if p.suffix == ".py")
# A package of this list may import those before it, and itself. Single files of qonnx/ stand between these by what they
# import, without a cycle.
ORDER = (
    "qonnx.errors",
    "qonnx.formats",
    "qonnx.solvers",
    "qonnx.custom_ops",
    "qonnx.targets",
    "qonnx.passes",
    "qonnx.recipe",
    "qonnx.conversion",
    "qonnx.__main__",
)
VAGUE = ("utils", "util", "helpers", "helper", "common", "misc", "tools", "stuff")
LONGEST = 450


def module(path: pathlib.Path) -> str:
    """Dotted name as installed: passes/ and custom_ops/ are packages of qonnx."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    if parts[0] in ("passes", "custom_ops"):
        parts.insert(0, "qonnx")
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: pathlib.Path) -> set[str]:
    """qonnx modules that the file imports when it is loaded."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    known = {module(p) for p in FILES}
    found: set[str] = set()
    for node in _loaded(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in known else node.module for name in names]
        found |= {name for name in names if name == "qonnx" or name.startswith("qonnx.")}
    return found


def _loaded(tree: ast.AST):
    """Nodes that run on import: not those in functions, nor under `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from _loaded(node)


def place(name: str) -> int | None:
    """Position in ORDER of a module or the package that holds it."""
    for i, package in enumerate(ORDER):
        if name == package or name.startswith(package + "."):
            return i
    return None


@pytest.mark.parametrize("path", FILES, ids=module)
def test_imports_go_one_way(path: pathlib.Path):
    mine = place(module(path))
    if mine is None:
        return
    for other in imports(path):
        theirs = place(other)
        assert theirs is None or theirs <= mine, f"{module(path)} must not import {other}"


def test_imports_have_no_cycle():
    """Files can be put in a row in which each imports only earlier ones."""
    edges: dict[str, set[str]] = {}
    for path in FILES:
        name = module(path)
        if name.startswith("qonnx.") and name != "qonnx.__main__":
            edges[name] = {other for other in imports(path) if other not in (name, "qonnx")}
    done: set[str] = set()
    while True:
        free = {name for name, needs in edges.items() if name not in done and needs <= done | (needs - set(edges))}
        if not free:
            break
        done |= free
    assert set(edges) == done, f"these import each other: {sorted(set(edges) - done)}"


@pytest.mark.parametrize("path", [p for p in FILES if "tests" not in p.parts and "models" not in p.parts], ids=module)
def test_the_product_does_not_import_tests_or_models(path: pathlib.Path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        name = node.module if isinstance(node, ast.ImportFrom) else None
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [name or ""]
        assert not any(n.split(".")[0] in ("tests", "models") for n in names)


@pytest.mark.parametrize("path", FILES, ids=module)
def test_files_are_short_and_say_what_they_are(path: pathlib.Path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST
    assert ast.get_docstring(ast.parse(text)), "the first line says what the file is"


def test_no_vague_names():
    assert not [p for p in PATHS if p.stem.lower() in VAGUE]

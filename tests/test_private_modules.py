"""A module whose name begins with an underscore is private to its folder."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest

ROOTS = [Path(str(resources.files(name))) for name in ("meshhook", "meshhook_operator")]
MODULES = sorted(path for root in ROOTS for path in root.rglob("*.py"))


def dotted(path: Path) -> str:
    """Return the name of a module, `meshhook.store.claims`."""
    root = next(root for root in ROOTS if path.is_relative_to(root))
    name = ".".join([root.name, *path.relative_to(root).with_suffix("").parts])
    return name.removesuffix(".__init__")


def imported(path: Path) -> Iterator[str]:
    """Return the modules that a module imports, and for `from a import b` also `a.b`."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


PRIVATE = {
    name
    for name in map(dotted, MODULES)
    if (leaf := name.rpartition(".")[2]).startswith("_") and not leaf.startswith("__")
}


def test_there_are_private_modules():
    """Else the next test would check nothing."""
    assert "meshhook.postgres._tls" in PRIVATE


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_private_modules_are_imported_from_their_own_folder_only(path):
    """Whoever changes one finds all its users beside it."""
    package = dotted(path) if path.name == "__init__.py" else dotted(path).rpartition(".")[0]
    strangers = {
        name
        for name in PRIVATE.intersection(imported(path))
        if not f"{package}.".startswith(f"{name.rpartition('.')[0]}.")
    }
    assert not strangers

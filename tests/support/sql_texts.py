"""The statements of the packages, found where they are: in files, and in the text of modules."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from meshhook.schema import available_migrations
from meshhook.schema.pgmq import packaged_sql
from meshhook.store import queries
from meshhook_operator.databases.demand import load

PACKAGES = [Path(str(resources.files(name))) for name in ("meshhook", "meshhook_operator")]

_STATEMENT = re.compile(r"\s*(--[^\n]*\n\s*)*(select|with|insert into|update|delete from)\s+\S")
_CALL = re.compile(r'(?<![\w."])([a-z_][a-z0-9_]*)\(')
_SYNTAX = {
    "all", "any", "array", "cast", "coalesce", "exists", "extract", "greatest", "in", "least",
    "nullif", "row", "values",
    # With more than one array, and only then, the parser takes it for PostgreSQL's own.
    "unnest",
}  # fmt: skip


class Statement(NamedTuple):
    """A statement, and where it stands."""

    name: str
    sql: str
    is_whole: bool
    """Whether nothing is put into it when it runs."""


def all_texts() -> Iterator[str]:
    """Return every text that may have SQL in it: of the packages, the migrations and PGMQ."""
    yield packaged_sql()
    for package in PACKAGES:
        for pattern in ("*.sql", "*.py"):
            yield from (path.read_text("utf-8") for path in package.rglob(pattern))
    for migration in available_migrations():
        yield migration.sql


def statements() -> list[Statement]:
    """Return every statement that reads or changes rows, for the queues `jobs` and `other`.

    Those that create something are left out: they run in migrations, under a path of their own.
    """
    found = []
    for package in PACKAGES:
        for path in sorted(package.rglob("sql/*.sql")):
            is_ours = package.name == "meshhook"
            sql = _full_text(path.stem) if is_ours else load(path.stem)
            found.append(Statement(path.stem, sql, is_whole=True))
        for path in sorted(package.rglob("*.py")):
            for line, text, is_whole in _strings(ast.parse(path.read_text("utf-8"))):
                if _STATEMENT.match(text):
                    found.append(Statement(f"{path.stem}:{line}", text, is_whole))
    return found


def _full_text(name: str) -> str:
    """Return a statement of the library with all of its optional parts."""
    return queries.load(name, "jobs", target="other", has_breakers=True, has_links=True)


def unqualified_calls(sql: str) -> list[str]:
    """Return the functions that a statement calls without naming their schema."""
    code = re.sub(r"--[^\n]*|'[^']*'", "", sql)
    return sorted(set(_CALL.findall(code)) - _SYNTAX)


def _strings(tree: ast.AST) -> Iterator[tuple[int, str, bool]]:
    """Yield the line, the text, and whether it is whole, of each string of a module."""
    parts = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in ast.walk(node)
        if part is not node
    }
    for node in ast.walk(tree):
        if id(node) in parts:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value, "{" not in node.value.replace("'{", "")
        elif isinstance(node, ast.JoinedStr):
            texts = [p.value if isinstance(p, ast.Constant) else "x" for p in node.values]
            yield node.lineno, "".join(map(str, texts)), False

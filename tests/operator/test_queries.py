"""The operator's statements are valid, documented and used."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest

import meshhook_operator
from meshhook_operator.databases.demand import load

PACKAGE = Path(meshhook_operator.__file__).parent
NAMES = sorted(
    path.name.removesuffix(".sql")
    for path in resources.files("meshhook_operator").joinpath("sql").iterdir()
)


def test_there_are_statements():
    """The files are found in the installed package."""
    assert "queue_demand" in NAMES


@pytest.mark.parametrize("name", NAMES)
async def test_each_can_be_prepared(connection, name):
    """They can be prepared in the migrated database."""
    await connection.prepare(load(name))


@pytest.mark.parametrize("name", NAMES)
def test_each_says_what_it_locks(name):
    """The comment at the top names locks and index."""
    head = load(name).split("\nselect")[0]
    assert "Locks:" in head
    assert "Index:" in head


@pytest.mark.parametrize("name", NAMES)
def test_each_has_a_caller(name):
    """Every statement is run by something."""
    callers = [path for path in PACKAGE.rglob("*.py") if f'load("{name}")' in path.read_text()]
    assert callers

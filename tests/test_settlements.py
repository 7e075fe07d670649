"""Settlements and the statement that records them."""

from __future__ import annotations

import re

from meshhook import queries
from meshhook.settlements import Settlement, storable_text


def test_the_fields_are_the_parameters_of_the_statement() -> None:
    """A settlement's fields stand in the order in which sql/settle.sql takes its columns."""
    text = queries.load("settle", "jobs")
    found = re.search(r"as item \(\s*([^)]*?), position\)", text)
    assert found is not None
    assert tuple(found.group(1).replace("\n", " ").replace(" ", "").split(",")) == (
        Settlement._fields
    )


def test_storable_text_cuts_the_middle() -> None:
    """A long text keeps its beginning and its end, and is no longer than asked for."""
    cut = storable_text("a" * 500 + "b" * 500, 100)
    assert len(cut) <= 100
    assert cut.startswith("aaa")
    assert cut.endswith("bbb")
    assert "characters cut" in cut


def test_storable_text_replaces_what_postgresql_cannot_store() -> None:
    """U+0000 and halves of surrogate pairs become U+FFFD; all else stays."""
    assert storable_text("a\x00b\ud800c\U0001f600", 100) == "a\ufffdb\ufffdc\U0001f600"

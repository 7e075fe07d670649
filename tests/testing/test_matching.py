"""Comparing a payload with what is expected of it."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from unittest.mock import ANY
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from meshhook.testing.matching import difference


class Item(BaseModel):
    """A model with a datetime, which JSON does not have."""

    name: str
    made_at: datetime


MOMENT = datetime(2026, 11, 30, tzinfo=UTC)
FOUND = {
    "id": "00000000-0000-0000-0000-000000000001",
    "price": "9.99",
    "count": 2,
    "ratio": 0.30000000000000004,
    "is_new": True,
    "tags": ["a", "b"],
    "items": [{"name": "x", "made_at": "2026-11-30T00:00:00Z"}],
}


@pytest.mark.parametrize(
    "expected",
    [
        {},
        FOUND,
        {"id": UUID(int=1), "price": Decimal("9.99")},
        {"count": ANY, "ratio": pytest.approx(0.3)},
        {"tags": ("a", "b")},
        {"items": [{"name": "x"}]},
        {"items": [Item(name="x", made_at=MOMENT)]},
        {"items": [{"made_at": MOMENT}]},
    ],
)
def test_it_has_what_is_expected(expected: Any) -> None:
    """Extra keys are ignored; models, UUIDs and times match what is stored for them."""
    assert difference(expected, FOUND) is None


@pytest.mark.parametrize(
    ("expected", "fault"),
    [
        ({"name": "x"}, "payload.name is missing"),
        ({"count": 3}, "payload.count is 2, not 3"),
        ({"is_new": 1}, "payload.is_new is True, not 1"),
        ({"count": True}, "payload.count is 2, not True"),
        ({"tags": ["a"]}, "payload.tags has 2 items, not 1"),
        ({"tags": ["a", "c"]}, "payload.tags[1] is 'b', not 'c'"),
        ({"items": [{"name": "y"}]}, "payload.items[0].name is 'x', not 'y'"),
        ({"items": {}}, "payload.items is [{'made_at': '2026-11-30T00:00:00Z', 'name': 'x'}]"),
        ([], "payload is {"),
    ],
)
def test_the_first_place_that_differs_is_named(expected: Any, fault: str) -> None:
    """The first difference is named, with the value found and the one expected."""
    assert str(difference(expected, FOUND)).startswith(fault)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(JSON)
def test_everything_has_itself(value: Any) -> None:
    """Every JSON value matches itself."""
    assert difference(value, value) is None

"""The README's first program."""

import importlib
from pathlib import Path

import pytest

from meshhook.testing import run_job

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def orders(monkeypatch):
    """The example's module."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("orders")


async def test_an_order_is_shipped(orders, meshhook_database, capsys):
    """An order that is placed is enqueued, and a worker ships it."""
    async with meshhook_database.connect(orders.app):
        await orders.ship.enqueue(orders.Order(order_id=1), run_id="run-1")
        await meshhook_database.assert_enqueued("orders", {"order_id": 1}, run_id="run-1", count=1)

        drained = await meshhook_database.drain(orders.app)

    assert drained.counts == {"succeeded": 1}
    assert capsys.readouterr().out == "shipping order 1\n"


async def test_an_order_without_a_number_is_not_shipped(orders, capsys):
    """A payload that is not an order becomes a dead letter without a run."""
    result = await run_job(orders.ship, {"order": "one"})
    assert (result.outcome, result.error_type) == ("dead_lettered", "InvalidPayload")
    assert capsys.readouterr().out == ""

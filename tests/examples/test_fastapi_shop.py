"""The example on FastAPI and SQLAlchemy, with its workers."""

import importlib
from pathlib import Path

import httpx
import pytest

from support.waiting import eventually

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def shop(monkeypatch, database_url):
    """The example's module."""
    monkeypatch.setenv("MESHHOOK_DATABASE_URL", database_url)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.reload(importlib.import_module("fastapi_shop"))


async def test_an_order_is_shipped(shop, connection):
    """Order and job are stored together or not at all, and a worker ships what is there."""
    transport = httpx.ASGITransport(shop.web)
    async with (
        shop.web.router.lifespan_context(shop.web),
        httpx.AsyncClient(transport=transport, base_url="http://shop") as client,
    ):
        answer = await client.post("/orders", json={"item": "nothing"})
        assert answer.status_code == 422
        answer = await client.post("/orders", json={"item": "book"})
        assert answer.status_code == 201
        order_id = answer.json()["order"]

        async def is_shipped():
            sql = "select is_shipped from orders where id = $1"
            return await connection.fetchval(sql, order_id)

        await eventually(is_shipped)
    assert await connection.fetchval("select count(*) from orders") == 1
    assert await connection.fetchval("select count(*) from meshhook.job_attempts") == 1

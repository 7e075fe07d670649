"""The example on Django: its server's view, its command, and its rollback."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

from meshhook import create_queue

SHOP = Path(__file__).parents[2] / "examples" / "django_shop"

ORDER = """
from django.test import Client
client = Client()
print(client.post("/orders", {"item": "book"}, HTTP_HOST="localhost").json())
try:
    client.post("/orders", {"item": "nothing"}, HTTP_HOST="localhost")
except ValueError as error:
    print(error)
"""


async def manage(url, *arguments, **options):
    """Start a command of the example."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "manage.py",
        *arguments,
        cwd=SHOP,
        env=os.environ | {"MESHHOOK_DATABASE_URL": url, "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=PIPE,
        **options,
    )


async def output_of(url, *arguments):
    """Run a command of the example, and return what it prints."""
    process = await manage(url, *arguments)
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0
    return output.decode()


async def test_an_order_is_shipped(database_url, connection):
    """Order and job are stored together or not at all, and the worker ships what is there."""
    await create_queue(connection, "shipments")
    await output_of(database_url, "migrate", "--verbosity", "0")
    output = await output_of(database_url, "shell", "--no-imports", "-c", ORDER)
    assert output == "{'order': 1}\nnothing cannot be ordered\n"
    assert await connection.fetchval("select count(*) from shop_order") == 1
    assert await connection.fetchval("select count(*) from pgmq.q_shipments") == 1

    worker = await manage(database_url, "meshhook_worker", "shop.jobs:app")
    line = await asyncio.wait_for(worker.stdout.readline(), 60)
    assert line == b"shipped order 1: book\n"
    worker.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(worker.wait(), 60) == 0
    assert await connection.fetchval("select is_shipped from shop_order")

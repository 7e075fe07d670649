"""An address that led to a standby for a while: pools that were filled then find the primary."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from typing import Any

import asyncpg
import pytest
from prometheus_client import CollectorRegistry

from meshhook import Database, QueueService
from meshhook.errors import DatabaseReadOnlyError
from meshhook_operator.databases.database import DatabaseAddress, QueueDatabase
from meshhook_operator.databases.demand import DemandRequest, QueueDemand
from support.chaos.servers import QUEUE, Server, ServerTemplate
from support.proxy import Proxy
from support.waiting import eventually


@pytest.fixture
def pair(server_template: ServerTemplate) -> Iterator[tuple[Server, Server]]:
    """A primary, and a standby that streams from it."""
    with server_template.pair(is_synchronous=False) as (primary, standby):
        yield primary, standby


async def test_every_pool_finds_the_primary_once_the_address_does(
    pair: tuple[Server, Server],
) -> None:
    """A caller's pool, one of ours and the operator's fail while it leads to the standby only.

    Sessions on the standby stand, and read well: a write shows what they are.
    """
    primary, standby = pair
    with Proxy(standby.port) as address:
        url = address.url("chaos")
        ours = await Database.connect(url, min_size=3, max_size=3)
        operators = QueueDatabase(
            DatabaseAddress(url, pooled=False),
            on_wake=lambda _: None,
            on_identity=lambda: None,
            registry=CollectorRegistry(),
        )
        request = DemandRequest(QUEUE, 5, is_waiting=True)
        async with asyncpg.create_pool(url, min_size=3, max_size=3) as callers:
            services = [QueueService[Any](source, QUEUE) for source in (callers, ours)]
            for service in services:
                assert (await service.get_queue_metrics()).queue == QUEUE
                with pytest.raises(DatabaseReadOnlyError):
                    await service.enqueue({})
            with pytest.raises(DatabaseReadOnlyError):
                await operators.read_demand([request], waiting_seconds=5)

            address.lead_to(primary.port)
            for service in services:
                await eventually(partial(takes_jobs, service))
                await asyncio.gather(*(service.enqueue_many([{}]) for _ in range(6)))
            found = await operators.read_demand([request], waiting_seconds=5)
            assert isinstance(found[QUEUE], QueueDemand)
            await operators.close()
            await ours.close()
    assert primary.fetchval(f"select count(*) from pgmq.q_{QUEUE}") == 14


async def takes_jobs(service: QueueService[Any]) -> bool:
    """Whether a job was stored."""
    try:
        await service.enqueue({})
    except DatabaseReadOnlyError:
        return False
    return True

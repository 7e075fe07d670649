"""The moment in which a standby becomes the primary: queues go on there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from meshhook import Database, Job, QueueService, create_queue
from support.chaos.counts import CLEAN
from support.chaos.servers import QUEUE, Server, ServerTemplate
from support.chaos.window import Window
from support.waiting import eventually


@pytest.fixture(params=["embedded", "debian"])
def template(
    request: pytest.FixtureRequest,
    server_template: ServerTemplate,
    debian_template: Callable[[], ServerTemplate],
) -> ServerTemplate:
    """Servers of the embedded PostgreSQL, and of Debian's, 15 on Debian 12."""
    return server_template if request.param == "embedded" else debian_template()


@pytest.fixture
def pair(template: ServerTemplate) -> Iterator[tuple[Server, Server]]:
    """A primary, and a standby that streams from it and confirms each commit."""
    with template.pair() as (primary, standby):
        yield primary, standby


@pytest.mark.parametrize("queue_name", [QUEUE, "young"])
async def test_a_queue_goes_on_after_a_promotion(
    pair: tuple[Server, Server], tmp_path: Path, queue_name: str
) -> None:
    """Jobs are enqueued and done before and after, also in a queue younger than the standby.

    The primary is lost at once, before the standby has written down where it could start from.
    """
    primary, standby = pair
    both = (
        f"postgresql://postgres@127.0.0.1:{primary.port},127.0.0.1:{standby.port}/chaos"
        "?target_session_attrs=read-write"
    )
    old = await asyncpg.connect(primary.url())
    await create_queue(Database(old), queue_name)
    window = Window(both, old, tmp_path, queue_name)

    async def succeed(_: Job[Any]) -> None:
        """Do nothing."""

    async with window.worker(succeed) as worker:
        await window.enqueue("before")
        await eventually(lambda: worker.get_stats().succeeded == 1)
        primary.stop("immediate")
        standby.promote()
        old.terminate()
        new = await asyncpg.connect(standby.url())
        window.connection = new
        async with QueueService[Any](new, queue_name) as queue:
            window.ledger.note("attempted", "after", "ok")
            window.ledger.note("confirmed", "after", await queue.enqueue({"run_id": "after"}))
        await eventually(lambda: worker.get_stats().succeeded == 2)
    await new.close()
    assert window.counts() == CLEAN

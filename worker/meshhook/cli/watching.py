"""A live view of queues on the terminal, with the jobs that come and go per second."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from meshhook import administration
from meshhook.administration import QueueSnapshot
from meshhook.cli.output import Column
from meshhook.cli.snapshots import COLUMNS, snapshot_row
from meshhook.cli.tables import console, table
from meshhook.errors import DatabaseError
from meshhook.escaping import shown_sentence
from meshhook.postgres.database import Database

REFRESH_SECONDS = 1.0
_MAX_TROUBLE_CHARACTERS = 500


async def watch(database: Database, queue_name: str | None) -> None:
    """Show the queues until Ctrl-C, through failures of the database.

    Raises:
        QueueNotFoundError: if the given queue does not exist.
        DatabaseError: if the first reading fails.
    """
    before = await _read(database, queue_name)
    with Live(console=console(), auto_refresh=False) as live:
        live.update(_picture(before, {}), refresh=True)
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            try:
                now = await _read(database, queue_name)
            except DatabaseError as error:
                live.update(_picture(before, before, trouble=str(error)), refresh=True)
                continue
            live.update(_picture(now, before), refresh=True)
            before = now


async def _read(database: Database, queue_name: str | None) -> dict[str, QueueSnapshot]:
    if queue_name is not None:
        return {queue_name: await administration.get_queue_snapshot(database, queue_name)}
    return {each.queue: each for each in await administration.list_queues(database)}


def _picture(
    now: Mapping[str, QueueSnapshot], before: Mapping[str, QueueSnapshot], *, trouble: str = ""
) -> RenderableType:
    columns = [
        *COLUMNS[:1],
        Column("IN/s", is_number=True),
        Column("OUT/s", is_number=True),
        *COLUMNS[1:],
    ]
    rows = []
    for name, snapshot in now.items():
        first, *rest = snapshot_row(snapshot)
        rows.append([first, *_rates(snapshot, before.get(name)), *rest])
    parts: list[RenderableType] = [table(columns, rows, console().width)]
    if not rows:
        parts = [Text("There are no queues yet.")]
    if trouble:
        parts.append(
            Text(
                f"trying again: {shown_sentence(trouble, limit=_MAX_TROUBLE_CHARACTERS)}",
                style="yellow",
            )
        )
    else:
        moment = max((each.sampled_at for each in now.values()), default=None)
        clock = "" if moment is None else f"{moment:%H:%M:%S} UTC, "
        parts.append(Text(f"{clock}Ctrl-C to stop", style="dim"))
    return Group(*parts)


def _rates(now: QueueSnapshot, before: QueueSnapshot | None) -> Sequence[str]:
    """Return how many messages per second came and went since the last reading."""
    if before is None:
        return "-", "-"
    seconds = (now.sampled_at - before.sampled_at).total_seconds()
    if seconds <= 0:
        return "-", "-"
    came = max(0, now.enqueued_total - before.enqueued_total)
    arrivals = f"{came / seconds:,.0f}"
    if now.capped or before.capped:
        return arrivals, "-"  # without the true count it is not known how many went
    went = max(0, came + before.queue_length - now.queue_length)
    return arrivals, f"{went / seconds:,.0f}"

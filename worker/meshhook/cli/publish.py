"""`meshhook publish`: one job for each queue that is bound to a topic."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from meshhook.cli.connecting import with_database
from meshhook.cli.encryption_keys import key_ring
from meshhook.cli.enqueue import headers_from
from meshhook.cli.failures import UsageError
from meshhook.cli.json_lines import open_lines
from meshhook.cli.options import (
    ExpiresInOption,
    JsonOption,
    PriorityOption,
    RetryOption,
    command_app,
    example,
    priority_from,
    retry_from,
)
from meshhook.cli.output import counted, note, print_json, say
from meshhook.cli.tracing import traced
from meshhook.names import validate_topic
from meshhook.postgres.database import Database
from meshhook.queues import QueueService

app = command_app()


@app.command(
    "publish",
    epilog=example(
        "meshhook publish shop.orders.created '{\"order\": 17}'",
        "meshhook publish shop.orders.created '{\"order\": 17}' --key tenant-7 --delay 60",
    ),
)
def publish(
    context: typer.Context,
    topic: Annotated[
        str, typer.Argument(metavar="TOPIC", help="The topic, such as shop.orders.created.")
    ],
    job: Annotated[
        str,
        typer.Argument(
            metavar="JSON", help="The job, as in meshhook enqueue; - reads it from standard input."
        ),
    ],
    *,
    delay: Annotated[
        float, typer.Option(metavar="SECONDS", help="How long until the jobs are ready.")
    ] = 0,
    key: Annotated[
        str | None, typer.Option(help="Whose jobs they are, such as a tenant; see: keyed queues.")
    ] = None,
    priority: PriorityOption = None,
    retry: RetryOption = None,
    expires_in: ExpiresInOption = None,
    header: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="A header of the messages; may be repeated."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Enqueue one job in each queue that is bound to a topic, all or none; needs PGMQ 1.11.

    Queues are bound with meshhook queue bind. If none is, the job is stored nowhere.
    """
    validate_topic(topic)
    headers = headers_from(header or [])
    urgency, policy = priority_from(priority), retry_from(retry)
    with open_lines(job, None) as lines:
        found = list(lines)
    if len(found) > 1:
        raise UsageError("publish takes one job; call it once for each line")
    value = found[0].value

    async def send(database: Database) -> dict[str, int]:
        async with QueueService[Any](database, encryption=key_ring()) as service:
            return await service.publish(
                topic,
                value,
                delay,
                key=key,
                priority=urgency,
                headers=headers,
                retry=policy,
                expires_in=expires_in,
            )

    with traced("meshhook-enqueue"):
        msg_ids = with_database(context, send)
    if as_json:
        print_json({"topic": topic, "msg_ids": msg_ids})
    elif msg_ids:
        jobs = ", ".join(f"job {msg_id} in {queue}" for queue, msg_id in msg_ids.items())
        say(f"published {topic} to {counted(len(msg_ids), 'queue')}: {jobs}")
    else:
        note(f"no queue is bound to {topic}: nothing was stored; see: meshhook queue bindings")

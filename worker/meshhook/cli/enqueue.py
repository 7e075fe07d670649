"""`meshhook enqueue`: one job from the command line, or many from a file or standard input."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from meshhook.cli.connecting import with_database
from meshhook.cli.encryption_keys import key_ring
from meshhook.cli.failures import PartlyDoneError, UsageError
from meshhook.cli.json_lines import JsonLines, Line, open_lines
from meshhook.cli.moments import exact_moment
from meshhook.cli.options import (
    DefaultQueueArgument,
    ExpiresInOption,
    JsonOption,
    PriorityOption,
    RetryOption,
    command_app,
    example,
    priority_from,
    retry_from,
)
from meshhook.cli.output import counted, print_json, say
from meshhook.cli.tracing import traced
from meshhook.delays import delay_in_seconds
from meshhook.encryption.envelope import Place
from meshhook.encryption.messages import encrypted_body
from meshhook.errors import InvalidJobError, UncertainCommitError
from meshhook.escaping import quoted
from meshhook.expiry import expiry_headers
from meshhook.jobs import MAX_ID_LENGTH, RETRY_HEADER
from meshhook.names import DEFAULT_QUEUE_NAME, validate_queue_name
from meshhook.postgres.database import Database
from meshhook.priorities import PRIORITY_HEADER
from meshhook.queues import QueueService
from meshhook.retry import header_of_policy
from meshhook.store.bodies import encode_body, is_envelope
from meshhook.store.message_headers import encode_headers
from meshhook.unique import unique_from

if TYPE_CHECKING:
    from meshhook.encryption.key_ring import KeyRing
    from meshhook.queue_config import QueueConfig

BATCH_JOBS = 1_000
_STARTS_OF_JSON = ("{", "[", '"')
"""What a job can start with and a queue's name cannot. Numbers and words can be names."""


app = command_app()


@app.command(
    "enqueue",
    epilog=example(
        "meshhook enqueue '{\"order\": 17}' --delay 60",
        "meshhook enqueue orders '{\"order\": 17}'",
        "meshhook enqueue orders '{\"order\": 17}' --unique-key order-17",
        "meshhook enqueue orders --file jobs.jsonl",
        "generate | meshhook enqueue orders",
    ),
)
def enqueue(
    context: typer.Context,
    queue: DefaultQueueArgument = DEFAULT_QUEUE_NAME,
    job: Annotated[
        str | None,
        typer.Argument(metavar="JSON", help="One job. Default: JSON lines on standard input."),
    ] = None,
    *,
    file: Annotated[
        Path | None,
        typer.Option(help="A file of JSON lines, one job each; .gz works; - is standard input."),
    ] = None,
    delay: Annotated[
        float, typer.Option(metavar="SECONDS", help="How long until the jobs are ready.")
    ] = 0,
    run_id: Annotated[str | None, typer.Option(help="The run that the jobs belong to.")] = None,
    workflow_id: Annotated[
        str | None, typer.Option(help="The workflow that the jobs belong to.")
    ] = None,
    project_id: Annotated[
        str | None, typer.Option(help="The project that the jobs belong to.")
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="Whose jobs they are, such as a tenant; see: keyed queues.")
    ] = None,
    priority: PriorityOption = None,
    unique_key: Annotated[
        str | None, typer.Option(help="Enqueue the job only if no other job has this key.")
    ] = None,
    unique: Annotated[
        str | None,
        typer.Option(
            metavar="UNTIL",
            help="How long it has the key: until-done, until-started, or seconds. "
            "Default: until-done.",
        ),
    ] = None,
    on_conflict: Annotated[
        str | None,
        typer.Option(
            metavar="ACTION",
            help="If another job has the key: existing (enqueue nothing), error, or replace (that "
            "job, if it has not started). Default: existing.",
        ),
    ] = None,
    retry: RetryOption = None,
    expires_in: ExpiresInOption = None,
    expires_at: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="From when on no job is to be started."),
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="A header of the messages; may be repeated."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Enqueue one job, or one job per line of input.

    The JSON is the whole message: either an object with the key payload and no keys other than
    run_id, workflow_id and project_id, or any other value, which is the payload itself. With an ID
    option, any other value becomes the payload of such an object.

    A single argument is a job for workflow_jobs if it starts with {, [ or ", and else a queue.

    Lines are stored in batches of 1,000, each durable on its own. A bad line stops the command,
    which says how many jobs were stored before it.
    """
    if job is None and queue.lstrip().startswith(_STARTS_OF_JSON):
        queue, job = DEFAULT_QUEUE_NAME, queue
    name = validate_queue_name(queue)
    if unique_key is not None and job is None:
        raise UsageError("--unique-key is for one job: give its JSON as an argument")
    urgency, policy = priority_from(priority), retry_from(retry)
    kept: Any = _kept(unique)
    unique_from(unique_key, kept, cast("Any", on_conflict))
    asked = {"unique_key": unique_key, "unique": kept, "on_conflict": on_conflict}
    sender = _Sender(
        unique=None if unique_key is None else asked,
        queue_name=name,
        delay_seconds=delay_in_seconds(delay),
        key=key,
        headers=headers_from(header or [])
        | ({} if policy is None else {RETRY_HEADER: header_of_policy(policy)})
        | ({} if urgency is None else {PRIORITY_HEADER: int(urgency)})
        | expiry_headers(
            None if expires_at is None else exact_moment("--expires-at", expires_at), expires_in
        ),
        ids=_ids(run_id=run_id, workflow_id=workflow_id, project_id=project_id),
    )
    with traced("meshhook-enqueue"), open_lines(job, file) as lines:
        with_database(context, lambda database: sender.send(database, lines))
    ids = sender.msg_ids
    if unique_key is not None:
        _print_unique(name, ids[0], as_json=as_json)
    elif as_json:
        print_json({"queue": name, "enqueued": len(ids), "msg_ids": ids})
    elif len(ids) == 1:
        say(f"enqueued job {ids[0]} in {name}")
    else:
        say(f"enqueued {counted(len(ids), 'job')} in {name}")


def _kept(unique: str | None) -> Any:
    """Return how long a job has its unique key, as the library takes it."""
    if unique is None or unique.startswith("until"):
        return unique and unique.replace("-", "_")
    try:
        return timedelta(seconds=float(unique))
    except (ValueError, OverflowError):
        raise UsageError(
            f"--unique is until-done, until-started or a number of seconds, got {quoted(unique)}"
        ) from None


def _print_unique(queue: str, msg_id: Any, *, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "queue": queue,
                "enqueued": int(msg_id.is_new),
                "replaced": msg_id.was_replaced,
                "msg_ids": [int(msg_id)],
            }
        )
    elif msg_id.is_new:
        say(f"enqueued job {msg_id} in {queue}")
    elif msg_id.was_replaced:
        say(f"replaced job {msg_id} in {queue}")
    else:
        say(f"job {msg_id} in {queue} has the key: nothing enqueued")


class _Sender:
    """Stores lines, and knows how far it got."""

    def __init__(
        self,
        *,
        queue_name: str,
        delay_seconds: float,
        key: str | None,
        headers: dict[str, Any],
        ids: dict[str, str],
        unique: dict[str, Any] | None,
    ) -> None:
        self.msg_ids: list[int] = []
        self._unique = unique
        self._queue_name = queue_name
        self._delay_seconds = delay_seconds
        self._key = key
        self._headers = headers
        self._ids = ids
        self._last_line = 0
        self._is_storing = False

    async def send(self, database: Database, lines: JsonLines) -> None:
        try:
            await self._send_all(database, lines)
        except BaseException as error:
            is_uncertain = _is_interrupt(error) and self._is_storing
            if isinstance(error, GeneratorExit) or not (self.msg_ids or is_uncertain):
                raise
            if isinstance(error, KeyboardInterrupt):
                # The task may have been cancelled as well. That would surface at its next wait,
                # when it closes the connection, and replace this error.
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(0)
            raise PartlyDoneError(self._how_far(error), _cause(error)) from error

    async def _send_all(self, database: Database, lines: JsonLines) -> None:
        ring = key_ring()
        async with QueueService[Any](database, self._queue_name, encryption=ring) as service:
            config = await service.get_config()
            if ring is not None:
                await ring.prepare()
            with _progress(lines) as advance:
                batch: list[Line] = []
                try:
                    for line in self._checked(lines, config, ring):
                        batch.append(line)
                        if len(batch) == BATCH_JOBS:
                            await self._store(service, batch)
                            batch = []
                            advance(len(self.msg_ids))
                except ValueError:
                    # A bad line: store what came before it all the same.
                    await self._store(service, batch)
                    raise
                await self._store(service, batch)
                advance(len(self.msg_ids))

    def _checked(
        self, lines: JsonLines, config: QueueConfig, ring: KeyRing | None
    ) -> Iterator[Line]:
        place, limit_bytes = Place("queue", self._queue_name), config.max_payload_bytes
        for line in lines:
            line.value = self._with_ids(line.value)
            try:
                body = encode_body(line.value, limit_bytes)
                if ring is not None:
                    # As it will be: it is larger then, and its key must be readable.
                    encrypted_body(
                        body, ring, place, max_bytes=limit_bytes, key_path=config.body_key_path
                    )
            except InvalidJobError as error:
                raise InvalidJobError(f"{line.place}{error}") from None
            yield line

    async def _store(self, service: QueueService[Any], batch: list[Line]) -> None:
        if batch:
            self._is_storing = True
            if self._unique is not None:
                found = await service.enqueue(
                    batch[0].value,
                    self._delay_seconds,
                    key=self._key,
                    headers=self._headers,
                    **self._unique,
                )
                self.msg_ids.append(found)
                return
            self.msg_ids += await service.enqueue_many(
                [line.value for line in batch],
                self._delay_seconds,
                key=self._key,
                headers=self._headers,
            )
            self._last_line = batch[-1].number
            self._is_storing = False

    def _with_ids(self, value: Any) -> Any:
        if not self._ids:
            return value
        if is_envelope(value):
            return {**value, **self._ids}
        return {**self._ids, "payload": value}

    def _how_far(self, error: BaseException) -> str:
        reason = "interrupted" if _is_interrupt(error) else str(error)
        if not self.msg_ids:
            return f"{reason}\nit is not known whether the first {BATCH_JOBS:,} lines were stored"
        stored = f"{counted(len(self.msg_ids), 'job')} stored, up to line {self._last_line}"
        if isinstance(error, UncertainCommitError) or (_is_interrupt(error) and self._is_storing):
            return (
                f"{reason}\n{stored}; it is not known whether the next batch "
                f"(up to {BATCH_JOBS:,} lines) was stored"
            )
        go_on = f"continue with line {self._last_line + 1}"
        if isinstance(error, ValueError):
            go_on = f"fix the line and {go_on}"
        return f"{reason}\n{stored}; {go_on}"


@contextmanager
def _progress(lines: JsonLines) -> Iterator[Callable[[int], None]]:
    """Show a bar if standard error is a terminal; yield what takes the number of jobs stored."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich import progress  # noqa: PLC0415 - slow to load

    from meshhook.cli.tables import error_console  # noqa: PLC0415 - the same

    with progress.Progress(
        progress.TextColumn("{task.fields[jobs]:,} jobs"),
        progress.BarColumn(),
        progress.TimeElapsedColumn(),
        console=error_console(),
        transient=True,
    ) as bar:
        task = bar.add_task("enqueue", total=lines.size_bytes, jobs=0)

        def advance(jobs: int) -> None:
            completed = lines.position() if lines.size_bytes is not None else 0
            bar.update(task, completed=completed, jobs=jobs)

        yield advance


def _is_interrupt(error: BaseException) -> bool:
    return isinstance(error, asyncio.CancelledError | KeyboardInterrupt)


def _cause(error: BaseException) -> BaseException:
    return KeyboardInterrupt() if _is_interrupt(error) else error


def _ids(**ids: str | None) -> dict[str, str]:
    given = {name: value for name, value in ids.items() if value is not None}
    for name, value in given.items():
        if not 1 <= len(value) <= MAX_ID_LENGTH:
            option = name.replace("_", "-")
            raise UsageError(
                f"--{option} has {len(value)} characters; it may have 1 to {MAX_ID_LENGTH}"
            )
    return given


def headers_from(headers: list[str]) -> dict[str, str]:
    """Return the headers that are given as NAME=VALUE.

    Raises:
        UsageError: if one is not.
        InvalidJobError: if they cannot be stored.
    """
    found: dict[str, str] = {}
    for header in headers:
        name, equals, value = header.partition("=")
        if not equals or not name:
            raise UsageError(
                f"--header {header!r} is not NAME=VALUE, for example traceparent=00-4bf92f35..."
            )
        found[name] = value
    encode_headers(found)
    return found

"""`meshhook queue`: create, show, configure, pause, purge and drop queues."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from meshhook import administration
from meshhook.administration import QueueSnapshot
from meshhook.cli import bindings
from meshhook.cli.connecting import with_database
from meshhook.cli.deletion import Deleted, delete_for_good
from meshhook.cli.failures import UsageError
from meshhook.cli.options import (
    DefaultQueueArgument,
    JsonOption,
    QueueArgument,
    YesOption,
    command_app,
    example,
)
from meshhook.cli.output import count, counted, print_fields, print_json, say
from meshhook.cli.scaling import print_queues, print_scaling, snapshot_with
from meshhook.cli.snapshots import print_priorities, print_snapshot
from meshhook.errors import QueueNotFoundError
from meshhook.names import DEFAULT_QUEUE_NAME, validate_queue_name
from meshhook.postgres.database import Database
from meshhook.priority_statistics import PriorityStatistics, get_priority_statistics
from meshhook.queue_config import SETTING_NAMES, QueueConfig, changed_settings
from meshhook.queue_scaling import QueueScaling, known_queue_scaling

app = command_app(
    help="Create, show, configure, pause, purge and drop queues.",
    no_args_is_help=True,
    epilog=example("meshhook queue create workflow_jobs"),
)

SettingsArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="SETTING=VALUE", help="Settings; see: meshhook queue set --help."),
]


@app.command(
    "create",
    epilog=example("meshhook queue create", "meshhook queue create orders max_retry_attempts=3"),
)
def create(
    context: typer.Context,
    queue: DefaultQueueArgument = DEFAULT_QUEUE_NAME,
    settings: SettingsArgument = None,
    ignore_fifo_groups: Annotated[
        bool,
        typer.Option(
            "--ignore-fifo-groups",
            help="Adopt a queue with FIFO groups; workers keep their order if ordered=true.",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Create a queue with a place for its dead letters, or adopt a queue that PGMQ already has.

    A name has 1 to 43 characters of a-z, 0-9, _ and -. Repeating the command is safe.
    """
    queue, settings = _queue_and_settings(queue, settings)
    name = validate_queue_name(queue)
    changes = pairs_of(settings)
    now = datetime.now(UTC)
    # Checked first, or a wrong setting would leave a queue with other settings behind.
    changed_settings(QueueConfig(queue=name, created_at=now, updated_at=now), changes)

    async def work(database: Database) -> tuple[bool, QueueConfig]:
        created = await administration.create_queue(
            database, name, ignore_fifo_groups=ignore_fifo_groups
        )
        if changes:
            return created, await administration.set_queue_config(database, name, **changes)
        return created, await administration.get_queue_config(database, name)

    created, config = with_database(context, work)
    if as_json:
        print_json({"queue": name, "created": created, "config": config})
    elif created:
        say(f"created queue {name}")
    else:
        say(f"queue {name} already exists" + ("; its settings were changed" if changes else ""))


@app.command("list", epilog=example("meshhook queue list --json"))
def list_(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the queues, with their messages by state.

    REPLICAS is how many workers JobQueues run for it, and how many they want, if that differs.
    """

    async def work(database: Database) -> tuple[list[QueueSnapshot], list[QueueScaling]]:
        snapshots = await administration.list_queues(database)
        return snapshots, await known_queue_scaling(database)

    snapshots, scaling = with_database(context, work)
    if as_json:
        print_json([snapshot_with(each, scaling) for each in snapshots])
    else:
        print_queues(snapshots, scaling)


@app.command("show", epilog=example("meshhook queue show workflow_jobs"))
def show(
    context: typer.Context,
    queue: DefaultQueueArgument = DEFAULT_QUEUE_NAME,
    as_json: JsonOption = False,
) -> None:
    """Show one queue: its messages by state, what is due by priority, how JobQueues scale it.

    Its settings come last.
    """
    name = validate_queue_name(queue)

    async def work(
        database: Database,
    ) -> tuple[QueueSnapshot, list[PriorityStatistics], QueueConfig, list[QueueScaling]]:
        config = await administration.get_queue_config(database, name)
        snapshot = await administration.get_queue_snapshot(database, name)
        bands = await get_priority_statistics(database, name) if config.prioritized else []
        return snapshot, bands, config, await known_queue_scaling(database, name)

    snapshot, bands, config, scaling = with_database(context, work)
    if as_json:
        print_json(
            {"snapshot": snapshot, "priorities": bands, "config": config, "scaling": scaling}
        )
        return
    print_snapshot(snapshot)
    for each in scaling:
        say("")
        print_scaling(each)
    say("")
    if bands:
        print_priorities(bands)
        say("")
    _print_config(config)


@app.command(
    "set",
    epilog=example(
        "meshhook queue set workflow_jobs max_retry_attempts=10 job_timeout_seconds=none"
    ),
)
def set_(
    context: typer.Context,
    queue: DefaultQueueArgument = DEFAULT_QUEUE_NAME,
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="SETTING=VALUE", help="The settings, as listed above."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Change settings of a queue; running workers apply them within seconds.

    \b
    visibility_timeout_seconds  how long a lease lasts; extended while the job runs
    max_retry_attempts          how many attempts a job has in total
    retry_backoff_base_ms       the delay after the first failure
    retry_backoff_max_ms        the longest delay
    retry_jitter                the random share of a delay, 0 to 1
    retry_backoff               exponential; fixed: always the base; list: the delays
    retry_delays_ms             the delays of a list, with commas; the last repeats
    max_retries_per_second      more retries are put off until there is room; none
    job_expiry_seconds          how long after enqueuing a job may start; none
    on_expiry                   archive: move expired jobs there; dead_letter
    job_timeout_seconds         how long an attempt may run, or none
    dlq_enabled                 true: keep dead letters; false: archive them
    dlq_retention_days          how long dead letters are kept; none: forever
    archive_retention_days      how long archived messages are kept; none: forever
    history_retention_days      how long attempts are kept
    max_payload_bytes           the largest message that the library enqueues
    paused                      true: workers claim nothing
    results                     true: keep what handlers return
    keep_bodies_days            how long bodies of finished jobs are kept; none
    encryption                  require: refuse jobs that are not encrypted; accept
    lookup_by                   ids by which jobs are found through an index; none
    prioritized                 true: jobs have priorities, the most urgent go first
    priority_target_seconds     when urgent,high,normal,low jobs are to start
    urgent_slots                slots of each worker for urgent jobs, at least
    keyed                       true: serve the keys of messages in fair shares
    key_path                    where in the body the key is; none: its header
    ordered                     true: one job of a key at a time, in order
    dead_letter_follow_up       the queue that gets a job for each dead letter; none
    on_dead_letter              block: a dead letter stops its ordered key; continue
    max_running                 how many jobs run at once, on all workers; none
    max_running_per_key         how many jobs of a key run at once; none
    max_starts                  how many jobs start in each period; none
    max_starts_per_key          how many jobs of a key start in each period; none
    starts_period_seconds       how long such a period is
    breaker_failures            how many failures in a row open a key's breaker; none
    breaker_pause_seconds       how long it stays open before the first probe
    breaker_max_pause_seconds   the longest pause; it doubles with each failed probe
    """  # noqa: D301 - the command line keeps lines as they are after \b
    queue, settings = _queue_and_settings(queue, settings)
    if not settings:
        raise UsageError(
            f"name what to set, for example: meshhook queue set {queue} max_retry_attempts=10\n"
            "see: meshhook queue set --help"
        )
    config = _set(context, queue, as_json, pairs_of(settings))
    if not as_json:
        _print_config(config)


@app.command("pause", epilog=example("meshhook queue pause workflow_jobs"))
def pause(context: typer.Context, queue: QueueArgument, as_json: JsonOption = False) -> None:
    """Stop workers from claiming jobs; running jobs finish, and enqueuing continues."""
    _set(context, queue, as_json, {"paused": True})
    if not as_json:
        say(f"paused queue {queue}; resume it: meshhook queue resume {queue}")


@app.command("resume", epilog=example("meshhook queue resume workflow_jobs"))
def resume(context: typer.Context, queue: QueueArgument, as_json: JsonOption = False) -> None:
    """Let workers claim jobs again."""
    _set(context, queue, as_json, {"paused": False})
    if not as_json:
        say(f"resumed queue {queue}")


app.command("bind", epilog=example("meshhook queue bind orders 'shop.orders.*'"))(bindings.bind)
app.command("unbind", epilog=example("meshhook queue unbind orders 'shop.orders.*'"))(
    bindings.unbind
)
app.command("bindings", epilog=example("meshhook queue bindings orders"))(bindings.bindings)


@app.command("purge", epilog=example("meshhook queue purge workflow_jobs --yes"))
def purge(
    context: typer.Context,
    queue: QueueArgument,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Delete all messages of a queue, running ones included; dead letters stay."""
    from meshhook.queues import QueueService  # noqa: PLC0415 - slow to load

    async def question(database: Database, name: str) -> str:
        found = await administration.get_queue_snapshot(database, name)
        messages = count(found.queue_length, capped=found.capped)
        running = count(found.running)
        return f"Delete all messages of queue {name!r} ({messages}, {running} of them running)?"

    async def delete(database: Database, name: str) -> Deleted:
        purged = await QueueService[Any](database, name).purge_queue()
        sentence = f"deleted {counted(purged, 'message')} of queue {name}"
        return Deleted("purged", purged, sentence)

    delete_for_good(context, queue, question=question, delete=delete, yes=yes, as_json=as_json)


@app.command("drop", epilog=example("meshhook queue drop workflow_jobs --yes"))
def drop(
    context: typer.Context,
    queue: QueueArgument,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Drop a queue with its messages, dead letters and settings; its history stays."""

    async def question(database: Database, name: str) -> str:
        found = await administration.get_queue_snapshot(database, name)
        messages = count(found.queue_length, capped=found.capped)
        dead = count(found.dead_letters, capped=found.dead_letters_capped)
        return f"Drop queue {name!r} with its messages ({messages}) and dead letters ({dead})?"

    async def delete(database: Database, name: str) -> Deleted:
        if not await administration.drop_queue(database, name):
            raise QueueNotFoundError(name)
        return Deleted("dropped", value=True, sentence=f"dropped queue {name}")

    delete_for_good(context, queue, question=question, delete=delete, yes=yes, as_json=as_json)


def _set(context: typer.Context, queue: str, as_json: bool, changes: dict[str, Any]) -> QueueConfig:
    """Change settings, print all of them if that is to be JSON, and return them."""
    name = validate_queue_name(queue)

    async def work(database: Database) -> QueueConfig:
        return await administration.set_queue_config(database, name, **changes)

    config = with_database(context, work)
    if as_json:
        print_json(config)
    return config


def _queue_and_settings(queue: str, settings: list[str] | None) -> tuple[str, list[str]]:
    """Tell a queue from a setting of the default queue: a queue's name has no `=`."""
    if "=" in queue:
        return DEFAULT_QUEUE_NAME, [queue, *(settings or [])]
    return queue, settings or []


def pairs_of(settings: Sequence[str]) -> dict[str, Any]:
    """Return settings by their names. Raises UsageError for one that is not SETTING=VALUE."""
    changes: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise UsageError(
                f"{setting!r} is not SETTING=VALUE, for example max_retry_attempts=10\n"
                "see: meshhook queue set --help"
            )
        if name in changes:
            raise UsageError(f"setting {name!r} is given twice")
        changes[name] = value
    return changes


def _print_config(config: QueueConfig) -> None:
    print_fields([(name, _setting_text(getattr(config, name))) for name in SETTING_NAMES])


def _setting_text(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(_setting_text(each) for each in value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)

"""`meshhook keys`: what waits and runs of each key of a queue, weights and limits."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

import typer

from meshhook.cli.connecting import with_database
from meshhook.cli.failures import UsageError
from meshhook.cli.options import JsonOption, QueueArgument, command_app, example
from meshhook.cli.output import (
    Column,
    count,
    duration,
    moment_with_age,
    note,
    print_fields,
    print_json,
    print_table,
)
from meshhook.cli.queue import pairs_of
from meshhook.keys import (
    DEFAULT_KEYS,
    MAX_KEYS,
    BreakerState,
    KeyOrder,
    KeyState,
    get_key,
    hold_key,
    list_keys,
    resume_key,
    set_key,
)
from meshhook.names import validate_queue_name

LAST_YEAR = 9000
"""A hold that ends later than that is for ever."""

app = command_app(
    help="Show the keys of a queue, set weights and limits, hold keys.",
    no_args_is_help=True,
    epilog=example("meshhook keys list deliveries"),
)

KeyArgument = Annotated[
    str,
    typer.Argument(metavar="KEY", help="The key; '' is that of messages without one."),
]


@app.command("list", epilog=example("meshhook keys list deliveries --limit 20"))
def list_(  # noqa: PLR0917 - typer calls it by name
    context: typer.Context,
    queue: QueueArgument,
    limit: Annotated[int, typer.Option(min=1, max=MAX_KEYS, help="How many to list.")] = 50,
    look_at: Annotated[
        int,
        typer.Option(metavar="KEYS", min=1, max=MAX_KEYS, help="At how many keys to look."),
    ] = DEFAULT_KEYS,
    sort: Annotated[
        KeyOrder, typer.Option(help="Those with the most jobs that are so come first.")
    ] = "waiting",
    as_json: JsonOption = False,
) -> None:
    """List the keys of a queue, those with the most ready jobs first.

    LATER counts jobs that are delayed or wait for their next attempt. Counts stop at 10,000.
    """
    name = validate_queue_name(queue)
    found = with_database(
        context,
        lambda database: list_keys(database, name, max_keys=max(limit, look_at), sort=sort),
    )[:limit]
    if as_json:
        print_json(found)
    elif found:
        _print(found)
    else:
        note(f"queue {name} has no messages, and nothing is set for a key")


@app.command("show", epilog=example("meshhook keys show deliveries tenant-7"))
def show(
    context: typer.Context, queue: QueueArgument, key: KeyArgument, as_json: JsonOption = False
) -> None:
    """Show one key of a queue: its jobs by state, its weight and its limit."""
    name = validate_queue_name(queue)
    found = with_database(context, lambda database: get_key(database, name, key))
    _print_one(found, as_json=as_json)


@app.command(
    "set",
    epilog=example(
        "meshhook keys set deliveries tenant-7 max_running=4",
        "meshhook keys set deliveries tenant-7 weight=2 max_running=none",
    ),
)
def set_(
    context: typer.Context,
    queue: QueueArgument,
    key: KeyArgument,
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="SETTING=VALUE", help="As listed above.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Set the weight and the limit of one key; running workers apply them within seconds.

    \b
    weight       how many jobs run for each job of a key with weight 1; none: 1
    max_running  how many jobs run at once, on all workers; none: as for each key
    max_starts   how many jobs start in a period of the queue; none: as for each key

    Defaults for all keys are settings of the queue: meshhook queue set QUEUE max_running_per_key=4
    """  # noqa: D301 - the command line keeps lines as they are after \b
    name = validate_queue_name(queue)
    if not settings:
        raise UsageError(
            f"name what to set, for example: meshhook keys set {name} KEY max_running=4\n"
            "see: meshhook keys set --help"
        )
    changes = pairs_of(settings)
    found = with_database(context, lambda database: set_key(database, name, key, **changes))
    _print_one(found, as_json=as_json)


@app.command(
    "hold",
    epilog=example(
        "meshhook keys hold deliveries tenant-7", "meshhook keys hold deliveries tenant-7 --for 600"
    ),
)
def hold(
    context: typer.Context,
    queue: QueueArgument,
    key: KeyArgument,
    seconds: Annotated[
        float | None,
        typer.Option("--for", metavar="SECONDS", help="For how long. Default: until resumed."),
    ] = None,
    *,
    reason: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Why, for those who look at the key. Default: none."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Stop workers from claiming jobs of one key; running jobs finish, and enqueuing continues."""
    name = validate_queue_name(queue)
    found = with_database(
        context, lambda database: hold_key(database, name, key, seconds, reason=reason)
    )
    _print_one(found, as_json=as_json)


@app.command("resume", epilog=example("meshhook keys resume deliveries tenant-7"))
def resume(
    context: typer.Context, queue: QueueArgument, key: KeyArgument, as_json: JsonOption = False
) -> None:
    """Let workers claim jobs of the key again: ends its hold, and closes its breaker."""
    name = validate_queue_name(queue)
    found = with_database(context, lambda database: resume_key(database, name, key))
    _print_one(found, as_json=as_json)


def _print(found: Sequence[KeyState]) -> None:
    print_table(
        [
            Column("KEY", shrinks=True),
            Column("READY", is_number=True),
            Column("RUNNING", is_number=True),
            Column("LATER", is_number=True, is_optional=True),
            Column("OLDEST", is_number=True),
            Column("WEIGHT", is_number=True, is_optional=True),
            Column("LIMIT", is_number=True, is_optional=True),
            Column("STARTS", is_number=True, is_optional=True),
            Column("HELD", is_number=True, is_optional=True),
            Column("BREAKER", is_optional=True),
            Column("BLOCKED BY", is_optional=True),
        ],
        [
            [
                each.key or "(none)",
                count(each.ready, capped=each.capped),
                f"{each.running:,}",
                f"{each.waiting_for_later:,}" if each.waiting_for_later else "",
                duration(each.oldest_ready_seconds) if each.ready else "",
                f"{each.weight:g}" if each.has_own_settings else "",
                "" if each.max_running is None else f"{each.max_running:,}",
                "" if each.max_starts is None else f"{each.max_starts:,}",
                _held(each),
                _breaker(each) if each.breaker_opened_at else "",
                "" if each.blocked_by is None else f"{each.blocked_by} ({each.blocked_reason})",
            ]
            for each in found
        ],
    )


def _print_one(found: KeyState, *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    print_fields(
        [
            ("key", found.key or "(none)"),
            ("ready", count(found.ready, capped=found.capped)),
            ("running", f"{found.running:,}"),
            ("waiting for later", f"{found.waiting_for_later:,}"),
            ("oldest ready", duration(found.oldest_ready_seconds) if found.ready else "-"),
            ("weight", f"{found.weight:g}"),
            ("max_running", "none" if found.max_running is None else str(found.max_running)),
            ("max_starts", "none" if found.max_starts is None else str(found.max_starts)),
            ("held for", _held(found) or "-"),
            *([("held since", moment_with_age(found.held_at))] if found.held_at else []),
            *([("held by", str(found.held_by))] if found.held_by else []),
            *([("reason", found.hold_reason)] if found.hold_reason else []),
            *_breaker_fields(found),
            *_blocked(found),
        ]
    )


def _blocked(key: KeyState) -> list[tuple[str, str]]:
    if key.blocked_by is None:
        return []
    return [
        ("blocked by", f"msg_id {key.blocked_by}, {key.blocked_reason}"),
        ("blocked since", moment_with_age(key.blocked_since)),
        (
            "blocked until",
            moment_with_age(key.blocked_until)
            if key.dead_letter_id is None
            else f"dead letter {key.dead_letter_id} is replayed or deleted, or the key is resumed",
        ),
    ]


def _held(key: KeyState) -> str:
    if key.held_until is None:
        return ""
    if key.held_until.year > LAST_YEAR:
        return "until resumed"
    return duration(_seconds_until(key.held_until))


def _breaker(key: KeyState) -> str:
    if key.breaker is BreakerState.OPEN and key.next_probe_at is not None:
        return f"open, probe in {duration(_seconds_until(key.next_probe_at))}"
    return str(key.breaker)


def _breaker_fields(key: KeyState) -> list[tuple[str, str]]:
    if key.breaker is None:
        return []
    fields = [("breaker", _breaker(key)), ("failures in a row", f"{key.failures_in_a_row:,}")]
    if key.last_error_type:
        fields.append(("last error", key.last_error_type))
    if key.breaker_opened_at is not None:
        fields.append(("open since", moment_with_age(key.breaker_opened_at)))
    return fields


def _seconds_until(moment: datetime) -> float:
    return max((moment - datetime.now(UTC)).total_seconds(), 0)

"""`meshhook encryption`: key files, which keys messages use, and encrypting them anew."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from meshhook.cli.connecting import with_database
from meshhook.cli.encryption_keys import KeyFileOption, needed_ring
from meshhook.cli.failures import PartlyDoneError
from meshhook.cli.options import JsonOption, QueueArgument, command_app, example
from meshhook.cli.output import Column, counted, note, print_json, print_table, say
from meshhook.encryption.key_file import add_key, use_key
from meshhook.errors import EncryptionError
from meshhook.names import validate_queue_name
from meshhook.postgres.database import Database
from meshhook.rotation import KeyUse, Rotation, count_key_uses, rotate_encryption

app = command_app(
    help="Make encryption keys, show which ones messages use, and encrypt messages anew.",
    no_args_is_help=True,
    epilog=example("meshhook encryption status payments"),
)

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="The key file.")]


@app.command("new-key", epilog=example("meshhook encryption new-key keys --id k2"))
def new_key(
    file: FileArgument,
    *,
    key_id: Annotated[
        str, typer.Option("--id", metavar="ID", help="The id of the new key, such as k2.")
    ],
) -> None:
    """Add a new random key at the end of a key file, which is made if it is not there.

    The first key of the file encrypts, and all decrypt. The key itself is never printed.
    """
    ids = add_key(file, key_id)
    say(f"added key {key_id} to {file}; {ids[0]} encrypts")


@app.command("use-key", epilog=example("meshhook encryption use-key keys k2"))
def use(
    file: FileArgument,
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The id of the key.")],
) -> None:
    """Put a key of a key file first, so that it encrypts; the others still decrypt."""
    ids = use_key(file, key_id)
    say(f"{key_id} encrypts; also in {file}: {', '.join(ids[1:]) or 'no other'}")


@app.command("status", epilog=example("meshhook encryption status payments"))
def status(
    context: typer.Context,
    queue: QueueArgument,
    *,
    key_id: Annotated[
        str | None,
        typer.Option("--key", metavar="ID", help="Only this key; fails while messages use it."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Count the messages of a queue by the key that they are encrypted with.

    It reads messages, dead letters, the archive, kept bodies, schedules, callbacks of groups,
    what follows dead letters, and results, and locks nothing. With --key it tells whether a key
    can be dropped.
    """
    name = validate_queue_name(queue)
    found = with_database(context, lambda database: count_key_uses(database, name))
    if key_id is not None:
        found = [use for use in found if use.key_id == key_id]
    if as_json:
        print_json([asdict(use) for use in found])
    elif found:
        _print(found)
    else:
        note(
            f"queue {name} has no messages"
            if key_id is None
            else f"no message of queue {name} uses key {key_id}"
        )
    if key_id is not None and found:
        messages = sum(use.messages for use in found)
        raise EncryptionError(
            f"{counted(messages, 'message')} of queue {name} would be lost with key {key_id}. "
            f"Encrypt them with the first key: meshhook encryption rotate {name}{_options(found)}"
        )


@app.command(
    "rotate",
    epilog=example(
        "meshhook encryption rotate payments --dry-run",
        "meshhook encryption rotate payments --waiting --archive",
    ),
)
def rotate(
    context: typer.Context,
    queue: QueueArgument,
    *,
    waiting: Annotated[
        bool, typer.Option("--waiting", help="Also messages that wait in the queue.")
    ] = False,
    archive: Annotated[bool, typer.Option("--archive", help="Also archived messages.")] = False,
    results: Annotated[
        bool, typer.Option("--results", help="Also results in the history.")
    ] = False,
    plain: Annotated[
        bool, typer.Option("--plain", help="Also encrypt messages that are not encrypted.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Change nothing; count messages by key.")
    ] = False,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Encrypt dead letters and more anew with the first key of the key file.

    That includes kept bodies, schedules, callbacks of groups, and what follows dead letters.
    Messages are locked some hundred at a time. It can be stopped and run again: what has the first
    key is left alone. It needs the owner of the tables.
    """
    name = validate_queue_name(queue)
    ring = needed_ring(key_file)
    if dry_run:
        uses = with_database(context, lambda database: count_key_uses(database, name))
        if as_json:
            print_json([asdict(use) for use in uses])
        elif uses:
            _print(uses)
        return

    async def work(database: Database) -> Rotation:
        return await rotate_encryption(
            database,
            name,
            ring,
            waiting=waiting,
            archive=archive,
            results=results,
            plain=plain,
        )

    done = with_database(context, work)
    if as_json:
        print_json(
            {
                "queue": name,
                "key_id": ring.first.key_id,
                "encrypted": dict(done.encrypted),
                "locked": done.locked,
                "refused": dict(done.refused),
            }
        )
    else:
        _print_rotation(name, ring.first.key_id, done.encrypted)
    _refuse_incomplete(name, done)


def _options(found: Sequence[KeyUse]) -> str:
    """Return the options with which a rotation reaches all of these places."""
    places = {use.place for use in found}
    wanted = {
        "waiting": {"queue", "follow_ups"},
        "archive": {"archive", "follow_ups"},
        "results": {"results"},
    }
    return "".join(f" --{option}" for option, of in wanted.items() if of & places)


def _print(found: Sequence[KeyUse]) -> None:
    print_table(
        [Column("PLACE"), Column("KEY"), Column("MESSAGES", is_number=True)],
        [[use.place, use.key_id or "(not encrypted)", f"{use.messages:,}"] for use in found],
    )


def _print_rotation(queue: str, key_id: str, encrypted: Counter[str]) -> None:
    if not encrypted.total():
        say(f"queue {queue}: nothing to encrypt anew with key {key_id}")
    for place, messages in encrypted.items():
        if messages:
            done = counted(messages, "message")
            say(f"queue {queue}, {place}: {done} encrypted with key {key_id}")


def _refuse_incomplete(queue: str, done: Rotation) -> None:
    if done.is_complete:
        return
    reasons = [f"{counted(number, 'message')}: {reason}" for reason, number in done.refused.items()]
    if done.locked:
        reasons.append(f"{counted(done.locked, 'message')} locked by others; run it again")
    text = "; ".join(reasons[:5])
    error = EncryptionError(f"queue {queue}: not all messages were encrypted anew. {text}")
    if not done.encrypted.total():
        raise error
    raise PartlyDoneError(str(error), error)

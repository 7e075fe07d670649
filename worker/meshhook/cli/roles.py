"""`meshhook roles`: least-privilege roles in the database."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

import typer

from meshhook import roles
from meshhook.cli.connecting import with_database
from meshhook.cli.failures import RolesDifferError, UsageError
from meshhook.cli.options import JsonOption, command_app, example
from meshhook.cli.output import Column, note, print_json, print_table, say
from meshhook.errors import DatabaseError
from meshhook.escaping import shown
from meshhook.postgres.database import Database
from meshhook.role_kinds import RoleKind
from meshhook.roles import Login, RoleCheck, RoleReport, login_from_url

_Value = TypeVar("_Value")

_NOT_ALLOWED = "42501"

app = command_app(
    help=(
        "Create least-privilege roles in the database, grant them their rights, and check them. "
        "KIND is owner, worker, producer, reader, oncall or operator."
    ),
    no_args_is_help=True,
    epilog=example(
        "meshhook roles create worker --queue workflow_jobs --login-from-env WORKER_URL",
        "meshhook roles check --all",
    ),
)

KindArgument = Annotated[RoleKind, typer.Argument(metavar="KIND", help="What the role is for.")]
NameOption = Annotated[
    str | None,
    typer.Option(
        "--name", metavar="ROLE", help="The role's name. Default: meshhook_KIND and its queues."
    ),
]
QueuesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--queue",
        metavar="QUEUE",
        help="A queue that the role is for; may be repeated. Default: all, future ones included.",
    ),
]


@app.command(
    "create",
    epilog=example(
        "meshhook roles create owner --login-from-env OWNER_URL",
        "meshhook roles create worker --queue workflow_jobs",
    ),
)
def create(
    context: typer.Context,
    kind: KindArgument,
    *,
    name: NameOption = None,
    queue: QueuesOption = None,
    login_from_env: Annotated[
        str | None,
        typer.Option(
            "--login-from-env",
            metavar="VARIABLE",
            help="The environment variable with a URL that contains the role's name and password. "
            "Default: the role cannot log in; grant it to roles that can.",
        ),
    ] = None,
    reset_password: Annotated[
        bool,
        typer.Option(
            "--reset-password", help="Set the password of a role that can already log in."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Create a role if it does not exist, and give it exactly the rights of its kind.

    Repeating the command is safe. The server receives a SCRAM verifier of the password, never the
    password itself.
    """
    if reset_password and login_from_env is None:
        raise UsageError("--reset-password needs --login-from-env")
    login = None if login_from_env is None else _login(login_from_env)
    queues = roles.checked_queues(kind, queue or ())

    async def work(database: Database) -> RoleReport:
        return await roles.create_role(
            database, kind, name=name, queues=queues, login=login, reset_password=reset_password
        )

    # The owner may be created before the schemas, in order to run the migrations.
    needs_schema = kind is not RoleKind.OWNER
    _print_report(_run(context, work, kind, needs_schema=needs_schema), as_json)


@app.command("grant", epilog=example("meshhook roles grant reader --name grafana"))
def grant(
    context: typer.Context,
    kind: KindArgument,
    name: Annotated[
        str, typer.Option("--name", metavar="ROLE", help="The role, which must exist.")
    ],
    queue: QueuesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give an existing role the rights of a kind, in addition to those of its other kinds.

    Rights in the schemas meshhook and pgmq that were granted to it by hand are revoked: grant those
    to another role. Run the command again after an upgrade.
    """

    async def work(database: Database) -> RoleReport:
        return await roles.grant_role(database, kind, name=name, queues=queue or ())

    _print_report(_run(context, work, kind), as_json)


@app.command(
    "check",
    epilog=example(
        "meshhook roles check",
        "meshhook roles check --all",
        "meshhook roles check --kind worker --queue workflow_jobs",
    ),
)
def check(
    context: typer.Context,
    role: Annotated[
        list[str] | None,
        typer.Argument(metavar="ROLE", help="Default: the role of the connection."),
    ] = None,
    *,
    every: Annotated[
        bool, typer.Option("--all", help="Check all roles created or granted here.")
    ] = False,
    kind: Annotated[
        RoleKind | None,
        typer.Option(
            "--kind",
            metavar="KIND",
            help="What the roles should be. Default: the kinds they were given.",
        ),
    ] = None,
    queue: QueuesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show which rights roles lack, and which they have beyond their kind.

    The exit code is 1 if there are any.
    """
    if every and (role or kind):
        raise UsageError("--all goes with neither ROLE nor --kind")
    if queue and kind is None:
        raise UsageError("--queue needs --kind")
    queues = () if kind is None else roles.checked_queues(kind, queue or ())

    async def work(database: Database) -> list[RoleCheck]:
        names: list[str | None] = [*role] if role else [None]
        if every:
            names = [*dict.fromkeys(each.role for each in await roles.list_roles(database))]
        return [await roles.check_role(database, each, kind=kind, queues=queues) for each in names]

    found = _run(context, work, kind or RoleKind.READER)
    if as_json:
        print_json(found)
    else:
        _print_checks(found)
    if differing := sum(bool(each.lacks or each.beyond) for each in found):
        raise RolesDifferError(differing, len(found))


@app.command(
    "sql", epilog=example("meshhook roles sql worker --queue workflow_jobs | psql DATABASE")
)
def sql(kind: KindArgument, name: NameOption = None, queue: QueuesOption = None) -> None:
    """Print the SQL that creates a role and grants its rights, for an administrator.

    The command needs no database. The SQL can be repeated, and contains no password.
    """
    queues = roles.checked_queues(kind, queue or ())
    script = roles.script(kind, name or roles.default_role_name(kind, queues), queues)
    typer.echo(script, nl=False)


def _login(variable: str) -> Login:
    url = os.environ.get(variable, "").strip()
    if not url:
        raise UsageError(
            f"--login-from-env: the environment variable {variable!r} is not set; set it to "
            "postgresql://user:password@host:5432/name"
        )
    return login_from_url(url, f"environment variable {variable}")


def _run(
    context: typer.Context,
    work: Callable[[Database], Awaitable[_Value]],
    kind: RoleKind,
    *,
    needs_schema: bool = True,
) -> _Value:
    try:
        return with_database(context, work, needs_schema=needs_schema)
    except DatabaseError as error:
        if getattr(error.__cause__, "sqlstate", None) != _NOT_ALLOWED:
            raise
        raise DatabaseError(
            f"{error}\nrun it as a superuser or the owner of the schemas, or give an administrator "
            f"what this prints: meshhook roles sql {kind}"
        ) from error


def _print_report(report: RoleReport, as_json: bool) -> None:
    if as_json:
        print_json(report)
        return
    role = shown(report.role)
    which = f" of {', '.join(report.queues)}" if report.queues else ""
    done = "created role" if report.created else "granted to role"
    say(f"{done} {role}: {report.kind}{which}")
    if report.missing_queues:
        names = ", ".join(report.missing_queues)
        note(f"Queue {names} does not exist yet; {role} gets its rights when it is created.")
    if report.password == "kept":  # noqa: S105 - a word about it
        note(f"The password of {role} was not changed; to set it: --reset-password")


def _print_checks(checks: list[RoleCheck]) -> None:
    if not checks:
        note("There are no roles yet. Create one: meshhook roles create worker --queue QUEUE")
        return
    rows = []
    for each in checks:
        kinds = ", ".join(
            f"{known.kind} of {', '.join(known.queues)}" if known.queues else str(known.kind)
            for known in each.kinds
        )
        found = [("lacks", words) for words in each.lacks]
        found += [("beyond", words) for words in each.beyond]
        rows += [[each.role, kinds, finding, words] for finding, words in found or [("ok", "")]]
    print_table(
        [
            Column("ROLE", shrinks=True),
            Column("KIND", shrinks=True, is_optional=True),
            Column("FOUND"),
            Column("WHAT", shrinks=True),
        ],
        rows,
    )

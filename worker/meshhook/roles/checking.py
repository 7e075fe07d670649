"""Checking a role against its kinds: rights that it lacks, and rights that it has beyond them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from meshhook.errors import InvalidSettingError
from meshhook.postgres.database import Database, takes_url
from meshhook.role_kinds import RoleKind
from meshhook.roles.grants import GRANTS
from meshhook.store import queries

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from meshhook.postgres.database import DatabaseSource

_SHARED = {"queue_config": "queue_name", "job_attempts": "queue", "workers": "queue"}
_ATTRIBUTES = {
    "rolsuper": "is a superuser",
    "rolcreaterole": "may make roles (createrole)",
    "rolcreatedb": "may make databases (createdb)",
    "rolreplication": "may replicate (replication)",
    "rolbypassrls": "bypasses row level security (bypassrls)",
}
_SHOWN_OBJECTS = 5


@dataclass(frozen=True, slots=True)
class KnownRole:
    """A role that `meshhook roles` created or granted to.

    Attributes:
        role: its name.
        kind: its kind; a role of several kinds is listed once for each.
        queues: the queues that it is for; empty means all.
    """

    role: str
    kind: RoleKind
    queues: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RoleCheck:
    """How a role compares with its kinds.

    Attributes:
        role: its name.
        kinds: its own kinds, and those of the roles it is a member of.
        lacks: rights that it needs and does not have, as text.
        beyond: rights that it has and does not need, as text.
    """

    role: str
    kinds: tuple[KnownRole, ...]
    lacks: tuple[str, ...]
    beyond: tuple[str, ...]


@takes_url
async def list_roles(database: DatabaseSource) -> list[KnownRole]:
    """Return the roles that were created or granted to, as far as this role may see them.

    Raises:
        SchemaMissingError: if the migrations have not run.
    """
    rows = await Database.of(database).fetch(queries.load("list_roles"), None)
    return [_known(row) for row in rows]


@takes_url
async def check_role(
    database: DatabaseSource,
    name: str | None = None,
    *,
    kind: RoleKind | None = None,
    queues: Sequence[str] = (),
) -> RoleCheck:
    """Compare what a role may do with what it needs.

    Args:
        database: where the queues are. A role can always check itself; an owner can check all.
        name: the role's name. Default: the connection's role.
        kind: the kind that it should have. Default: those recorded for it and its memberships.
        queues: with `kind`, the queues that it should be for. Default: all.

    Raises:
        InvalidSettingError: if there is no such role, or no kind is given or recorded.
        SchemaMissingError: if the migrations have not run.
    """
    source = Database.of(database)
    if name is None:
        name = await source.fetchval("select current_user::pg_catalog.text")
    role = await source.fetchrow(queries.load("find_role"), name)
    if role is None:
        raise InvalidSettingError(f"role {name!r} does not exist")
    if kind is not None:
        kinds: tuple[KnownRole, ...] = (KnownRole(str(name), kind, tuple(sorted(set(queues)))),)
    else:
        rows = await source.fetch(queries.load("list_roles"), role["oid"])
        kinds = tuple(_known(row) for row in rows)
    about = await source.fetchrow(queries.load("describe_role"), role["oid"])
    if about is None:
        raise InvalidSettingError(f"role {name!r} does not exist")
    if about["rolsuper"]:
        own = tuple(each for each in kinds if each.role == name)
        return RoleCheck(str(name), own, (), (_ATTRIBUTES["rolsuper"],))
    if "meshhook" in about["owned_schemas"] and RoleKind.OWNER not in {e.kind for e in kinds}:
        # It migrated a new database: nobody had made a table in which to write that down.
        kinds = (*kinds, KnownRole(str(name), RoleKind.OWNER, ()))
    if not kinds:
        raise InvalidSettingError(
            f"role {name!r} was not created or granted to by meshhook roles, nor is it a member "
            "of such a role that this connection can see; say which kind it should have: "
            "meshhook roles check --kind worker --queue QUEUE"
        )
    names = [row["queue"] for row in await source.fetch(queries.load("list_queue_names"))]
    wanted = set(_wanted(kinds, names))
    is_owner = any(each.kind is RoleKind.OWNER for each in kinds)
    lacks = [*_owner_lacks(about)] if is_owner else []
    lacks += await _missing(source, role["oid"], wanted)
    beyond = list(_beyond_attributes(about, kinds, is_owner=is_owner))
    if not is_owner:
        beyond += await _beyond_grants(source, role["oid"], wanted)
        policies = await source.fetch(queries.load("list_role_policies"), role["oid"])
        lacks += _missing_policies(policies, kinds)
        beyond += _beyond_policies(policies, kinds)
    return RoleCheck(str(name), kinds, tuple(lacks), tuple(beyond))


def _known(row: Any) -> KnownRole:
    return KnownRole(row["role"], RoleKind(row["kind"]), tuple(row["queues"] or ()))


def _wanted(
    kinds: Sequence[KnownRole], all_queues: Sequence[str]
) -> Iterator[tuple[str, str | None, str]]:
    for known in kinds:
        for grant in GRANTS[known.kind]:
            if " " in grant.object:
                objects = [grant.object]
            else:
                objects = [_of_queue(grant.object, each) for each in known.queues or all_queues]
            for name in objects:
                for column in grant.columns or (None,):
                    yield name, column, grant.privilege


def _of_queue(kind: str, queue: str) -> str:
    return (
        "table "
        + {
            "queue": f"pgmq.q_{queue}",
            "dead_letters": f"pgmq.q_{queue}_dlq",
            "archive": f"pgmq.a_{queue}",
            "queue_sequence": f"pgmq.q_{queue}_msg_id_seq",
            "waiting": f"meshhook.waiting_{queue}",
        }[kind]
    )


async def _missing(
    source: Database, role: int, wanted: set[tuple[str, str | None, str]]
) -> list[str]:
    ordered = sorted(wanted, key=str)
    rows = await source.fetch(
        queries.load("list_missing_privileges"),
        role,
        [each[0] for each in ordered],
        [each[1] for each in ordered],
        [each[2] for each in ordered],
    )
    absent = sorted({_shown(row["object"]) for row in rows if row["is_absent"]})
    found = [
        (row["object"], row["column_name"], row["privilege"])
        for row in rows
        if not row["is_absent"]
    ]
    return [*(f"{name} is not there" for name in absent), *_in_words(found)]


async def _beyond_grants(
    source: Database, role: int, wanted: set[tuple[str, str | None, str]]
) -> list[str]:
    rows = await source.fetch(queries.load("list_role_privileges"), role)
    beyond: dict[str, list[tuple[str, str | None, str]]] = {}
    for row in rows:
        object_, column, privilege = row["object"], row["column_name"], row["privilege"]
        if (object_, column, privilege) not in wanted and (object_, None, privilege) not in wanted:
            beyond.setdefault(row["grantee"], []).append((object_, column, privilege))
    found = []
    for grantee, items in sorted(beyond.items()):
        through = f" (as {grantee})" if grantee == "PUBLIC" else f" (granted to {grantee})"
        found += [words + through for words in _in_words(items)]
    return found


def _in_words(items: Sequence[tuple[str, str | None, str]]) -> list[str]:
    """Return one line for each object and privilege, with its columns."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for object_, column, privilege in items:
        columns = grouped.setdefault((object_, privilege), [])
        if column is not None:
            columns.append(column)
    return [
        _line(object_, privilege, columns)
        for (object_, privilege), columns in sorted(grouped.items())
    ]


def _line(object_: str, privilege: str, columns: Sequence[str]) -> str:
    which = f" ({', '.join(sorted(columns))})" if columns else ""
    return f"{privilege}{which} on {_shown(object_)}"


def _shown(object_: str) -> str:
    return object_.removeprefix("table ")


def _owner_lacks(about: Any) -> Iterator[str]:
    for schema in ("meshhook", "pgmq"):
        if schema not in about["owned_schemas"]:
            yield f"ownership of schema {schema}"
    others = about["others_relations"]
    if others:
        more = f" and {len(others) - _SHOWN_OBJECTS} more" if len(others) > _SHOWN_OBJECTS else ""
        yield f"ownership of {', '.join(others[:_SHOWN_OBJECTS])}{more}"


def _beyond_attributes(about: Any, kinds: Sequence[KnownRole], *, is_owner: bool) -> Iterator[str]:
    makes_tables = is_owner or any(each.kind is RoleKind.OPERATOR for each in kinds)
    for attribute, words in _ATTRIBUTES.items():
        if about[attribute]:
            yield words
    for name in about["member_of"]:
        yield f"is a member of {name}"
    for schema in about["may_create_in"]:
        yield f"may create in schema {schema}"
    if about["may_create_schemas"] and not is_owner:
        yield "may create schemas in this database"
    owned = [
        name
        for name in about["owned"]
        if not makes_tables or name.partition(".")[0] not in {"meshhook", "pgmq"}
    ]
    if owned:
        more = f" and {len(owned) - _SHOWN_OBJECTS} more" if len(owned) > _SHOWN_OBJECTS else ""
        yield f"owns {', '.join(owned[:_SHOWN_OBJECTS])}{more}"
    if not is_owner:
        for name in about["owned_definers"]:
            yield f"owns {name}, which runs with its rights (security definer)"


def _condition(known: KnownRole, column: str) -> str:
    """Return the condition of a role's policy in PostgreSQL's own notation."""
    if not known.queues:
        return "true"
    names = ",".join('"null"' if each == "null" else each for each in sorted(known.queues))
    return f"({column} = ANY ('{{{names}}}'::text[]))"


def _conditions(kinds: Sequence[KnownRole], table: str) -> set[str]:
    """Return the conditions that the policies of these roles on a shared table should have."""
    merged: dict[str, KnownRole] = {}
    for known in kinds:
        if not any(grant.object == f"table meshhook.{table}" for grant in GRANTS[known.kind]):
            continue
        other = merged.get(known.role)
        if other is None:
            merged[known.role] = known
        else:
            both = other.queues and known.queues
            queues = tuple(sorted({*other.queues, *known.queues})) if both else ()
            merged[known.role] = KnownRole(known.role, known.kind, queues)
    return {_condition(known, _SHARED[table]) for known in merged.values()}


def _missing_policies(policies: Sequence[Any], kinds: Sequence[KnownRole]) -> list[str]:
    found = []
    for table in _SHARED:
        rows = [row for row in policies if row["table_name"] == table]
        wanted = _conditions(kinds, table)
        if not rows or not wanted:
            continue
        if not rows[0]["is_on"]:
            if "true" not in wanted:
                found.append(f"row level security on meshhook.{table}")
            continue
        has = {row["condition"] for row in rows}
        found += [
            f"a policy on meshhook.{table} with the condition {condition}"
            for condition in sorted(wanted - has)
            if "true" not in has
        ]
    return found


def _beyond_policies(policies: Sequence[Any], kinds: Sequence[KnownRole]) -> list[str]:
    return [
        f"policy {row['policy']} on meshhook.{row['table_name']} shows it {row['condition']}"
        for row in policies
        if row["is_on"] and row["policy"] is not None
        if (wanted := _conditions(kinds, row["table_name"]))
        and row["condition"] not in wanted
        and "true" not in wanted
    ]

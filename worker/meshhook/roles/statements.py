"""The SQL that creates a role and grants to it, with every name quoted."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from meshhook.errors import InvalidSettingError
from meshhook.names import validate_queue_name
from meshhook.role_kinds import RoleKind
from meshhook.roles.grants import GRANTS, Grant

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_ROLE_NAME_BYTES = 63
_HASH_CHARACTERS = 12

_RESERVED = ("public", "none", "current_role", "current_user", "session_user")

PATH = "set local search_path = pg_catalog, pg_temp"
"""So that no function in a schema of the session's search path is called instead of ours."""
ONE_AT_A_TIME = (
    "select pg_catalog.pg_advisory_xact_lock("
    "pg_catalog.hashtext('meshhook.roles')::pg_catalog.int8)"
)
"""Serializes sessions that create or grant roles in this database."""

# For an owner: it takes over what the present owners have in the schemas. Objects of an extension
# stay with the extension, and all rights on them are granted.
_HAND_OVER = """\
do {tag}
declare
    new_owner constant text := {name};
    new_oid oid;
    old_owners oid[];
    part record;
begin
    select r.oid into strict new_oid from pg_roles r where r.rolname = new_owner;
    execute format('grant create on database %I to %I', current_database(), new_owner);
    select array_agg(n.nspowner) into old_owners
        from pg_namespace n where n.nspname in ('meshhook', 'pgmq');
    for part in
        select format('schema %I', n.nspname) as name, false as is_extensions
        from pg_namespace n
        where n.nspname in ('meshhook', 'pgmq') and n.nspowner <> new_oid
        union all
        select format('%s %s', case c.relkind when 'S' then 'sequence' when 'v' then 'view'
            when 'm' then 'materialized view' else 'table' end, c.oid::regclass),
            exists (select from pg_depend d where d.classid = 'pg_class'::regclass
                    and d.objid = c.oid and d.deptype = 'e')
        from pg_class c
        where c.relnamespace in (to_regnamespace('meshhook'), to_regnamespace('pgmq'))
          and c.relkind in ('r', 'p', 'v', 'm', 'S')
          and c.relowner = any (old_owners) and c.relowner <> new_oid
          -- A sequence of a column goes with its table.
          and not exists (select from pg_depend d where d.classid = 'pg_class'::regclass
                          and d.objid = c.oid and d.deptype in ('a', 'i') and c.relkind = 'S')
        union all
        select format('routine %s', p.oid::regprocedure),
            exists (select from pg_depend d where d.classid = 'pg_proc'::regclass
                    and d.objid = p.oid and d.deptype = 'e')
        from pg_proc p
        where p.pronamespace in (to_regnamespace('meshhook'), to_regnamespace('pgmq'))
          and p.proowner = any (old_owners) and p.proowner <> new_oid
        union all
        select format('type %s', t.oid::regtype),
            exists (select from pg_depend d where d.classid = 'pg_type'::regclass
                    and d.objid = t.oid and d.deptype = 'e')
        from pg_type t
        left join pg_class c on c.oid = t.typrelid
        where t.typnamespace in (to_regnamespace('meshhook'), to_regnamespace('pgmq'))
          and (t.typtype in ('d', 'e') or c.relkind = 'c')
          and t.typowner = any (old_owners) and t.typowner <> new_oid
        order by 1
    loop
        if not part.is_extensions then
            execute format('alter %s owner to %I', part.name, new_owner);
        elsif part.name ~ '^(table|view|sequence) ' then
            execute format('grant all on %s to %I with grant option',
                regexp_replace(part.name, '^view', 'table'), new_owner);
        end if;
    end loop;
    if to_regclass('meshhook.roles') is not null then
        insert into meshhook.roles (role, kind) values (new_oid::regrole, 'owner')
            on conflict do nothing;
        perform meshhook.apply_role(r.rolname) from pg_roles r
            where r.oid in (select o.role::oid from meshhook.roles o where o.kind = 'operator');
    end if;
end
{tag}"""


def default_role_name(kind: RoleKind, queues: Sequence[str] = ()) -> str:
    """Return the default name of a role: `meshhook_worker`, `meshhook_worker_orders`.

    For several queues, or one with a long name, it ends in a hash.
    """
    name = "_".join(["meshhook", kind, *sorted(set(queues))])
    if len(name) <= MAX_ROLE_NAME_BYTES:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:_HASH_CHARACTERS]
    return f"{name[: MAX_ROLE_NAME_BYTES - len(digest) - 1]}_{digest}"


def validate_role_name(name: str) -> str:
    """Return `name` if it is a valid role name.

    Raises:
        InvalidSettingError: naming the rule that is broken.
    """
    reason = None
    if not name:
        reason = "must not be empty"
    elif "\0" in name or any("\ud800" <= each <= "\udfff" for each in name):
        reason = "holds a character that no name can have"
    elif len(name.encode()) > MAX_ROLE_NAME_BYTES:
        reason = f"has {len(name.encode())} bytes, at most {MAX_ROLE_NAME_BYTES} are allowed"
    elif name.startswith("pg_"):
        reason = "begins with pg_, which PostgreSQL keeps for itself"
    elif name in _RESERVED:
        reason = "is a word that PostgreSQL keeps for itself"
    if reason is not None:
        raise InvalidSettingError(f"role name {name!r}: {reason}")
    return name


def quoted_identifier(name: str) -> str:
    """Return a name as a quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def quoted_literal(text: str) -> str:
    """Return a text as an SQL string literal, valid for any `standard_conforming_strings`."""
    quoted = text.replace("'", "''")
    if "\\" in quoted:
        return " E'" + quoted.replace("\\", "\\\\") + "'"
    return f"'{quoted}'"


def checked_queues(kind: RoleKind, queues: Sequence[str]) -> tuple[str, ...]:
    """Return the queues of a role, sorted; empty means all.

    Raises:
        InvalidQueueNameError: if one is not a queue's name.
        InvalidSettingError: if roles of this kind are always for all queues.
    """
    if queues and not kind.is_by_queue:
        raise InvalidSettingError(
            f"role kind {kind!r} is for all queues: leave out the queues ({', '.join(queues)})"
        )
    return tuple(sorted({validate_queue_name(queue) for queue in queues}))


def role_statements(name: str) -> list[str]:
    """Return the statement that creates a role, without login, if it does not exist."""
    body = f"""
begin
    if not exists (select from pg_roles where rolname = {quoted_literal(name)}) then
        create role {quoted_identifier(name)} nologin;
    end if;
end
"""
    tag = _tag(body)
    return [f"do {tag}{body}{tag}"]


def grant_statements(kind: RoleKind, name: str, queues: Sequence[str]) -> list[str]:
    """Return the statements that give a role this kind, for exactly these queues."""
    if kind is RoleKind.OWNER:
        literal = quoted_literal(name)
        return [_HAND_OVER.format(name=literal, tag=_tag(literal))]
    literal = quoted_literal(name)
    role = f"(select r.oid from pg_roles r where r.rolname = {literal})"
    which = f"array[{', '.join(map(quoted_literal, queues))}]" if queues else "null"
    rows = ",\n    ".join(_row(grant) for grant in GRANTS[kind])
    return [
        f"delete from meshhook.roles where role::oid = {role} and kind = {quoted_literal(kind)}",
        (
            "insert into meshhook.roles (role, kind, queues)\n"
            f"values ({role}::regrole, {quoted_literal(kind)}, {which}::text[])"
        ),
        (
            "insert into meshhook.role_grants (role, kind, object, privilege, columns)\n"
            f"select {role}::regrole, {quoted_literal(kind)}, g.object, g.privilege, g.columns\n"
            f"from (values\n    {rows}\n) as g (object, privilege, columns)"
        ),
        f"select meshhook.apply_role({literal})",
    ]


def script(kind: RoleKind, name: str, queues: Sequence[str] = ()) -> str:
    """Return an SQL script for an administrator that creates a role and gives it its rights.

    It can be run again, and contains no password.

    Raises:
        InvalidQueueNameError, InvalidSettingError: if a name, or a queue for this kind, is wrong.
    """
    queues = checked_queues(kind, queues)
    statements = [*role_statements(validate_role_name(name)), *grant_statements(kind, name, queues)]
    lines = [
        "-- Makes a role of MeshHook Queue and gives it its rights; it may be run again.",
        "-- Run it with psql as a superuser, in the database of the queues.",
        "-- The role cannot log in: grant it to one that can, or let it, with a password that psql",
        "-- asks for: alter role ROLE login; then \\password ROLE",
        "\\set ON_ERROR_STOP on",
        "begin;",
        f"{PATH};",
        f"{ONE_AT_A_TIME};",
        *(f"{statement};" for statement in statements),
        "commit;",
    ]
    return "\n".join(lines) + "\n"


def _row(grant: Grant) -> str:
    columns = "null"
    if grant.columns:
        columns = "array[" + ", ".join(map(quoted_literal, grant.columns)) + "]"
    return f"({quoted_literal(grant.object)}, {quoted_literal(grant.privilege)}, {columns}::text[])"


def _tag(body: str) -> str:
    """Return a dollar quote that does not occur in the text."""
    tag, number = "$do$", 0
    while tag in body or body.endswith(tag[:-1]):
        number += 1
        tag = f"$do{number}$"
    return tag

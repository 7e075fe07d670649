"""Roles that lack rights of their kind, as after an upgrade, or have rights beyond it."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from meshhook.doctor.finding import Finding, Severity
from meshhook.roles.checking import RoleCheck, check_role, list_roles

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from meshhook.doctor.case import Case

MAX_ROLES = 20
_SHOWN = 3


async def look(case: Case) -> Sequence[Finding]:
    """Compare the roles that this role may see with their kinds."""
    names = sorted({known.role for known in await list_roles(case.database)})[:MAX_ROLES]
    return [finding for name in names for finding in judge(await check_role(case.database, name))]


def judge(checked: RoleCheck) -> Iterator[Finding]:
    """Judge one role. Rights beyond its kind are for `meshhook roles check`."""
    if not checked.lacks:
        return
    more = len(checked.lacks) - _SHOWN
    lacks = "; ".join(checked.lacks[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")
    kinds = [known for known in checked.kinds if known.role == checked.role]
    commands = [
        f"meshhook roles grant {known.kind} --name {shlex.quote(checked.role)}"
        + "".join(f" --queue {queue}" for queue in known.queues)
        for known in kinds
    ]
    yield Finding(
        "rights",
        Severity.CRITICAL,
        f"role {checked.role}",
        f"lacks {lacks}",
        " && ".join(commands) or f"meshhook roles check {shlex.quote(checked.role)}",
    )

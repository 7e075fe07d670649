"""The migrations' Job as the chart renders it, run step by step against a real PostgreSQL."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from meshhook import create_queue
from meshhook.postgres.database import Database
from meshhook.roles import check_role
from support.helm import RELEASE, pods, render
from support.roles import url_of

pytestmark = pytest.mark.timeout(600)  # every step is a process of its own

VALUES = {
    "database": {"existingSecret": "workers", "operatorExistingSecret": "operator"},
    "migrations": {"existingSecret": "owner"},
}


class Installed:
    """A database, the Secrets with its URLs, and the Job."""

    def __init__(self, database_url: str) -> None:
        self._database_url = database_url
        suffix = secrets.token_hex(4)
        self.names = {secret: f"{secret}_{suffix}" for secret in ("owner", "operator", "workers")}
        self.urls = {secret: self.new_url(secret) for secret in self.names}

    def new_url(self, secret: str) -> str:
        """Return the URL of a role with a new password."""
        return url_of(self._database_url, self.names[secret], secrets.token_urlsafe(12))

    def migrate(self, **roles: bool) -> list[str]:
        """Run the steps of the Job one after the other, and return what each prints."""
        values = VALUES | {"migrations": {"existingSecret": "owner", "roles": roles}}
        pod = pods(render(values))[f"Job/{RELEASE}-meshhook-migrations"]
        return [self._run(each) for each in [*pod.get("initContainers", []), *pod["containers"]]]

    def _run(self, container: dict[str, Any]) -> str:
        (command,) = container["command"]
        environment = {
            each["name"]: each.get("value") or self.urls[each["valueFrom"]["secretKeyRef"]["name"]]
            for each in container["env"]
        }
        done = subprocess.run(
            [sys.executable, "-m", command, *container["args"]],
            env=os.environ | environment,
            check=False,
            capture_output=True,
            text=True,
        )
        said = done.stdout + done.stderr
        assert done.returncode == 0, said
        for url in self.urls.values():
            assert str(urlsplit(url).password) not in said
        return said


@pytest.fixture
async def installed(
    empty_database_url: str, empty_connection: asyncpg.Connection[asyncpg.Record]
) -> AsyncIterator[Installed]:
    """An empty database, whose owner may make roles and is no superuser."""
    found = Installed(empty_database_url)
    owner = found.names["owner"]
    password = urlsplit(found.urls["owner"]).password
    database = urlsplit(empty_database_url).path[1:]
    await empty_connection.execute(
        f"create role {owner} login createrole password '{password}';"
        f"alter database {database} owner to {owner}"
    )
    yield found
    await empty_connection.execute(f"alter database {database} owner to current_user")
    for name in reversed(found.names.values()):
        if await empty_connection.fetchval("select true from pg_roles where rolname = $1", name):
            await empty_connection.execute(f"drop owned by {name} cascade; drop role {name}")


async def test_the_job_makes_roles_that_do_their_work_and_no_more(installed: Installed) -> None:
    """From an empty database: each role has what its kind takes, and nothing beyond."""
    installed.migrate()
    operator = await asyncpg.connect(installed.urls["operator"])
    workers = await asyncpg.connect(installed.urls["workers"])
    for connection in (operator, workers):
        check = await check_role(Database(connection))
        assert (check.lacks, check.beyond) == ((), ())
    await create_queue(Database(operator), "orders")
    await workers.execute("delete from pgmq.q_orders")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await workers.execute("select pgmq.drop_queue('orders')")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await workers.execute("insert into pgmq.q_orders (vt, message) values (now(), '{}')")
    for connection in (operator, workers):
        await connection.close()


async def test_an_upgrade_takes_the_passwords_of_rotated_secrets(installed: Installed) -> None:
    """The Job runs again and again; a role that may enqueue, too, is one that is asked for."""
    installed.migrate()
    old = installed.urls["workers"]
    installed.urls["workers"] = installed.new_url("workers")
    installed.migrate(workersEnqueue=True)
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(old)
    workers = await asyncpg.connect(installed.urls["workers"])
    check = await check_role(Database(workers))
    assert {str(each.kind) for each in check.kinds} == {"worker", "producer"}
    assert (check.lacks, check.beyond) == ((), ())
    await workers.close()

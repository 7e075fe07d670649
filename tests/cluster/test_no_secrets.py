"""Nothing that the operator logs, serves or leaves in the cluster has a part of a password.

The Secrets hold a marked password. All else is searched for six of its characters in a row, as they
are or escaped, percent-encoded, in base64.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import TypeAlias
from urllib.parse import quote, urlsplit

import asyncpg
import pytest

from support.cluster.api import RESOURCES, Api, Object
from support.cluster.objects import database_secret, job_queue
from support.cluster.operator_process import OperatorProcess, StartOperator
from support.cluster.views import JobQueueView
from support.marked import BAD, PASSWORD, leaks, marked_login, marked_url
from support.waiting import eventually

pytestmark = [pytest.mark.usefixtures("job_queues_are_known"), pytest.mark.timeout(900)]

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

TALKATIVE = {
    "MESHHOOK_LOG_LEVEL": "debug",
    "PYTHONASYNCIODEBUG": "1",
    "PYTHONFAULTHANDLER": "1",
}
"""An operator that logs as much as it can."""
FAULTS = {f"bad-{number}": fault for number, fault in enumerate(BAD)}
"""What is wrong with the URL of each JobQueue."""
READY = ("good", "parted")
REASONS = {"LoginRefused", "SourceUnavailable", "InvalidDatabaseUrl", "SecretKeyMissing"}
"""Some of what the conditions must say."""
KINDS = [kind for kind, found in RESOURCES.items() if found.namespaced and kind != "Secret"]


@pytest.fixture
async def url(database_url: str) -> AsyncIterator[str]:
    """The URL of a migrated database, with the marked password in it."""
    async with marked_login(database_url) as url:
        yield url


async def make(api: Api, name: str, own: str, *, workers: str | None = None) -> None:
    """Make a JobQueue and its Secrets.

    Args:
        api: requests for its namespace.
        name: its name.
        own: the URL that the operator takes.
        workers: one that is for the workers alone; by default they share it.
    """
    await api.create(database_secret(own, name))
    database: Object = {"secretRef": {"name": name}}
    if workers is not None:
        await api.create(database_secret(workers, f"{name}-workers"))
        database = {"secretRef": {"name": f"{name}-workers"}, "operatorSecretRef": {"name": name}}
    await api.create(job_queue(name, database=database))


async def until_told(api: Api, *ready: str) -> dict[str, str]:
    """Wait until each JobQueue has its condition, and return what that says by name."""

    async def are_told() -> dict[str, str]:
        queues = await api.list("JobQueue")
        found = {each["metadata"]["name"]: condition_of(each) for each in queues}
        states = {name: condition.get("status") for name, condition in found.items()}
        expected = {name: "True" if name in ready else "False" for name in found}
        assert states == expected, {
            name: found[name] for name in found if states[name] != expected[name]
        }
        return {name: condition["reason"] for name, condition in found.items()}

    told: dict[str, str] = await eventually(are_told, 250)
    return told


def condition_of(queue: Object) -> Object:
    """Return the condition Ready of a JobQueue; empty if there is none yet."""
    found = queue.get("status", {}).get("conditions", [])
    return next((each for each in found if each["type"] == "Ready"), {})


def of_the_process(operator: OperatorProcess) -> dict[str, str]:
    """Return what others on its machine or network can see of it."""
    folder = Path(f"/proc/{operator.pid}")
    pages = {page: operator.page(page) for page in ("/metrics", "/healthz", "/readyz")}
    names = [file.read_text() for file in folder.glob("task/*/comm")]
    return pages | {
        "arguments": (folder / "cmdline").read_text(),
        "environment": (folder / "environ").read_text(),
        "titles": "".join([*names, (folder / "status").read_text()]),
    }


async def of_the_cluster(api: Api) -> dict[str, str]:
    """Return all objects of the namespace by kind, but for the Secrets."""
    return {kind: json.dumps(await api.list(kind), ensure_ascii=False) for kind in KINDS}


def found_in(places: Mapping[str, str]) -> dict[str, list[str]]:
    """Return where the password is found."""
    return {place: found for place, text in places.items() if (found := leaks(text))}


async def test_an_operator_shows_nothing(
    api: Api,
    start_operator: StartOperator,
    url: str,
    connection: Connection,
    tmp_path: Path,
) -> None:
    """Whatever is wrong with a URL: the log, pages, process and objects do not show it."""
    operator = await start_operator(MESHHOOK_LOG_FORMAT="json", **TALKATIVE)
    await make(api, "good", url)
    await make(api, "parted", url, workers=BAD["wrong user"](url))
    await make(api, "parted-bad", BAD["wrong password"](url), workers=url)
    await api.create({"kind": "Secret", "metadata": {"name": "no"}, "stringData": {"x": PASSWORD}})
    await api.create(job_queue("no-key", database={"secretRef": {"name": "no"}}))
    for name, fault in FAULTS.items():
        await make(api, name, BAD[fault](url))

    async def all_reasons_are_told() -> bool:
        # A busy machine may be told of a database that answers late first.
        reasons = await until_told(api, *READY)
        assert set(reasons.values()) >= REASONS, reasons
        return True

    await eventually(all_reasons_are_told)
    await JobQueueView(api, name="good", deployment="good-worker").until_replicas(1)

    user = urlsplit(url).username
    sessions = "select application_name, query from pg_stat_activity where usename = $1"

    async def has_sessions() -> str:
        # A connection that was lost is replaced with the next tick.
        found = repr(await connection.fetch(sessions, user))
        assert "meshhook" in found, found
        return found

    seen = {"sessions": await eventually(has_sessions)}
    await connection.execute(f"alter role {user} password 'another'")
    await connection.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity where usename = $1", user
    )

    async def is_refused() -> bool:
        # At first only the connection is gone.
        reasons = await until_told(api)
        assert reasons["good"] == "LoginRefused", reasons
        return True

    await eventually(is_refused)

    seen |= of_the_process(operator) | await of_the_cluster(api)
    seen["log"] = operator.log.read_text()
    assert '"debug"' in seen["log"]
    assert "meshhook_operator" in seen["arguments"]
    for place in ("log", "JobQueue", "Event"):
        assert "LoginRefused" in seen[place], place
    assert found_in(seen) == {}
    token = token_of(tmp_path / f"{api.namespace}-operator.kubeconfig")
    assert not [place for place, text in seen.items() if token in text]


def token_of(kubeconfig: Path) -> str:
    """Return the bearer token in a kubeconfig."""
    user = json.loads(kubeconfig.read_text())["users"][0]
    token: str = user["user"]["token"]
    return token


async def test_workers_are_told_where_their_url_is(
    api: Api, start_operator: StartOperator, url: str
) -> None:
    """A Deployment refers to the workers' Secret, and has only a checksum of its content."""
    await start_operator(**TALKATIVE)
    await make(api, "parted", url, workers=BAD["wrong user"](url))
    await until_told(api, "parted")
    view = JobQueueView(api, name="parted", deployment="parted-worker")
    await view.until_replicas(1)
    pod = (await api.get("Deployment", view.deployment))["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    assert [each for each in container["env"] if "URL" in each["name"]] == [
        {
            "name": "MESHHOOK_DATABASE_URL",
            "valueFrom": {"secretKeyRef": {"name": "parted-workers", "key": "uri"}},
        }
    ]
    checksum = pod["metadata"]["annotations"].pop("meshhook.io/database-url-checksum")
    assert len(checksum) == 8
    assert pod["metadata"]["annotations"] == {"meshhook.io/queue": "parted"}


async def test_the_search_finds_what_is_shown(
    api: Api, start_operator: StartOperator, database_url: str
) -> None:
    """A part that stands where it is not secret is found in log, conditions, events, Deployments.

    Else the other tests would prove nothing.
    """
    operator = await start_operator(MESHHOOK_LOG_FORMAT="console", **TALKATIVE)
    part = PASSWORD[4:12]
    await make(api, "shown", marked_url(database_url, user=quote(part, safe=""), password="not it"))
    shown = job_queue("planted", worker={"env": [{"name": "PLANTED", "value": part}]})
    await api.create(database_secret(database_url))
    await api.create(shown)
    await until_told(api, "planted")
    await JobQueueView(api, name="planted", deployment="planted-worker").until_replicas(1)

    async def is_found() -> bool:
        seen = await of_the_cluster(api) | {"log": operator.log.read_text()}
        assert set(found_in(seen)) >= {"log", "JobQueue", "Event", "Deployment"}
        return True

    await eventually(is_found)

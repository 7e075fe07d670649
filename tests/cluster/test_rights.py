"""The operator needs each of its permissions, and no other."""

from __future__ import annotations

import asyncio
import copy
import json
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import pytest

from support.cluster.api import Api, Object
from support.cluster.control_plane import ControlPlane
from support.cluster.objects import (
    OWN_LEASE,
    database_secret,
    deployment,
    job_queue,
    job_schedule,
    operator_rules,
    own_lease_rules,
    until_granted,
)
from support.cluster.operator_process import OperatorProcess
from support.cluster.views import JobQueueView
from support.waiting import eventually

pytestmark = [pytest.mark.usefixtures("job_queues_are_known"), pytest.mark.timeout(600)]

ACCOUNT = "operator"
SERVICE_ACCOUNT = {"kind": "ServiceAccount", "name": ACCOUNT}


class Right(NamedTuple):
    """One verb on one resource."""

    group: str
    resource: str
    verb: str

    @property
    def refusal(self) -> str:
        """What the API server says to whoever lacks it."""
        return f'cannot {self.verb} resource "{self.resource}" in API group "{self.group}"'


def rights() -> list[Right]:
    """Return every permission of the operator."""
    return [
        Right(group, resource, verb)
        for rule in operator_rules()
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    ]


def rules_without(right: Right | None) -> list[Object]:
    """Return the rules of the operator without one permission."""
    rules = copy.deepcopy(operator_rules())
    for rule in rules:
        if right and right.group in rule["apiGroups"] and right.resource in rule["resources"]:
            rule["verbs"] = [verb for verb in rule["verbs"] if verb != right.verb]
    return [rule for rule in rules if rule["verbs"]]


WATCHED = ("jobqueues", "jobschedules", "deployments", "horizontalpodautoscalers")
AT_START = [
    each for each in rights() if each.verb in {"list", "watch"} and each.resource in WATCHED
]
AT_WORK = [each for each in rights() if each not in AT_START]


async def give(own: Api, rules: list[Object], home: Api) -> None:
    """Give the operator, whose account is in the namespace of `home`, these rules in another."""
    await own.create({"kind": "Role", "metadata": {"name": ACCOUNT}, "rules": rules})
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": ACCOUNT}
    await own.create(
        {
            "kind": "RoleBinding",
            "metadata": {"name": ACCOUNT},
            "roleRef": role,
            "subjects": [SERVICE_ACCOUNT | {"namespace": home.namespace}],
        }
    )
    await until_granted(own, f"{home.namespace}:{ACCOUNT}", rules)


@pytest.fixture
async def accounts(api: Api, control_plane: ControlPlane) -> AsyncIterator[Any]:
    """Creates namespaces in which the operator of this test lacks a permission."""
    await api.create({"kind": "ServiceAccount", "metadata": {"name": ACCOUNT}})
    async with AsyncExitStack() as stack:

        async def make(right: Right | None) -> Api:
            namespace = f"lacks-{secrets.token_hex(4)}"
            own = control_plane.administrator(namespace)
            await stack.enter_async_context(own)
            await own.create({"kind": "Namespace", "metadata": {"name": namespace}})
            stack.push_async_callback(own.delete, "Namespace", namespace)
            await give(own, rules_without(right), api)
            return own

        yield make


@pytest.fixture
def processes() -> Iterator[list[OperatorProcess]]:
    """Operators that are killed at the end."""
    started: list[OperatorProcess] = []
    yield started
    for process in started:
        process.kill()


def operator_for(kubeconfig: Path, *namespaces: str) -> OperatorProcess:
    """Return an operator that watches these namespaces and logs every refusal.

    Its own Lease is in the namespace that the file is named after.
    """
    return OperatorProcess(
        kubeconfig=kubeconfig,
        directory=kubeconfig.parent,
        namespace=",".join(namespaces),
        MESHHOOK_LOG_LEVEL="debug",
        MESHHOOK_LOG_FORMAT="json",
        MESHHOOK_OPERATOR_LEASE=f"{kubeconfig.stem}/{OWN_LEASE}",
    )


@pytest.fixture
async def kubeconfig(api: Api, accounts: Any, control_plane: ControlPlane, tmp_path: Path) -> Path:
    """That of the operator of this test, which may have its own Lease in the test's namespace."""
    create = {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]}
    await give(api, [create, *own_lease_rules()], api)
    token = await api.token_of(ACCOUNT)
    return control_plane.write_kubeconfig(tmp_path / f"{api.namespace}.json", token=token)


async def refusals(operator: OperatorProcess, own: Api) -> list[str]:
    """Return what the operator was refused in a namespace, as its log and the JobQueues say."""
    # The last line may be written just now.
    whole, _, _ = operator.log.read_text().rpartition("\n")
    lines = (json.loads(line) for line in whole.splitlines() if line[:1] == "{")
    texts = [str(value) for line in lines for value in line.values()]
    texts += [
        condition["message"]
        for each in await own.list("JobQueue")
        for condition in each.get("status", {}).get("conditions", ())
    ]
    place = f'in the namespace "{own.namespace}"'
    return [text for text in texts if "forbidden" in text and place in text]


async def give_work(own: Api, database_url: str, queue: str) -> None:
    """Create what needs every permission: a queue that scales, and a Deployment to scale."""
    await own.create(database_secret(database_url))
    await own.create(deployment("other", replicas=0))
    await own.create(job_queue(f"{queue}-other", worker=None, deploymentRef={"name": "other"}))
    scaling = {"minReplicas": 3, "scaleDown": {"windowSeconds": 0}}
    await own.create(job_queue(queue, deletionPolicy="DeleteIfEmpty", scaling=scaling))
    await own.create(job_schedule(jobqueue=queue))


async def go_down(own: Api, sql: asyncpg.Connection[asyncpg.Record], queue: str) -> None:
    """Have two of three pods go, while one of them is busy."""
    pods = await own.list("Pod", labelSelector=f"meshhook.io/jobqueue={queue}")
    for pod in pods:
        name = pod["metadata"]["name"]
        await sql.execute(
            "insert into meshhook.workers (queue, worker, host, concurrency, running, processed,"
            " busy_seconds, seen_at) values ($1, $2, $2, 10, $3, 0, 0,"
            " now() + interval '10 minutes')",
            queue,
            name,
            int(pod is pods[0]),
        )
    await own.patch("JobQueue", queue, {"spec": {"scaling": {"minReplicas": 1}}})


async def test_no_right_can_be_taken_from_an_operator_at_work(
    api: Api, accounts: Any, kubeconfig: Path, processes: list[OperatorProcess], database_url: str
):
    """One operator, a namespace for each right that it lacks there: each is asked for, and missed.

    Where it has all of its rights it is refused nothing.
    """
    lacking = {right: await accounts(right) for right in AT_WORK}
    whole = await accounts(None)
    namespaces = [own.namespace for own in (whole, *lacking.values())]
    operator = operator_for(kubeconfig, *namespaces)
    processes.append(operator)
    await operator.start()
    sql = await asyncpg.connect(database_url)
    queues = {own.namespace: f"q{number}" for number, own in enumerate((whole, *lacking.values()))}
    for own in (whole, *lacking.values()):
        await give_work(own, database_url, queues[own.namespace])

    def view_of(own: Api) -> JobQueueView:
        queue = queues[own.namespace]
        return JobQueueView(own, queue, f"{queue}-worker")

    view = view_of(whole)
    await view.until_ready_replicas(3)
    for right, own in lacking.items():
        if right.resource == "pods":
            await view_of(own).until_ready_replicas(3)
            await go_down(own, sql, queues[own.namespace])
    await go_down(whole, sql, queues[whole.namespace])
    await view.until_replicas(1)
    await view.until_condition("Ready", "True")

    missed = dict(lacking)

    async def all_are_missed() -> bool:
        for right, own in list(missed.items()):
            if any(right.refusal in text for text in await refusals(operator, own)):
                del missed[right]
        assert not missed
        return True

    try:
        await eventually(all_are_missed, timeout=300)
    except pytest.fail.Exception:
        pytest.fail(f"nobody needs {', '.join(map(str, missed))}")
    assert await refusals(operator, whole) == []
    await sql.close()


async def test_no_right_can_be_taken_from_an_operator_that_starts(
    accounts: Any, kubeconfig: Path, processes: list[OperatorProcess]
):
    """Without permission to list or watch, the operator ends or never becomes ready."""

    async def lack(right: Right) -> None:
        own = await accounts(right)
        operator = operator_for(kubeconfig, own.namespace)
        processes.append(operator)
        operator.launch()

        def is_refused() -> bool:
            assert operator.log.exists()
            return right.refusal in operator.log.read_text().replace("\\", "")

        await eventually(is_refused, timeout=300, message=f"the refusal of {right}")

    async with asyncio.TaskGroup() as tasks:
        for right in AT_START:
            tasks.create_task(lack(right))


def test_the_rights_are_few():
    """Secrets cannot be listed, nothing can be deleted, and there are no wildcards."""
    found = rights()
    assert {each.verb for each in found if each.resource == "secrets"} == {"get"}
    assert {each.verb for each in found} <= {"get", "list", "watch", "create", "patch"}
    assert "*" not in {value for each in found for value in each}
    created = {each.resource for each in found if each.verb == "create"}
    assert created == {"deployments", "events", "leases"}

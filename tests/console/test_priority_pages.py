"""Priorities in the console: found, shown and set, for one job and for all that fit."""

from __future__ import annotations

import html
import re
from typing import Any

import pytest

from meshhook import QueueService, list_audit_entries, set_queue_config
from meshhook.tracking import get_job
from support.console import add_dead_letters, visiting

pytestmark = pytest.mark.usefixtures("queue_name")

MATCHING = "/queues/jobs/jobs/matching"


@pytest.fixture
async def service(connection: Any) -> QueueService[Any]:
    """The queue `jobs`, which has priorities."""
    await set_queue_config(connection, "jobs", prioritized=True)
    return QueueService[Any](connection, "jobs")


async def priorities(connection: Any) -> list[str]:
    """Return the priority of each message, by id."""
    rows = await connection.fetch("select msg_id from pgmq.q_jobs order by msg_id")
    return [str((await get_job(connection, "jobs", row["msg_id"])).priority) for row in rows]


async def test_jobs_are_searched_by_priority(pool: Any, service: QueueService[Any]) -> None:
    """Those of the one that was chosen are listed, with what is not normal beside them."""
    await service.enqueue({}, priority="low")
    urgent = await service.enqueue({}, priority="urgent")
    async with visiting(pool) as visitor:
        page = (await visitor.get("/search?queue=jobs&priority=urgent")).text
        assert re.findall(r"/jobs/(\d+)\"", page) == [str(urgent)]
        assert '<span class="tag">urgent</span>' in page
        assert "<option selected>urgent</option>" in page
        assert len(re.findall(r"/jobs/\d+\"", (await visitor.get("/search?queue=jobs")).text)) == 2
        for wrong in ("priority=soon", "priority=urgent&state=succeeded"):
            assert (await visitor.get(f"/search?queue=jobs&{wrong}")).status_code == 400


async def test_the_priority_of_a_job_is_set(
    pool: Any, connection: Any, service: QueueService[Any]
) -> None:
    """Its page shows it and has the form; a dead letter keeps it, and a running job has none."""
    job = await service.enqueue({})
    here = f"/queues/jobs/jobs/{job}"
    async with visiting(pool) as visitor:
        assert f'action="{here}/priority"' in (await visitor.get(here)).text
        answer = await visitor.post(f"{here}/priority", {"priority": "urgent"})
        page = (await visitor.get(answer.headers["location"])).text
        assert f"Job {job} has the priority urgent now." in page
        assert "<option selected>urgent</option>" in page
        assert await priorities(connection) == ["urgent"]
        for wrong in ({}, {"priority": "soon"}, {"priority": "0"}):
            answer = await visitor.post(f"{here}/priority", wrong)
            assert answer.status_code == 400
            assert "priority is one of urgent, high, normal, low" in html.unescape(answer.text)
        await service.dequeue()
        page = (await visitor.get(here)).text
        assert f'action="{here}/priority"' not in page
        answer = await visitor.post(f"{here}/priority", {"priority": "low"})
        assert "was left as it is" in (await visitor.get(answer.headers["location"])).text
        await add_dead_letters(connection, 1)
        dead = await connection.fetchval(
            "select (headers #>> '{meshhook-dead-letter,msg_id}')::bigint from pgmq.q_jobs_dlq"
        )
        answer = await visitor.post(f"/queues/jobs/jobs/{dead}/priority", {"priority": "high"})
        assert "has the priority high now" in (await visitor.get(answer.headers["location"])).text
        assert (await get_job(connection, "jobs", dead)).priority == "high"
    entries = await list_audit_entries(connection, "jobs", action="jobs.reprioritized")
    assert {(each.actor, each.count) for each in entries if each.count} == {("anonymous", 1)}
    assert len([each for each in entries if each.count]) == 2


async def test_the_priority_of_all_that_fit_is_set(
    pool: Any, connection: Any, service: QueueService[Any]
) -> None:
    """A page says how many before it is done, and only what the search found is changed."""
    await service.enqueue_many([{"run_id": "r<b>"}] * 3 + [{"run_id": "s"}])
    fields = {"run_id": "r<b>", "state": "ready", "priority": "low"}
    async with visiting(pool) as visitor:
        page = (await visitor.get("/search?queue=jobs&run_id=r%3Cb%3E&state=ready")).text
        form = page.split(f'action="{MATCHING}"')[1].split("</form>")[0]
        sent = re.findall(r'name="(run_id|state)" value="([^"]*)"', form)
        assert [(name, html.unescape(value)) for name, value in sent] == [
            ("run_id", "r<b>"),
            ("state", "ready"),
        ]
        for answer in (
            await visitor.post(MATCHING, fields),
            await visitor.post(MATCHING, fields | {"confirmed": "no"}),
        ):
            assert answer.status_code == 200
            assert "Set the priority of 3 jobs of jobs to low?" in answer.text
            assert "<b>" not in answer.text
            assert await priorities(connection) == ["normal"] * 4
        answer = await visitor.post(MATCHING, fields | {"confirmed": "yes"})
        page = (await visitor.get(answer.headers["location"])).text
        assert "3 jobs of jobs: the priority is low now." in page
        assert await priorities(connection) == ["low"] * 3 + ["normal"]
        answer = await visitor.post(MATCHING, fields | {"confirmed": "yes"})
        assert "0 jobs of jobs: the" in (await visitor.get(answer.headers["location"])).text
        # Without a filter, all jobs of the queue would be meant.
        answer = await visitor.post(MATCHING, {"priority": "low", "confirmed": "yes"})
        assert answer.status_code == 400
        assert await priorities(connection) == ["low"] * 3 + ["normal"]
    [entry] = [
        each
        for each in await list_audit_entries(connection, "jobs", action="jobs.reprioritized")
        if each.count
    ]
    assert (entry.actor, entry.count) == ("anonymous", 3)
    assert entry.filter is not None
    assert entry.filter["run_id"] == "r<b>"


@pytest.mark.parametrize(
    ("query", "has_form"),
    [
        ("queue=jobs&state=ready", True),
        ("queue=jobs&run_id=r", True),
        ("queue=jobs", False),
        ("state=ready", False),
        ("queue=jobs&run_id=r&priority=normal", False),
        ("queue=jobs&run_id=r&since=1+h", False),
    ],
)
async def test_only_a_search_that_the_change_repeats_offers_it(
    pool: Any, service: QueueService[Any], query: str, *, has_form: bool
) -> None:
    """Another would change jobs that the page does not show; a viewer sees no form at all."""
    await service.enqueue({"run_id": "r"})
    async with visiting(pool) as visitor:
        assert (MATCHING in (await visitor.get(f"/search?{query}")).text) is has_form
    async with visiting(pool, read_only=True) as visitor:
        assert MATCHING not in (await visitor.get(f"/search?{query}")).text
        assert "/priority" not in (await visitor.get("/queues/jobs/jobs/1")).text

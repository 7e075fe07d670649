"""Dead letters in the console: found, looked at, mended, replayed and deleted."""

from __future__ import annotations

import asyncio
import html
import json
import re
from typing import Any

from meshhook import KeyRing, QueueService
from meshhook.audit import list_audit_entries, sum_operations
from meshhook.dead_letters import DLQService
from support.console import Visitor, add_dead_letters, visiting
from support.waiting import eventually

HERE = "/queues/jobs/dead-letters"
HOSTILE = "<img src=x onerror=alert(1)>\u202e"


async def ids_of(connection: Any, table: str = "q_jobs_dlq") -> list[int]:
    """Return the ids in a table of PGMQ."""
    rows = await connection.fetch(f"select msg_id from pgmq.{table} order by msg_id")
    return [row[0] for row in rows]


async def body_of(connection: Any) -> Any:
    """Return the body of the one message in the queue."""
    return json.loads(await connection.fetchval("select message from pgmq.q_jobs"))


def listed(text: str) -> list[int]:
    """Return the ids of the dead letters that a page lists."""
    return [int(each) for each in re.findall(r'name="id" value="(\d+)"', text)]


async def finished(visitor: Visitor, path: str) -> str:
    """Return the page of an operation once it has finished."""

    async def done() -> bool:
        return "Finished" in (await visitor.get(path)).text

    await eventually(done, timeout=200, message="the operation has finished")
    return (await visitor.get(path)).text


async def test_errors_of_all_queues_are_on_one_page(pool: Any, connection: Any, queue_name: str):
    """Whoever is on call sees each error with its count, and comes to its dead letters."""
    await add_dead_letters(connection, 3)
    await add_dead_letters(connection, 2, error_type="ValueError", error_message="bad order")
    async with visiting(pool) as visitor:
        page = (await visitor.get("/dead-letters")).text
        assert page.index("TimeoutError") < page.index("ValueError")
        assert "bad order" in page
        assert f"{HERE}?error_type=ValueError" in page


async def test_the_list_is_filtered_and_paged_by_id(pool: Any, connection: Any, queue_name: str):
    """A page has 50, and the next one goes on below its last id, with the same filter."""
    await add_dead_letters(connection, 60)
    other = await add_dead_letters(connection, 55, error_type="A&B=<C>")
    async with visiting(pool) as visitor:
        page = (await visitor.get(HERE, params={"error_type": "A&B=<C>"})).text
        assert listed(page) == other[::-1][:50]
        after = re.search(r'rel="next" href="([^"]+)"', page)
        assert after is not None
        assert listed((await visitor.get(html.unescape(after[1]))).text) == other[::-1][50:]


async def test_each_field_of_the_filter_counts(pool: Any, connection: Any, queue_name: str):
    """Run, workflow, project, key and times each leave out what does not fit."""
    ids = {"run_id": "r-1", "workflow_id": "w-1", "project_id": "p-1"}
    (found,) = await add_dead_letters(
        connection, 1, body={**ids, "payload": {}}, headers={"x-pgmq-group": "acme"}
    )
    await add_dead_letters(connection, 2, body=dict.fromkeys(ids, "other"))
    async with visiting(pool) as visitor:
        for fields in (*({name: value} for name, value in ids.items()), {"key": "acme"}):
            assert listed((await visitor.get(HERE, params=fields)).text) == [found], fields
        for fields in ({"since": "1 h"}, {"until": "2999-01-01"}):
            assert len(listed((await visitor.get(HERE, params=fields)).text)) == 3
        for fields in ({"until": "1 h"}, {"since": "2999-01-01"}, {"run_id": "r-2"}):
            assert listed((await visitor.get(HERE, params=fields)).text) == []
        answer = await visitor.get(HERE, params={"since": "yesterday"})
        assert answer.status_code == 400
        assert "since is a time such as" in html.unescape(answer.text)


async def test_ticked_ones_are_replayed(pool: Any, connection: Any, queue_name: str):
    """Only those that were ticked go, and the page says how many."""
    first, second, third = await add_dead_letters(connection, 3)
    async with visiting(pool) as visitor:
        answer = await visitor.post(f"{HERE}/chosen", {"action": "replay", "id": [first, third]})
        assert answer.status_code == 303
        said = (await visitor.get(answer.headers["location"])).text
        assert "2 dead letters were replayed." in said
        # A second time, nothing is left to replay.
        answer = await visitor.post(f"{HERE}/chosen", {"action": "replay", "id": [first, third]})
        said = (await visitor.get(answer.headers["location"])).text
        assert "0 dead letters were replayed. 2 dead letters were left alone" in said
    assert await ids_of(connection) == [second]
    assert len(await ids_of(connection, "q_jobs")) == 2


async def test_ticked_ones_are_deleted(pool: Any, connection: Any, queue_name: str):
    """They are gone, and no job comes of them."""
    first, second = await add_dead_letters(connection, 2)
    async with visiting(pool) as visitor:
        await visitor.post(
            f"{HERE}/chosen", {"action": "delete", "id": [first], "confirmed": "yes"}
        )
    assert await ids_of(connection) == [second]
    assert await ids_of(connection, "q_jobs") == []


async def test_all_that_fit_are_replayed(pool: Any, connection: Any, queue_name: str):
    """The count is shown first; those that die after it stay."""
    fitting = await add_dead_letters(connection, 2_500)
    others = await add_dead_letters(connection, 3, error_type="ValueError")
    async with visiting(pool) as visitor:
        page = await visitor.get(
            f"{HERE}/confirm", params={"action": "replay", "error_type": "TimeoutError"}
        )
        assert "Replay 2,500 dead letters?" in page.text
        up_to = re.search(r'name="up_to_id" value="(\d+)"', page.text)
        assert up_to is not None
        later = await add_dead_letters(connection, 1)
        answer = await visitor.post(
            f"{HERE}/matching",
            {"action": "replay", "error_type": "TimeoutError", "up_to_id": up_to[1]},
        )
        text = await finished(visitor, answer.headers["location"])
    assert "2,500 dead letters replayed" in text
    assert await ids_of(connection) == [*others, *later]
    assert len(await ids_of(connection, "q_jobs")) == len(fitting)


async def test_two_who_replay_the_same_replay_each_once(
    pool: Any, connection: Any, queue_name: str
):
    """Both are told how many were theirs, and no dead letter becomes two jobs."""
    ids = await add_dead_letters(connection, 10_000)
    fields = {"action": "replay", "up_to_id": ids[-1]}
    async with visiting(pool) as ada, visiting(pool) as bob:
        answers = await asyncio.gather(
            *(each.post(f"{HERE}/matching", fields) for each in (ada, bob))
        )
        pages = [
            await finished(visitor, answer.headers["location"])
            for visitor, answer in zip((ada, bob), answers, strict=True)
        ]
    counts = [re.search(r"<h1>([\d,]+) dead letters? replayed", page) for page in pages]
    assert sum(int(each[1].replace(",", "")) for each in counts if each) == 10_000
    origins = await connection.fetch(
        "select headers #>> '{meshhook-replayed-from,dead_letter_id}' from pgmq.q_jobs"
    )
    assert sorted(int(each[0]) for each in origins) == ids


async def test_an_edited_body_is_what_runs(pool: Any, connection: Any, queue_name: str):
    """The job has the new body; the history leads from the dead letter to it."""
    (dead,) = await add_dead_letters(connection, 1)
    async with visiting(pool) as visitor:
        assert "&#34;order&#34;: 7" in (await visitor.get(f"{HERE}/{dead}")).text
        new = {"run_id": "run-1", "payload": {"order": 8}}
        answer = await visitor.post(f"{HERE}/{dead}/replay", {"body": json.dumps(new)})
        assert answer.headers["location"].startswith("/queues/jobs/jobs/")
    assert await body_of(connection) == new
    assert await ids_of(connection) == []
    row = await connection.fetchrow(
        "select outcome, run_id, replayed_as from meshhook.job_attempts"
    )
    assert tuple(row) == ("replayed", "run-1", (await ids_of(connection, "q_jobs"))[0])


async def test_an_encrypted_body_is_not_edited(pool: Any, connection: Any, queue_name: str):
    """It has no form, and what is sent all the same is refused; it is replayed as it is."""
    ring = KeyRing({"k1": bytes(range(32))})
    async with QueueService[Any](pool, "jobs", encryption=ring) as service:
        await service.enqueue({"n": 1})
        job = await service.dequeue()
        assert job is not None
        await DLQService(pool, "jobs").move_to_dead_letter(job, "broken")
    (dead,) = await ids_of(connection)
    async with visiting(pool) as visitor:
        page = (await visitor.get(f"{HERE}/{dead}")).text
        assert "<textarea" not in page
        answer = await visitor.post(f"{HERE}/{dead}/replay", {"body": '{"n": 2}'})
        assert answer.status_code == 400
        assert "this body is encrypted" in html.unescape(answer.text)
        assert await ids_of(connection) == [dead]
        await visitor.post(f"{HERE}/{dead}/replay", {})
    assert await ids_of(connection) == []
    assert (await body_of(connection))["enc"]["key"] == "k1"


async def test_a_wrong_body_is_shown_again_and_nothing_is_lost(
    pool: Any, connection: Any, queue_name: str
):
    """What was written stands in the form, with the place that is wrong; the dead letter stays."""
    (dead,) = await add_dead_letters(connection, 1)
    async with visiting(pool) as visitor:
        for body, said in (
            ('{"order": 8', "not JSON"),
            ('{"text": "a\\u0000b"}', "U+0000"),
            ('{"text": "\\ud800"}', "surrogate"),
            ('{"x": "%s"}' % ("y" * 2_000), "takes at most 1024"),
        ):
            await connection.execute("update meshhook.queue_config set max_payload_bytes = 1024")
            answer = await visitor.post(f"{HERE}/{dead}/replay", {"body": body})
            assert answer.status_code == 400
            assert said in html.unescape(answer.text)
            assert body in html.unescape(answer.text)
    assert await ids_of(connection) == [dead]
    assert await ids_of(connection, "q_jobs") == []


async def test_hidden_places_stay_hidden_and_are_kept(pool: Any, connection: Any, queue_name: str):
    """Places of `redact` are not shown, in bodies nor headers, and survive an edit."""
    body = {"payload": {"card": {"number": "4111"}, "list": [{"pin": 1}, {"pin": 2}], "n": 1}}
    (dead,) = await add_dead_letters(
        connection, 1, body=body, headers={"authorization": "Bearer abc"}
    )
    paths = "body.payload.card.number,body.payload.list.*.pin,headers.authorization"
    async with visiting(pool, redact=paths) as visitor:
        page = html.unescape((await visitor.get(f"{HERE}/{dead}")).text)
        assert "4111" not in page
        assert "Bearer abc" not in page
        assert page.count("[redacted]") == 4
        edited = json.loads(re.findall(r"<textarea[^>]*>\n(.*?)</textarea>", page, re.DOTALL)[0])
        moved = {**edited, "copy": "[redacted]"}
        answer = await visitor.post(f"{HERE}/{dead}/replay", {"body": json.dumps(moved)})
        assert answer.status_code == 400
        edited["payload"]["n"] = 2
        await visitor.post(f"{HERE}/{dead}/replay", {"body": json.dumps(edited)})
    body["payload"]["n"] = 2
    assert await body_of(connection) == body


async def test_a_dead_letter_that_is_gone_says_so(pool: Any, connection: Any, queue_name: str):
    """Replayed by somebody else meanwhile, it is not found, and nothing is done twice."""
    (dead,) = await add_dead_letters(connection, 1)
    async with visiting(pool) as visitor:
        await DLQService(pool, "jobs").replay_dead_letter_job(dead)
        answer = await visitor.post(f"{HERE}/{dead}/replay")
    assert answer.status_code == 404
    assert len(await ids_of(connection, "q_jobs")) == 1


async def test_hostile_texts_are_text(pool: Any, connection: Any, queue_name: str):
    """Markup, terminal escapes and reversing characters are shown and have no effect."""
    hostile = "<script>alert(1)</script> \x1b[31m \u202egnp.exe \x07 \"' {{ 7 * 7 }}"
    (dead,) = await add_dead_letters(
        connection,
        1,
        error_type=hostile,
        error_message=hostile,
        body={"payload": hostile, hostile: 1, "run_id": hostile},
        headers={hostile: hostile},
    )
    async with visiting(pool) as visitor:
        for path in ("/", "/dead-letters", HERE, f"{HERE}/{dead}", f"{HERE}?error_type=<b>"):
            text = (await visitor.get(path)).text
            assert "<script>alert" not in text
            assert "<b>" not in text.replace("<b>1</b>", "")
            assert not set("\x1b\x07\u202e") & set(text)
        assert "49" not in re.findall(r'<p class="pre">(.*?)</p>', text)


async def test_a_body_of_10_mb_is_cut_and_replays(pool: Any, connection: Any, queue_name: str):
    """The page stays small, says how long the body is, and the replayed body is whole."""
    (dead,) = await add_dead_letters(connection, 1, body={"payload": "x" * 10_000_000})
    async with visiting(pool) as visitor:
        page = (await visitor.get(f"{HERE}/{dead}")).text
        assert len(page) < 100_000
        assert "the whole body has 10,000,0" in page
        await visitor.post(f"{HERE}/{dead}/replay")
    length = await connection.fetchval("select length(message ->> 'payload') from pgmq.q_jobs")
    assert length == 10_000_000


async def test_a_job_is_cancelled_and_run_now(pool: Any, connection: Any, queue_name: str):
    """A job that waits for later is let run now, and then cancelled by the user's name."""
    msg_id = await connection.fetchval("select * from pgmq.send('jobs', '{}', 600)")
    here = f"/queues/jobs/jobs/{msg_id}"
    async with visiting(pool) as visitor:
        answer = await visitor.post(f"{here}/run-now")
        assert "is ready to run now" in (await visitor.get(answer.headers["location"])).text
        answer = await visitor.post(f"{here}/cancel", {"confirmed": "yes"})
        assert "was cancelled" in (await visitor.get(answer.headers["location"])).text
        answer = await visitor.post(f"{here}/cancel", {"confirmed": "yes"})
        assert "was not cancelled" in (await visitor.get(answer.headers["location"])).text


async def test_a_notice_of_somebody_else_is_not_shown(pool: Any, queue_name: str):
    """A link cannot make the console say something."""
    async with visiting(pool) as visitor:
        page = (await visitor.get("/", params={"notice": "InsgImV2aWwifSI.x"})).text
        assert 'class="notice"' not in page


async def test_a_database_that_is_away_is_said(queue_name: str):
    """Pages say that the database cannot be reached, without its password."""
    async with visiting("postgresql://ada:hidden-one@127.0.0.1:1/none") as visitor:
        answer = await visitor.get("/")
    assert answer.status_code == 503
    assert "hidden-one" not in answer.text


async def test_each_change_is_in_the_audit_log(pool: Any, connection: Any, queue_name: str):
    """It says who, with the console, what, for which filter, and how many, one row a chunk."""
    ids = await add_dead_letters(connection, 1_501)
    async with visiting(pool) as visitor:
        await visitor.post("/queues/jobs/pause")
        await visitor.post(f"{HERE}/{ids[0]}/replay", {"body": "{}"})
        await visitor.post(f"{HERE}/{ids[1]}/delete", {"confirmed": "yes"})
        answer = await visitor.post(
            f"{HERE}/matching",
            {"action": "delete", "error_type": "TimeoutError", "up_to_id": ids[-1]},
        )
        await finished(visitor, answer.headers["location"])
    rows = await connection.fetch(
        "select actor, source, action, queue, filter::jsonb ->> 'error_type' as error_type, count, "
        "operation from meshhook.audit_log where source = 'console' order by id"
    )
    assert {(row["actor"], row["source"], row["queue"]) for row in rows} == {
        ("anonymous", "console", "jobs")
    }
    assert [(row["action"], row["count"], row["error_type"]) for row in rows[-4:]] == [
        ("dead_letters.replayed", 1, None),
        ("dead_letters.deleted", 1, None),
        ("dead_letters.deleted", 1_000, "TimeoutError"),
        ("dead_letters.deleted", 499, "TimeoutError"),
    ]
    assert rows[-1]["operation"] == rows[-2]["operation"] is not None


async def test_what_cannot_be_taken_back_is_asked_about(
    pool: Any, connection: Any, queue_name: str
):
    """Deleting and cancelling change nothing until the page that asks is answered."""
    first, second, third = await add_dead_letters(connection, 3)
    job = await connection.fetchval("select pgmq.send('jobs', '{}')")
    left = "select (select count(*) from pgmq.q_jobs_dlq) + (select count(*) from pgmq.q_jobs)"
    chosen = {"action": "delete", "id": [second, third], "error_type": HOSTILE}
    async with visiting(pool) as visitor:
        for path, fields, question in (
            (f"{HERE}/{first}/delete", {}, f"Delete dead letter {first} of jobs?"),
            (f"{HERE}/chosen", chosen, "Delete 2 dead letters of jobs?"),
            (f"/queues/jobs/jobs/{job}/cancel", {"reason": HOSTILE}, f"Cancel job {job} of jobs?"),
        ):
            before = await connection.fetchval(left)
            for confirmed in ({}, {"confirmed": "no"}):
                answer = await visitor.post(path, fields | confirmed)
                assert answer.status_code == 200
                assert question in answer.text
                assert "<img" not in answer.text
                assert await connection.fetchval(left) == before
            form = answer.text.split("<form")[1].split("</form>")[0]
            assert f'action="{path}"' in form
            sent: dict[str, Any] = {}
            for name, value in re.findall(r'name="([^"]+)" value="([^"]*)"', form):
                sent.setdefault(name, []).append(html.unescape(value))
            token = sent.pop("form_token")[0]
            assert sent.pop("confirmed") == ["yes"]
            assert sent == {
                name: [str(each) for each in value] if isinstance(value, list) else [value]
                for name, value in fields.items()
            }
            answer = await visitor.post(path, sent | {"confirmed": "yes"}, token=token)
            assert answer.status_code == 303, answer.text
            assert await connection.fetchval(left) < before
    assert await connection.fetchval(left) == 0


STOP_AFTER_ONE_CHUNK = """
create function public.stop() returns trigger language plpgsql as $$
begin
    if (select count(*) from pgmq.q_jobs) >= 1000 then
        perform pg_advisory_xact_lock(20);
    end if;
    return null;
end
$$;
create trigger stop after insert on pgmq.q_jobs for each statement execute function public.stop()
"""
"""Lets a replay wait in its second chunk while somebody holds the lock."""


async def test_a_restart_in_the_middle_loses_nothing_and_says_so(
    pool: Any, connection: Any, queue_name: str
):
    """A console started anew says how far it came, as the audit log does, and leads to the rest."""
    ids = await add_dead_letters(connection, 1_500, error_type=HOSTILE)
    later = "select count(*) from pgmq.q_jobs"
    async with pool.acquire() as own, own.transaction():
        await own.execute("select pg_advisory_xact_lock(20)")
        await connection.execute(STOP_AFTER_ONE_CHUNK.replace(">= 1000", "> 1000"))
        async with visiting(pool) as visitor:
            form = {"action": "replay", "error_type": HOSTILE, "up_to_id": ids[-1]}
            answer = await visitor.post(f"{HERE}/matching", form)
            path = answer.headers["location"]

            async def is_in_the_middle() -> bool:
                return "1,000 of 1,500" in (await visitor.get(path)).text

            await eventually(is_in_the_middle)
    # The console has stopped, and what it was doing was taken back.
    assert await connection.fetchval(later) == 1_000
    await add_dead_letters(connection, 1, error_type=HOSTILE)
    await connection.execute("drop trigger stop on pgmq.q_jobs")
    [entry] = sum_operations(await list_audit_entries(pool, "jobs", action="dead_letters.replayed"))
    assert entry.filter is not None
    assert (entry.count, entry.filter["matched"]) == (1_000, "1500")
    async with visiting(pool) as visitor:
        answer = await visitor.get(path)
        assert answer.status_code == 200
        assert "Not running: 1,000 of 1,500 dead letters replayed" in answer.text
        assert "<img" not in answer.text
        rest = html.unescape(answer.text.split('class="button" href="')[1].split('"')[0])
        page = (await visitor.get(rest)).text
        assert "Replay 500 dead letters?" in page
        again = await visitor.post(
            f"{HERE}/matching", {"action": "replay", "error_type": HOSTILE, "up_to_id": ids[-1]}
        )
        await finished(visitor, again.headers["location"])
    assert await connection.fetchval(later) == 1_500
    assert len(await ids_of(connection)) == 1
    async with visiting(pool) as visitor:
        assert "500 dead letters replayed" in (await visitor.get(again.headers["location"])).text
        for odd in ("", "?queue=jobs", "?queue=jobs&action=drop", "?queue=x;y&action=replay"):
            answer = await visitor.get(path.partition("?")[0] + odd)
            assert answer.status_code in {400, 404}

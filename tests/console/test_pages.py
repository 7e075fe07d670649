"""The other pages of the console: queues, keys, workers, schedules, search, changes."""

from __future__ import annotations

import csv
import html
import io
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from meshhook.administration import get_queue_config, set_queue_config
from meshhook.console.app import PAGES, console_app
from meshhook.doctor import CHECKS
from meshhook.doctor.finding import DOCUMENTATION
from meshhook.keys import get_key, hold_key, set_key
from meshhook.postgres.database import Database
from meshhook.role_kinds import RoleKind
from meshhook.schedules import add_schedule, get_schedule
from meshhook.schema.migrations import schema_version
from support.console import ORIGIN, Visitor, add_dead_letters, visiting
from support.roles import Roles
from support.scaling_rows import write_scaling

ROOT = Path(__file__).parents[2]

HOSTILE = "<img src=x onerror=alert(1)>\u202e"


async def test_a_queue_is_paused_and_goes_on(pool: Any, queue_name: str):
    """The page says that it is paused, and offers to go on."""
    async with visiting(pool) as visitor:
        await visitor.post("/queues/jobs/pause")
        assert (await get_queue_config(pool, "jobs")).paused
        page = (await visitor.get("/queues/jobs")).text
        assert 'action="/queues/jobs/resume"' in page
        await visitor.post("/queues/jobs/resume")
        assert not (await get_queue_config(pool, "jobs")).paused


async def test_settings_say_who_set_them(pool: Any, queue_name: str):
    """A setting that was changed names the one who did it last."""
    async with visiting(pool) as visitor:
        await visitor.post("/queues/jobs/pause")
        page = (await visitor.get("/queues/jobs")).text
    assert "set by anonymous" in page


async def test_a_queue_is_late_by_its_own_target(pool: Any, connection: Any, queue_name: str):
    """The target of its JobQueue counts, not the console's; of a stale one, the console's."""
    await connection.execute(
        "insert into pgmq.q_jobs (vt, message) values (now() - interval '8 min', '{}')"
    )
    late = 'state-bad">8'
    async with visiting(pool, target_seconds=3_600) as visitor:
        assert late not in (await visitor.get("/")).text
    await write_scaling(connection, target_age_seconds=240.0, reason=HOSTILE, state=HOSTILE)
    async with visiting(pool, target_seconds=3_600) as visitor:
        for path in ("/", "/queues/jobs"):
            page = (await visitor.get(path)).text
            assert "<img" not in page
            assert "of 1 to 20" in page
            assert "stale" not in page
        assert late in (await visitor.get("/")).text
    await set_queue_config(connection, "jobs", prioritized=True)
    async with visiting(pool) as visitor:
        for path in ("/", "/queues/jobs"):
            page = (await visitor.get(path)).text
            assert "urgent 5 s, high 15 s, normal 1 min, low 10 min" in page
            assert late not in page, "a job of low priority may wait for that long"
    await set_queue_config(connection, "jobs", prioritized=False)
    await connection.execute(
        "update meshhook.queue_scaling set written_at = now() - interval '4 min'"
    )
    async with visiting(pool, target_seconds=3_600) as visitor:
        page = (await visitor.get("/")).text
        assert late not in page
        assert "stale" in page
        assert "No operator has written this" in (await visitor.get("/queues/jobs")).text


async def test_workers_of_another_version_are_seen(pool: Any, connection: Any, queue_name: str):
    """Those that an upgrade left behind stand out; one of long ago says no version at all."""
    newest = schema_version()
    for name, version in (("a", newest), ("b", newest - 1), ("c", None)):
        await connection.execute(
            "insert into meshhook.workers (queue, worker, host, concurrency, running, processed, "
            "busy_seconds, schema_version) values ('jobs', $1, $1, 1, 0, 0, 0, $2)",
            name,
            version,
        )
    async with visiting(pool) as visitor:
        for path in ("/workers", "/queues/jobs"):
            page = (await visitor.get(path)).text
            assert page.count(f'title="The database has {newest:04}"') == 2
            assert f">{newest - 1:04}<" in page
            assert ">older<" in page
        assert "2 of them are of another version" in (await visitor.get("/workers")).text


async def test_the_throughput_is_of_the_last_hour(pool: Any, connection: Any, queue_name: str):
    """Attempts are counted by minute and outcome; older ones and other queues are left out."""
    await connection.execute(
        "insert into meshhook.job_attempts (queue, msg_id, attempt, outcome, finished_at) "
        "select case when n > 90 then 'other' else 'jobs' end, n, 1, "
        "case when n % 10 = 0 then 'dead_lettered' else 'succeeded' end, "
        "now() - make_interval(mins => case when n > 80 then 61 else n % 59 end) "
        "from generate_series(1, 100) n"
    )
    async with visiting(pool) as visitor:
        page = (await visitor.get("/queues/jobs")).text
    assert "80 in all" in page
    assert "failed for good: 8" in page


async def test_keys_are_held_and_resumed(pool: Any, queue_name: str):
    """Also a key that is hostile text, or none at all."""
    await set_queue_config(pool, "jobs", keyed=True)
    async with visiting(pool) as visitor:
        for key in (HOSTILE, ""):
            await visitor.post("/queues/jobs/keys/hold", {"key": key, "reason": HOSTILE})
            assert (await get_key(pool, "jobs", key)).held_until is not None
        page = (await visitor.get("/queues/jobs/keys")).text
        assert "held by hand" in page
        assert "<img" not in page
        for key in (HOSTILE, ""):
            await visitor.post("/queues/jobs/keys/resume", {"key": key})
            assert (await get_key(pool, "jobs", key)).held_until is None


async def test_a_key_with_line_breaks_is_the_one_that_is_held(pool: Any, queue_name: str):
    """A browser writes each line break in a form as CR LF, as this one does."""
    await set_queue_config(pool, "jobs", keyed=True)
    keys = ("a\nb", "a\r\nb", "a\rb", "a%0Ab*", "a+b c")
    for key in keys:
        await set_key(pool, "jobs", key, max_running=1)
    async with visiting(pool) as visitor:
        page = (await visitor.get("/queues/jobs/keys", params={"by_name": "1"})).text
        forms = re.findall(r'type="hidden" name="(key\*?)" value="([^"]*)"', page)
        assert len(forms) == len(keys)
        for name, value in forms:
            sent = re.sub(r"\r\n|\r|\n", "\r\n", html.unescape(value))
            await visitor.post("/queues/jobs/keys/hold", {name: sent})
    held = {key: (await get_key(pool, "jobs", key)).held_by for key in keys}
    assert held == dict.fromkeys(keys, "manual")
    assert await pool.fetchval("select count(*) from meshhook.keys") == len(keys)


async def test_a_queue_without_keys_says_so(pool: Any, queue_name: str):
    """The message names the command that makes it keyed."""
    async with visiting(pool) as visitor:
        answer = await visitor.get("/queues/jobs/keys")
    assert answer.status_code == 400
    assert "meshhook queue set jobs keyed=true" in answer.text


async def test_one_key_is_found_by_its_name(pool: Any, queue_name: str):
    """Of very many keys, those that begin with a text are looked up."""
    await set_queue_config(pool, "jobs", keyed=True)
    await hold_key(pool, "jobs", "acme")
    await hold_key(pool, "jobs", "acne", reason="not asked for")
    async with visiting(pool) as visitor:
        page = (await visitor.get("/queues/jobs/keys", params={"key": "acm"})).text
        assert "acme" in page
        assert "not asked for" not in page
        page = (await visitor.get("/queues/jobs/keys", params={"key": "other"})).text
        assert "No key begins so" in page
        assert "held" not in page


async def test_all_keys_are_paged_by_name(pool: Any, connection: Any, queue_name: str):
    """Beyond those that are looked at for the most jobs, hostile and empty ones included."""
    await set_queue_config(pool, "jobs", keyed=True)
    names = ["", " a", HOSTILE, "a\x01", *(f"k{n:04}" for n in range(1_300)), "\u4e2d\u6587"]
    await connection.execute(
        "insert into pgmq.q_jobs (vt, message, headers) "
        "select now(), '{}'::jsonb, jsonb_build_object('x-pgmq-group', k) "
        "from unnest($1::text[]) k where k <> '' union all select now(), '{}', null",
        names,
    )
    await hold_key(pool, "jobs", "k0200b")
    await hold_key(pool, "jobs", "z")
    found = []
    url: str | None = "/queues/jobs/keys?by_name=1"
    async with visiting(pool) as visitor:
        while url is not None:
            page = (await visitor.get(url)).text
            assert "<img" not in page
            found += [
                html.unescape(each) for each in re.findall(r'name="key" value="([^"]*)"><b', page)
            ]
            after = re.search(r'rel="next" href="([^"]+)"', page)
            url = None if after is None else html.unescape(after[1])
        assert found == sorted([*names, "k0200b", "z"], key=lambda each: each.encode())
        page = (await visitor.get("/queues/jobs/keys?key=k12&after=k1297")).text
        assert [int(n) for n in re.findall(r'name="key" value="k(\d+)"><b', page)] == [1298, 1299]


async def test_schedules_are_run_paused_and_resumed(pool: Any, connection: Any, queue_name: str):
    """A run says which job it enqueued."""
    await add_schedule(pool, "jobs", "nightly", "0 2 * * *", tz="Europe/Berlin")
    async with visiting(pool) as visitor:
        assert "Europe/Berlin" in (await visitor.get("/schedules")).text
        answer = await visitor.post("/schedules/jobs/nightly/run")
        msg_id = await connection.fetchval("select msg_id from pgmq.q_jobs")
        page = (await visitor.get(answer.headers["location"])).text
        assert f"its job is {msg_id}." in page
        assert f'href="/queues/jobs/jobs/{msg_id}"' in page
        await visitor.post("/schedules/jobs/nightly/pause")
        assert (await get_schedule(pool, "jobs", "nightly")).paused
        await visitor.post("/schedules/jobs/nightly/resume")
        assert not (await get_schedule(pool, "jobs", "nightly")).paused
        answer = await visitor.post("/schedules/jobs/missing/run")
        assert answer.status_code == 404


async def test_changes_are_shown_and_exported(pool: Any, queue_name: str):
    """The page and the CSV name who changed what; a spreadsheet takes no cell for a formula."""
    settings = {
        "authentication": "proxy",
        "proxy_addresses": "127.0.0.1",
        "operator_groups": "oncall",
    }
    headers = {"x-forwarded-user": "=HYPERLINK(1)", "x-forwarded-groups": "oncall"}
    async with visiting(pool, headers=headers, **settings) as visitor:
        await visitor.post("/queues/jobs/pause")
        page = (await visitor.get("/audit", params={"queue": "jobs"})).text
        assert "queue.paused" in page
        answer = await visitor.get("/audit.csv", params={"queue": "jobs"})
    assert answer.headers["content-disposition"] == 'attachment; filename="audit.csv"'
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert rows[0]["actor"] == "'=HYPERLINK(1)"
    assert rows[0]["source"] == "console"


async def test_the_export_has_all_changes(pool: Any, connection: Any, queue_name: str):
    """However many, the newest first; `before` leaves newer ones out."""
    await connection.execute(
        "select meshhook.audit('odd.change', 'jobs', count => n) from generate_series(1, 2500) n"
    )
    async with visiting(pool) as visitor:
        answer = await visitor.get("/audit.csv", params={"action": "odd.change"})
        rows = list(csv.DictReader(io.StringIO(answer.text)))
        assert [int(each["count"]) for each in rows] == list(range(2_500, 0, -1))
        answer = await visitor.get(
            "/audit.csv", params={"action": "odd.change", "before": rows[-1]["id"]}
        )
        assert list(csv.reader(io.StringIO(answer.text))) == [list(rows[0])]


@pytest.mark.parametrize("name", ["since", "until"])
@pytest.mark.parametrize(
    "moment",
    [
        "0001-01-01",
        "0001-01-01T00:00+14:00",
        "0001-01-01T00:00-14:00",
        "9999-12-31T23:59:59",
        "9999-12-31T23:59:59-14:00",
        "9999-12-31T23:59:59+14:00",
    ],
)
async def test_times_at_the_ends_of_the_calendar_are_searched_for(
    name: str, moment: str, pool: Any, connection: Any, queue_name: str
):
    """All is since the first, and until the last; the database has no time beyond them."""
    await add_dead_letters(connection, 1)
    is_found = (name == "since") == moment.startswith("0001")
    async with visiting(pool) as visitor:
        for path, empty in (
            ("/queues/jobs/dead-letters", "Nothing fits"),
            ("/audit", "Nothing fits"),
            ("/audit.csv", "queue.created"),
            ("/search", "Nothing was found"),
        ):
            answer = await visitor.get(path, params={name: moment})
            assert answer.status_code == 200, (path, answer.text)
            if path == "/audit.csv":
                assert (empty in answer.text) is is_found
            elif path != "/search":
                assert (empty in answer.text) is not is_found, path


async def test_jobs_are_searched_and_paged(pool: Any, connection: Any, queue_name: str):
    """By state, page by page; an id leads to the job at once."""
    await connection.execute(
        "select * from pgmq.send_batch('jobs', array_fill('{}'::jsonb, array[60]))"
    )
    async with visiting(pool) as visitor:
        page = (await visitor.get("/search?queue=jobs&state=ready")).text
        assert page.count('href="/queues/jobs/jobs/') == 50
        page = (await visitor.get("/search?queue=jobs&state=ready&before=11")).text
        assert page.count('href="/queues/jobs/jobs/') == 10
        answer = await visitor.get("/search?queue=jobs&id=7")
        assert answer.headers["location"] == "/queues/jobs/jobs/7"
        assert "choose the queue as well" in (await visitor.get("/search?id=7")).text


@pytest.mark.parametrize(
    "path",
    [
        "/queues/NONE",
        "/queues/x;drop",
        "/queues/jobs/dead-letters/abc",
        "/queues/jobs/dead-letters/99999999999999999999",
        "/queues/jobs/jobs/-1",
        "/queues/jobs/dead-letters?before=x",
        "/queues/jobs/dead-letters?key=%00",
        "/queues/jobs/dead-letters?run_id=" + "x" * 2_000,
        "/search?state=none",
        "/search?run_id=%00",
        "/audit?since=never",
        "/queues/jobs/dead-letters/confirm?action=drop",
    ],
)
async def test_wrong_addresses_are_refused_with_a_message(path: str, pool: Any, queue_name: str):
    """Whatever stands in an address, the answer is a page that says what is wrong."""
    async with visiting(pool) as visitor:
        answer = await visitor.get(path)
    assert answer.status_code in {400, 404}
    assert "fault of the console" not in answer.text


async def test_it_is_mounted_in_another_application(pool: Any, connection: Any, queue_name: str):
    """Links, forms and files lead to where it is mounted."""
    (dead,) = await add_dead_letters(connection, 1)
    console = console_app(pool)
    app = Starlette(routes=[Mount("/tools/queue", console)])
    transport = httpx.ASGITransport(app, client=("127.0.0.1", 1))
    async with httpx.AsyncClient(transport=transport, base_url=ORIGIN) as client:
        visitor = Visitor(client)
        page = (await visitor.get("/tools/queue/")).text
        for line in page.split('href="')[1:]:
            assert line.startswith(("/tools/queue/", "#main"))
        token = await visitor.token("/tools/queue/queues/jobs")
        answer = await visitor.post(
            f"/tools/queue/queues/jobs/dead-letters/{dead}/replay", token=token
        )
        assert answer.headers["location"].startswith("/tools/queue/queues/jobs/jobs/")
        assert (await visitor.get(answer.headers["location"])).status_code == 200
        style = page.split('rel="stylesheet" href="')[1].split('"')[0]
        assert (await visitor.get(style)).status_code == 200
    await console.state.close()


@pytest.mark.parametrize("kind", [RoleKind.READER, RoleKind.ONCALL])
async def test_a_role_of_its_own_suffices(
    kind: RoleKind, database_url: str, connection: Any, queue_name: str
):
    """A reader sees every page; whoever is on call can do all that the console does."""
    await set_queue_config(connection, "jobs", keyed=True)
    await add_schedule(connection, "jobs", "nightly", "@daily")
    first, second, third = await add_dead_letters(connection, 3)
    here = "/queues/jobs/dead-letters"
    async with Roles(database_url, connection) as roles:
        database = Database(roles.url(await roles.make(kind, "jobs")))
        async with visiting(database, read_only=kind is RoleKind.READER) as visitor:
            for path in (
                *("/", "/queues/jobs", "/queues/jobs/keys", "/dead-letters", here),
                *(
                    f"{here}/{first}",
                    "/search?queue=jobs",
                    "/workers",
                    "/schedules",
                    "/audit",
                    "/doctor",
                ),
            ):
                answer = await visitor.get(path)
                assert answer.status_code == 200, (path, answer.text)
            if kind is RoleKind.ONCALL:
                for path, fields in (
                    ("/queues/jobs/pause", {}),
                    (f"{here}/{first}/replay", {"body": '{"x": 1}'}),
                    (f"{here}/{second}/delete", {"confirmed": "yes"}),
                    (f"{here}/chosen", {"action": "replay", "id": third}),
                    ("/queues/jobs/keys/hold", {"key": "a"}),
                    ("/queues/jobs/keys/resume", {"key": "a"}),
                    ("/schedules/jobs/nightly/run", {}),
                    ("/schedules/jobs/nightly/pause", {}),
                ):
                    answer = await visitor.post(path, fields)
                    assert answer.status_code == 303, (path, answer.text)
        await database.close()


async def test_a_role_that_lacks_a_right_is_told_which_and_the_way_out(
    database_url: str, connection: Any, queue_name: str
):
    """No page fails in another way with a role without rights; a reader may change nothing."""
    (dead,) = await add_dead_letters(connection, 1)
    async with Roles(database_url, connection) as roles:
        nobody = await roles.make(RoleKind.READER)
        reader = await roles.make(RoleKind.READER, "jobs")
        await add_schedule(connection, "jobs", "nightly", "@daily")
        for what in (
            "schema meshhook",
            "all tables in schema meshhook",
            "all tables in schema pgmq",
        ):
            await connection.execute(f'revoke all on {what} from "{nobody}"')
        database = Database(roles.url(nobody))
        async with visiting(database) as visitor:
            for route in PAGES:
                path = route.path.format(queue="jobs", id=dead)
                query = {"run_id": "r"} if path == "/search" else {"action": "replay"}
                answer = await visitor.get(path, params=query)
                if path == "/doctor":
                    assert answer.status_code == 200
                    assert "could not be checked: " in answer.text
                elif "/operations/" in path:
                    assert answer.status_code == 404
                else:
                    assert answer.status_code == 403, (path, answer.text)
                    assert "permission denied for" in answer.text, path
                    assert "meshhook roles grant oncall --name ROLE" in answer.text, path
        await database.close()
        database = Database(roles.url(reader))
        async with visiting(database) as visitor:
            for path, fields in (
                ("/queues/jobs/pause", {}),
                (f"/queues/jobs/dead-letters/{dead}/replay", {}),
                (f"/queues/jobs/dead-letters/{dead}/delete", {"confirmed": "yes"}),
                ("/queues/jobs/dead-letters/chosen", {"action": "replay", "id": dead}),
                ("/schedules/jobs/nightly/pause", {}),
            ):
                answer = await visitor.post(path, fields)
                assert answer.status_code == 403, (path, answer.text)
                assert "permission denied for" in answer.text, path
                assert "meshhook roles grant oncall --name ROLE" in answer.text, path
        await database.close()
    assert await connection.fetchval("select count(*) from pgmq.q_jobs_dlq") == 1


async def test_each_finding_of_the_doctor_leads_to_its_documentation(
    pool: Any, connection: Any, queue_name: str
):
    """To the heading of its check, which is there."""
    await connection.execute("drop index pgmq.q_jobs_vt_idx")
    async with visiting(pool) as visitor:
        page = (await visitor.get("/doctor")).text
    assert f'<a href="{DOCUMENTATION}#indexes"' in page
    text = (ROOT / "docs/how-to/doctor.md").read_text()
    headings = re.findall(r"^### `(\w+)`$", text, re.MULTILINE)
    assert headings == [each.name for each in CHECKS]


async def test_the_doctor_says_what_is_wrong(pool: Any, connection: Any, queue_name: str):
    """A queue with jobs and without a worker is found, with what to do."""
    await connection.execute(
        "insert into pgmq.q_jobs (vt, message) values (now() - interval '1 hour', '{}')"
    )
    async with visiting(pool) as visitor:
        page = (await visitor.get("/doctor")).text
    assert "no worker" in page
    assert "meshhook worker" in page

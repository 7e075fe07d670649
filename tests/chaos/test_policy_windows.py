"""The moments in which what hangs on an outcome may get lost, or happen twice.

A statement that settles jobs is stopped where it stores a row. Then its worker, its session, both,
or the server is killed. Dead letters and what follows them, expiries, budgets for retries and kept
bodies are right all the same, and the books balance.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from support.chaos.counts import CLEAN
from support.chaos.fleet import Fleet, MakeFleet
from support.chaos.ledger import Ledger
from support.chaos.moments import Moment
from support.chaos.servers import QUEUE, MakeServer, Server

KILLS = ("worker", "session", "machine", "server")
"""What is killed: the process, whose statement goes on; the session of its statement; both; or the
server, which starts again."""
JOBS = 3
RETRY_SECONDS = 100.0
IS_OUTCOME = "new.read_ct = old.read_ct and new.headers is distinct from old.headers"
"""Neither a claim, which counts a read, nor an extension of a lease, which changes a time alone."""
FOLLOW_UPS = f"""
select count(*) as stored,
    count(distinct q.headers #>> '{{meshhook-failed-job,dead_letter_id}}') as of_letters,
    count(d.msg_id) as of_known_letters
from pgmq.q_next q
left join pgmq.q_{QUEUE}_dlq d
    on d.msg_id = (q.headers #>> '{{meshhook-failed-job,dead_letter_id}}')::bigint
    and d.message ->> 'run_id' = q.message ->> 'run_id'
"""


@pytest.fixture
def server(make_server: MakeServer) -> Server:
    """A server with a second queue `next`."""
    server = make_server()
    server.fetch("select meshhook.create_queue('next')")
    return server


@pytest.fixture
def fleet(server: Server, make_fleet: MakeFleet) -> Iterator[Fleet]:
    """One worker on the queue, whose leases are short, and no jobs yet."""
    settings = {"visibility_timeout_seconds": 1, "dead_letter_follow_up": "'next'"}
    with make_fleet(server, workers=1, jobs=0, settings=settings, late_seconds=60) as fleet:
        yield fleet


def enqueue(fleet: Fleet, kind: str, count: int = JOBS, headers: str = "{}") -> None:
    """Enqueue jobs in one transaction, so that they are claimed together."""
    ledger = Ledger(fleet.ledger, "test")
    run_ids = [f"{kind}{number}" for number in range(count)]
    for run_id in run_ids:
        ledger.note("attempted", run_id, kind)
    fleet.server.fetch(
        "select meshhook.enqueue($1, jsonb_build_object('run_id', r, 'payload', "
        "jsonb_build_object('kind', $2::text)), headers => $3::jsonb) from unnest($4::text[]) r",
        QUEUE,
        kind,
        headers,
        run_ids,
    )
    for run_id in run_ids:
        ledger.note("confirmed", run_id)
    ledger.close()


def kill(what: str, fleet: Fleet, moment: Moment) -> None:
    """Kill something while a statement stands at its moment, and let others go on."""
    if what in ("worker", "machine"):
        fleet.kill(fleet.workers[0])
    if what in ("session", "machine"):
        moment.terminate()
    if what == "server":
        fleet.server.restart("immediate")
    moment.release()
    if not fleet.workers:
        fleet.start_workers()


@pytest.mark.parametrize("what", KILLS)
@pytest.mark.parametrize(
    ("kind", "when", "table"),
    [
        # It is decided that the job is dead; it has left its queue, and no dead letter is stored.
        ("dead", "before insert", f"q_{QUEUE}_dlq"),
        # The dead letter is stored, and what follows is not.
        ("dead", "before insert", "q_next"),
        # All is stored, and nothing is committed.
        ("dead", "after insert", "q_next"),
        ("expire", "before delete", f"q_{QUEUE}"),
        ("expire", "before insert", f"a_{QUEUE}"),
        ("expire_dead", "before insert", "q_next"),
    ],
)
def test_one_job_follows_each_dead_letter(
    fleet: Fleet, *, what: str, kind: str, when: str, table: str
) -> None:
    """Each job ends once, with one dead letter and one job that follows it, or in the archive."""
    on_expiry = "dead_letter" if kind == "expire_dead" else "archive"
    fleet.set_queue(on_expiry=f"'{on_expiry}'")
    moment = Moment(fleet.server, when, f"pgmq.{table}")
    is_expiry = kind.startswith("expire")
    past = '{"meshhook-expires-at": "2020-01-01T00:00:00Z"}'
    enqueue(fleet, kind, headers=past if is_expiry else "{}")
    moment.wait()
    kill(what, fleet, moment)
    assert fleet.finish() == CLEAN
    [found] = fleet.server.fetch(FOLLOW_UPS)
    archived = fleet.server.fetchval(
        f"select count(*) || ' of ' || count(distinct msg_id) from pgmq.a_{QUEUE}"
    )
    letters = 0 if kind == "expire" else JOBS
    assert tuple(found) == (letters,) * 3
    assert archived == (f"{JOBS} of {JOBS}" if kind == "expire" else "0 of 0")


@pytest.mark.parametrize("what", KILLS)
@pytest.mark.parametrize(
    ("when", "table", "condition"),
    [
        ("after update", "meshhook.starts", "true"),
        # The budget has paid, and the job is not put off.
        ("before update", f"pgmq.q_{QUEUE}", IS_OUTCOME),
    ],
)
def test_a_budget_pays_only_for_retries_that_happen(
    fleet: Fleet, *, what: str, when: str, table: str, condition: str
) -> None:
    """A worker that is killed between budget and delay leaves the budget as it was."""
    fleet.set_queue(max_retries_per_second=1 / RETRY_SECONDS)
    moment = Moment(fleet.server, when, table, condition=condition)
    enqueue(fleet, "retry", 1)
    moment.wait()
    kill(what, fleet, moment)
    assert fleet.finish() == CLEAN
    [found] = fleet.server.fetch(
        "select coalesce(ceil(extract(epoch from max(s.full_at) - clock_timestamp()) / $1), 0) "
        "as paid, (select count(*) from meshhook.job_attempts where outcome = 'retried') "
        "as retried from meshhook.starts s where key = 'retries'",
        RETRY_SECONDS,
    )
    assert found["paid"] == found["retried"]
    assert found["retried"] == (0 if what == "machine" else 1)


@pytest.mark.parametrize("what", KILLS)
@pytest.mark.parametrize(
    ("when", "table"),
    [
        ("before delete", f"pgmq.q_{QUEUE}"),
        ("before insert", "meshhook.finished_jobs"),
        ("after insert", "meshhook.finished_jobs"),
    ],
)
def test_a_success_and_its_body_are_stored_together(
    fleet: Fleet, *, what: str, when: str, table: str
) -> None:
    """Each job that succeeded has one kept body, and no other has any."""
    fleet.set_queue(keep_bodies_days=7)
    # A worker that starts has the setting at once.
    fleet.kill(fleet.workers[0])
    fleet.start_workers()
    moment = Moment(fleet.server, when, table)
    enqueue(fleet, "ok")
    moment.wait()
    kill(what, fleet, moment)
    assert fleet.finish() == CLEAN
    [found] = fleet.server.fetch(
        "select count(*) filter (where f.kept = 1) as right, count(*) as jobs from ("
        "select a.msg_id, (select count(*) from meshhook.finished_jobs f where "
        "f.msg_id = a.msg_id and f.enqueued_at = a.enqueued_at "
        "and f.message ->> 'run_id' = a.run_id) as kept from meshhook.job_attempts a "
        "where a.outcome = 'succeeded') f"
    )
    assert found["jobs"] >= JOBS
    assert found["right"] == found["jobs"]


@pytest.mark.parametrize("what", KILLS)
@pytest.mark.parametrize(
    ("when", "table", "row"),
    [
        # In the second of three chunks.
        ("before insert", f"pgmq.q_{QUEUE}", 1_500),
        ("after update", "meshhook.finished_jobs", 1_500),
    ],
)
def test_a_replay_that_is_killed_midway_replays_each_job_once(
    server: Server, make_fleet: MakeFleet, *, what: str, when: str, table: str, row: int
) -> None:
    """The command is run again until it says that it is done: there is one new job for each."""
    count = 2_500
    server.fetch("update meshhook.queue_config set keep_bodies_days = 7")
    server.fetch(
        f"""with kept as (
            insert into meshhook.finished_jobs
                (queue, msg_id, enqueued_at, finished_at, outcome, message)
            select '{QUEUE}', n, now(), now(), 'succeeded', jsonb_build_object('n', n)
            from generate_series(1, $1) n
            returning *)
        insert into meshhook.job_attempts (queue, msg_id, attempt, outcome, enqueued_at,
            finished_at)
        select queue, msg_id, 1, outcome, enqueued_at, finished_at from kept""",
        count,
    )
    server.fetch(f"select setval('pgmq.q_{QUEUE}_msg_id_seq', $1)", count)
    moment = Moment(server, when, table, row=row)
    with make_fleet(server, workers=0, jobs=0, settings=None) as fleet:
        replay = ("jobs", "replay", QUEUE, "--state", "succeeded", "--yes")
        command = fleet.command(*replay)
        moment.wait()
        if what in ("worker", "machine"):
            command.send(signal.SIGKILL)
            command.wait(30)
        if what in ("session", "machine"):
            moment.terminate()
        if what == "server":
            server.restart("immediate")
        moment.release()
        command.wait(60)
        assert fleet.command(*replay).wait(60) == 0
    [found] = server.fetch(
        "select count(*) as stored, count(distinct message ->> 'n') as jobs, (select count(*) from "
        f"meshhook.finished_jobs where replayed_as is not null) as marked from pgmq.q_{QUEUE}"
    )
    assert tuple(found) == (count,) * 3

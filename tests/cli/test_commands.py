"""What commands do and print when they succeed."""

from __future__ import annotations

import gzip
import json
import re
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from meshhook.administration import QueueSnapshot
from meshhook.cli.app import all_commands
from meshhook.queue_config import QueueConfig
from meshhook.schema import available_migrations
from meshhook.statistics import HourStatistics
from meshhook.store.dead_letter_rows import DeadLetterJob, ErrorGroup
from meshhook.store.job_rows import JobLife, JobSummary

MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


def words_of(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the words of a command, and of those below it."""
    yield words
    for name, each in getattr(command, "commands", {}).items():
        yield from words_of(each, (*words, name))


@pytest.mark.parametrize("words", [*words_of(all_commands())], ids=" ".join)
def test_every_help_has_an_example_and_fits_80_columns(bare_cli, words, monkeypatch):
    """Every help text works without a database."""
    monkeypatch.setenv("COLUMNS", "80")
    help_text = bare_cli.ok(*words, "--help").out
    assert re.search(r"Examples?:\n +(meshhook|generate \|) ", help_text)
    assert not [line for line in help_text.splitlines() if len(line) > 88]


def test_the_help_says_the_exit_codes(bare_cli):
    """Every exit code is explained."""
    help_text = bare_cli.ok("--help").out
    assert [line.split()[0] for line in help_text.splitlines() if re.match(r" +\d", line)] == [
        *("0", "1", "2", "3", "4", "130")
    ]


def test_the_version_is_printed(bare_cli):
    """The version follows the name of the distribution."""
    assert re.fullmatch(r"meshhook-queue \d+\.\d+\.\d+\S*\n", bare_cli.ok("--version").out)


def test_no_arguments_show_the_help(bare_cli):
    """It goes to standard error, since nobody asked for it."""
    ended = bare_cli()
    assert (ended.code, ended.out) == (2, "")
    assert "Commands:" in ended.err


def test_migrate_says_what_it_would_do_and_does_it(bare_cli, empty_database_url):
    """A dry run shows the plan, the first run applies it, and a second run finds nothing to do."""
    bare_cli.use(empty_database_url)
    names = [each.file_name for each in available_migrations()]
    plan = bare_cli.ok("migrate", "--dry-run").out
    assert [line for line in plan.splitlines() if "would run" in line] == [
        f"would run {name}" for name in names
    ]
    assert bare_cli.ok("migrate", "--dry-run", "--json").json["applied"] == []
    report = bare_cli.ok("migrate").out
    assert [line for line in report.splitlines() if line.startswith("ran")] == [
        f"ran {name}" for name in names
    ]
    again = bare_cli.ok("migrate", "--json").json
    assert again["applied"] == []
    assert len(again["applied_before"]) == len(names)
    assert bare_cli.ok("migrate", "--dry-run").out.startswith("up to date")


def test_migrate_says_how_to_make_a_first_queue(bare_cli, empty_database_url):
    """The hint goes to standard error, and disappears once there is a queue."""
    bare_cli.use(empty_database_url)
    assert "meshhook queue create" in bare_cli.ok("migrate").err
    bare_cli.ok("queue", "create")
    assert not bare_cli.ok("migrate").err


def test_the_script_for_an_administrator_needs_no_database(bare_cli):
    """Standard output contains nothing but the script."""
    script = bare_cli.ok("migrate", "sql").out
    assert script.startswith("-- MeshHook Queue")
    assert script.rstrip().endswith("commit;")
    assert len(bare_cli.ok("migrate", "sql", "--pgmq-sql").out) > len(script)


def test_a_queue_is_created_once(cli):
    """A second creation says that the queue exists, and is no error."""
    created = cli.ok("queue", "create", "orders", "max_retry_attempts=3", "--json").json
    assert created["created"] is True
    assert created["config"]["max_retry_attempts"] == 3
    assert set(created["config"]) == set(QueueConfig.model_fields)
    assert "already exists" in cli.ok("queue", "create", "orders").out
    assert cli.ok("queue", "create", "orders", "--json").json["created"] is False


def test_a_queue_with_fifo_groups_is_adopted_on_purpose(cli, sql):
    """It is refused with the name of the option that allows it."""
    sql("select pgmq.create('orders'), pgmq.create_fifo_index('orders')")
    assert "--ignore-fifo-groups" in cli.fails(1, "queue", "create", "orders")
    assert "created" in cli.ok("queue", "create", "orders", "--ignore-fifo-groups").out


def test_queues_are_listed(cli):
    """JSON has the snapshot's fields, the table a line per queue; none is an empty list."""
    assert cli.ok("queue", "list", "--json").json == []
    nothing = cli.ok("queue", "list")
    assert nothing.out == ""
    assert "meshhook queue create" in nothing.err
    cli.ok("queue", "create", "a")
    cli.ok("queue", "create", "b")
    listed = cli.ok("queue", "list", "--json").json
    assert [each["queue"] for each in listed] == ["a", "b"]
    assert set(listed[0]) == {*QueueSnapshot.__slots__, "scaling"}
    assert MOMENT.fullmatch(listed[0]["sampled_at"])
    lines = cli.ok("queue", "list").out.splitlines()
    assert [line.split()[0] for line in lines] == ["QUEUE", "a", "b"]
    assert "STATE" not in lines[0]


def test_queues_are_listed_and_shown_with_their_replicas(cli, sql, jobs):
    """What an operator has written of a JobQueue is in the table, in the fields and in JSON."""
    sql(
        "insert into meshhook.queue_scaling (queue, jobqueue_uid, jobqueue, target_age_seconds, "
        "min_replicas, max_replicas, replicas, ready_replicas, desired_replicas, reason) "
        f"values ('{jobs}', 'a', 'shop/mail', 30, 1, 20, 2, 2, 4, 'many jobs wait')"
    )
    head, line = cli.ok("queue", "list").out.splitlines()
    assert head.split()[-1] == "REPLICAS"
    assert line.endswith("2 -> 4")
    [listed] = cli.ok("queue", "list", "--json").json
    assert [each["jobqueue"] for each in listed["scaling"]] == ["shop/mail"]
    text = cli.ok("queue", "show", jobs).out
    assert re.search(r"JobQueue +shop/mail\n", text)
    assert re.search(r"target age +30s\n", text)
    assert re.search(r"replicas +2, 2 ready; 1 to 20\n", text)
    assert "many jobs wait" in text
    assert cli.ok("queue", "show", jobs, "--json").json["scaling"][0]["desired_replicas"] == 4
    cli.ok("queue", "set", jobs, "prioritized=true")
    text = cli.ok("queue", "show", jobs).out
    assert re.search(r"target age +urgent 5.0s, high 15s, normal 1m 0s, low 10m 0s\n", text)
    sql("update meshhook.queue_scaling set written_at = now() - interval '1 hour'")
    assert cli.ok("queue", "list").out.splitlines()[1].endswith("stale")
    assert "no operator looks after it" in cli.ok("queue", "show", jobs).out


@pytest.mark.parametrize("words", [["queue", "list"], ["stats"]], ids=" ".join)
def test_where_there_is_no_queue_it_says_how_to_make_one(cli, words):
    """The hint goes to standard error; standard output stays empty."""
    ended = cli.ok(*words)
    assert not ended.out
    assert "meshhook queue create NAME" in ended.err


def test_a_queue_is_shown_with_its_settings(cli, jobs):
    """Both as JSON and as names and values."""
    cli.ok("queue", "set", jobs, "job_timeout_seconds=none", "paused=true")
    shown = cli.ok("queue", "show", jobs, "--json").json
    assert shown["config"]["job_timeout_seconds"] is None
    assert shown["snapshot"]["paused"] is True
    text = cli.ok("queue", "show", jobs).out
    assert re.search(r"job_timeout_seconds +none\n", text)
    assert "(paused)" in text


def test_commands_without_a_queue_mean_workflow_jobs(cli, sql):
    """A setting or a job in place of the queue is not taken for its name."""
    created = cli.ok("queue", "create", "max_retry_attempts=3", "--json").json
    assert created["queue"] == "workflow_jobs"
    assert (
        cli.ok("queue", "set", "max_payload_bytes=4096", "retry_jitter=0", "--json").json
        == (cli.ok("queue", "show", "workflow_jobs", "--json").json["config"])
    )
    assert cli.ok("queue", "show", "--json").json["config"]["max_retry_attempts"] == 3
    for job in ('{"n": 1}', ' ["n"]', '"n"'):
        assert cli.ok("enqueue", job).out.endswith("in workflow_jobs\n")
    assert cli.ok("enqueue", stdin="4\n5\n").out == "enqueued 2 jobs in workflow_jobs\n"
    assert sql("select count(*) from pgmq.q_workflow_jobs") == 5
    for words in (["list"], ["errors"]):
        assert "Queue workflow_jobs has no dead letters" in cli.ok("dlq", *words).err


def test_a_name_by_itself_is_a_queue_and_no_job(cli):
    """Words and numbers are names, even where they are valid JSON."""
    for word in ("true", "17"):
        assert f"queue {word!r} does not exist" in cli.fails(3, "enqueue", word, stdin="1\n")


def test_settings_need_a_setting(cli, jobs):
    """`queue set` without a setting shows an example of one."""
    assert "meshhook queue set jobs max_retry_attempts=10" in cli.fails(2, "queue", "set", jobs)


def test_a_queue_is_paused_and_resumed(cli, jobs):
    """The list shows that it is paused in between."""
    assert "meshhook queue resume jobs" in cli.ok("queue", "pause", jobs).out
    assert "paused" in cli.ok("queue", "list").out
    cli.ok("queue", "resume", jobs)
    assert "paused" not in cli.ok("queue", "list").out


def test_a_queue_is_purged_and_dropped(cli, jobs):
    """Both say how much was deleted."""
    cli.ok("enqueue", jobs, stdin="1\n2\n3\n")
    assert cli.ok("queue", "purge", jobs, "--yes").out == "deleted 3 messages of queue jobs\n"
    assert cli.ok("queue", "purge", jobs, "--yes", "--json").json["purged"] == 0
    dropped = cli.ok("queue", "drop", jobs, "--yes", "--json").json
    assert dropped == {"queue": jobs, "dropped": True}
    cli.ok("queue", "create", jobs)
    assert cli.ok("queue", "drop", jobs, "--yes").out == "dropped queue jobs\n"


@pytest.mark.parametrize("words", [["queue", "purge"], ["queue", "drop"], ["dlq", "purge"]])
def test_nothing_is_asked_about_a_queue_that_is_not_there(cli, words):
    """A missing queue is code 3, with --yes and without."""
    assert "'other'" in cli.fails(3, *words, "other", "--yes")
    assert "'other'" in cli.fails(3, *words, "other")


def test_one_job_is_enqueued(cli, jobs, sql):
    """Its id is printed; delay and headers reach the message."""
    ended = cli.ok("enqueue", jobs, '{"n": 1}', "--delay", "600", "--header", "traceparent=00-a-b")
    assert ended.out == "enqueued job 1 in jobs\n"
    assert sql("select headers ->> 'traceparent' from pgmq.q_jobs") == "00-a-b"
    assert 500 < sql("select extract(epoch from vt - now()) from pgmq.q_jobs") <= 600


def test_a_job_is_enqueued_with_its_key(cli, jobs, sql):
    """The key is the message's group; a wrong one is a usage error, and nothing is stored."""
    cli.ok("enqueue", jobs, "1", "--key", "tenant-7")
    assert sql("select headers ->> 'x-pgmq-group' from pgmq.q_jobs") == "tenant-7"
    assert "1 to 200 characters" in cli.fails(2, "enqueue", jobs, "1", "--key", "")
    assert sql("select count(*) from pgmq.q_jobs") == 1


def test_a_queue_is_made_keyed(cli, jobs, sql):
    """The command builds the indexes, and shows the setting."""
    assert cli.ok("queue", "set", jobs, "keyed=true", "--json").json["keyed"] is True
    assert sql("select count(*) from pg_indexes where indexname ~ '^q_jobs_(key|running)'") == 2
    assert "Turn them off" in cli.fails(2, "queue", "set", jobs, "key_path=customer")


def test_a_job_may_span_lines(cli, jobs, sql):
    """An argument is one value, even on several lines."""
    cli.ok("enqueue", jobs, '{\n  "n": 1\n}')
    assert json.loads(sql("select message::text from pgmq.q_jobs")) == {"n": 1}


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        ('{"n": 1}', {"run_id": "r", "payload": {"n": 1}}),
        ("[1]", {"run_id": "r", "payload": [1]}),
        ('{"payload": 1, "run_id": "x"}', {"payload": 1, "run_id": "r"}),
        ('{"payload": 1, "more": 2}', {"run_id": "r", "payload": {"payload": 1, "more": 2}}),
    ],
)
def test_ids_wrap_the_payload_or_join_the_message(cli, jobs, sql, value, stored):
    """IDs are added to an envelope; any other value becomes the payload of one."""
    cli.ok("enqueue", jobs, value, "--run-id", "r")
    assert json.loads(sql("select message::text from pgmq.q_jobs")) == stored


def test_numbers_survive(cli, jobs, sql):
    """Large integers are stored to the last digit."""
    cli.ok("enqueue", jobs, '{"n": 10000000000000000000000}')
    assert sql("select message ->> 'n' from pgmq.q_jobs") == "1" + "0" * 22


def test_lines_come_from_standard_input(cli, jobs):
    """Blank lines and a byte order mark are skipped; ids are in the order of the lines."""
    ended = cli.ok("enqueue", jobs, "--json", stdin=b'\xef\xbb\xbf{"n": 1}\n\n  \n{"n": 2}')
    assert ended.json == {"queue": "jobs", "enqueued": 2, "msg_ids": [1, 2]}
    assert cli.ok("enqueue", jobs, "--file", "-", stdin="3\n").out == "enqueued job 3 in jobs\n"


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz"])
def test_lines_come_from_a_file(cli, jobs, tmp_path, sql, ending):
    """They are stored in batches of 1,000; a compressed file is unpacked."""
    data = b"".join(b'{"n": %d}\n' % n for n in range(2_500))
    file = tmp_path / f"jobs.{ending}"
    file.write_bytes(gzip.compress(data) if ending.endswith("gz") else data)
    assert cli.ok("enqueue", jobs, "--file", str(file)).out == "enqueued 2,500 jobs in jobs\n"
    assert sql("select array_agg((message ->> 'n')::int order by msg_id) from pgmq.q_jobs") == [
        *range(2_500)
    ]


def test_a_bad_line_is_named_and_what_came_before_is_stored(cli, jobs, tmp_path, sql):
    """Exactly the lines before it are stored, and the message says how many."""
    file = tmp_path / "jobs.jsonl"
    file.write_text("1\n" * 1_206 + "{bad\n" + "1\n" * 10)
    said = cli.fails(2, "enqueue", jobs, "--file", str(file))
    assert f"{file}, line 1207: not JSON" in said
    assert "1,206 jobs stored, up to line 1206; fix the line and continue with line 1207" in said
    assert sql("select count(*) from pgmq.q_jobs") == 1_206


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"n": NaN}', "job.n is nan"),
        (b'"\xff"', "not UTF-8: byte 0xff"),
        (b'"\\u0000"', "U+0000"),
        (b'"' + b"x" * 1_048_577 + b'"', "at most 1048576"),
    ],
)
def test_a_line_that_cannot_be_stored_is_named(cli, jobs, sql, line, reason):
    """A line of valid JSON that cannot be stored is named as well."""
    said = cli.fails(2, "enqueue", jobs, stdin=b"1\n" + line + b"\n3\n")
    assert "standard input, line 2: " in said
    assert reason in said
    assert sql("select count(*) from pgmq.q_jobs") == 1


def test_a_document_in_place_of_lines_is_explained(cli, jobs, tmp_path):
    """The message says how to enqueue a whole document."""
    file = tmp_path / "job.json"
    file.write_text('{\n  "n": 1\n}\n')
    assert '"$(cat ' in cli.fails(2, "enqueue", jobs, "--file", str(file))


@pytest.mark.parametrize(
    "data", [b"no gzip at all\n", gzip.compress(b"1\n" * 9_999, mtime=0)[:30]], ids=["other", "cut"]
)
def test_a_damaged_archive_is_code_2(cli, jobs, tmp_path, data):
    """The message names the file."""
    file = tmp_path / "jobs.jsonl.gz"
    file.write_bytes(data)
    assert "jobs.jsonl.gz: cannot be read" in cli.fails(2, "enqueue", jobs, "--file", str(file))


def test_a_list_that_ran_out_of_time_says_so(cli, jobs, sql, monkeypatch):
    """The jobs found are printed; code 1 says that there may be more."""
    cli.ok("enqueue", jobs, "1", "--run-id", "old")
    sql("insert into pgmq.q_jobs (vt, message) select now(), '{}' from generate_series(1, 3000)")
    cli.ok("enqueue", jobs, "1", "--run-id", "old")
    listed = ("jobs", "list", "--run-id", "old")
    assert len(cli.ok(*listed, "--json").json) == 2
    monkeypatch.setattr(
        "meshhook.store.job_search.time", SimpleNamespace(monotonic=lambda: time.monotonic() + 60)
    )
    ended = cli(*listed, "--json")
    assert (ended.code, len(ended.json)) == (1, 1)
    assert "error: only 1 such jobs were found among the newest 250 messages" in ended.err
    assert "--search-seconds 100" in ended.err
    ended = cli("jobs", "list", "--workflow-id", "none")
    assert (ended.code, ended.out) == (1, "")
    assert "error: no such job was found among the newest 250 messages" in ended.err


def test_jobs_are_listed_and_shown(cli, jobs):
    """Lists and histories are printed as JSON and for people."""
    cli.ok("enqueue", jobs, '{"n": 1}', "--run-id", "r1", "--workflow-id", "w")
    cli.ok("enqueue", jobs, '{"n": 2}', "--delay", "3600")
    listed = cli.ok("jobs", "list", "--queue", jobs, "--json").json
    assert [(job["msg_id"], job["state"]) for job in listed] == [(2, "scheduled"), (1, "ready")]
    assert set(listed[0]) == set(JobSummary.__slots__)
    assert [j["run_id"] for j in cli.ok("jobs", "list", "--run-id", "r1", "--json").json] == ["r1"]
    assert len(cli.ok("jobs", "list", "--state", "scheduled", "--json").json) == 1
    assert "--limit" in cli.ok("jobs", "list", "--limit", "1").err
    shown = cli.ok("jobs", "show", jobs, "1", "--json").json
    assert set(shown) == set(JobLife.__slots__)
    assert MOMENT.fullmatch(shown["enqueued_at"])
    text = cli.ok("jobs", "show", jobs, "1").out
    assert re.search(r"state +ready\n", text)
    assert '"n": 1' in text
    cli.fails(3, "jobs", "show", jobs, "99")


def test_a_job_shows_its_unique_key(cli, jobs):
    """For people and as JSON; without one, people see no line of it."""
    cli.ok("enqueue", jobs, "{}", "--unique-key", "invoice-7")
    cli.ok("enqueue", jobs, "{}")
    assert re.search(r"unique key +invoice-7\n", cli.ok("jobs", "show", jobs, "1").out)
    assert cli.ok("jobs", "show", jobs, "1", "--json").json["unique_key"] == "invoice-7"
    assert "unique key" not in cli.ok("jobs", "show", jobs, "2").out


def test_jobs_of_a_time_are_listed(cli, jobs, sql):
    """Since so long ago, or between times; what is no time is refused with examples."""
    cli.ok("enqueue", jobs, "1", "--run-id", "old")
    sql("update pgmq.q_jobs set enqueued_at = now() - interval '5 hours'")
    cli.ok("enqueue", jobs, "1", "--run-id", "new")

    def runs(*options: str) -> list[str]:
        return [job["run_id"] for job in cli.ok("jobs", "list", *options, "--json").json]

    assert runs("--since", "3h") == ["new"]
    assert runs("--since", "1d", "--until", "200m") == ["old"]
    assert runs("--since", "2020-01-31T08:00Z", "--until", "2020-01-31T10:00+01:00") == []
    for wrong in ("3 hours", "2020-01-31T08:00", "99999999w", "yesterday"):
        said = cli.fails(2, "jobs", "list", "--since", wrong)
        assert "--since is how long ago, as 90s, 30m, 2h or 3d, or a time" in said
    assert "since is before until" in cli.fails(2, "jobs", "list", "--since", "1h", "--until", "2h")


def test_an_unknown_state_is_code_2(cli, jobs):
    """The message lists the states."""
    assert "retrying" in cli.fails(2, "jobs", "list", "--state", "dead")


def test_a_job_is_followed_through_its_replay(cli, dead_letters):
    """The history of a replayed job includes that of the new one."""
    cli.ok("dlq", "replay", "jobs", str(dead_letters[0]))
    shown = cli.ok("jobs", "show", "jobs", "1", "--json").json
    assert shown["state"] == "replayed"
    assert shown["replayed_as"]["msg_id"] == 6
    text = cli.ok("jobs", "show", "jobs", "1").out
    assert "TimeoutError" in text
    assert "replayed as:" in text


def test_an_attempt_tells_its_trace(cli, dead_letters, sql):
    """The trace id is shown if there is one, for looking it up in a tracing system."""
    assert "trace " not in cli.ok("jobs", "show", "jobs", "1").out
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    sql("update meshhook.job_attempts set trace_id = $1 where msg_id = 1", trace_id)
    assert re.search(rf"trace +{trace_id}\n", cli.ok("jobs", "show", "jobs", "1").out)
    (attempt,) = cli.ok("jobs", "show", "jobs", "1", "--json").json["attempts"]
    assert attempt["trace_id"] == trace_id


def test_dead_letters_are_listed_shown_and_grouped(cli, dead_letters):
    """Control characters are escaped for people, and exact in JSON."""
    listed = cli.ok("dlq", "list", "jobs", "--json").json
    assert set(listed[0]) == set(DeadLetterJob.__slots__)
    assert [dead["error_type"] for dead in listed] == ["KeyError"] * 2 + ["TimeoutError"] * 3
    table = cli.ok("dlq", "list", "jobs").out
    assert "\x1b" not in table
    assert "\\x1b[31m" in table
    shown = cli.ok("dlq", "show", "jobs", str(dead_letters[0]))
    assert "\x1b" not in shown.out
    assert "Traceback: ..." in shown.out
    one = cli.ok("dlq", "show", "jobs", str(dead_letters[0]), "--json").json
    assert "\x1b[31m" in one["error_message"]
    groups = cli.ok("dlq", "errors", "jobs", "--json").json
    assert [(group["error_type"], group["count"]) for group in groups] == [
        ("TimeoutError", 3),
        ("KeyError", 2),
    ]
    assert set(groups[0]) == set(ErrorGroup.__slots__)
    assert "TimeoutError" in cli.ok("dlq", "errors", "jobs").out
    cli.fails(3, "dlq", "show", "jobs", "99")


def test_dead_letters_are_paged(cli, dead_letters):
    """The note under a full page names the option for the next one."""
    page = cli.ok("dlq", "list", "jobs", "--limit", "2")
    assert f"--before {dead_letters[3]}" in page.err
    rest = cli.ok("dlq", "list", "jobs", "--before", str(dead_letters[3]), "--json").json
    assert [dead["id"] for dead in rest] == dead_letters[2::-1]


def test_named_dead_letters_are_replayed(cli, dead_letters):
    """Missing ones are named, with code 3; the others are replayed all the same."""
    ended = cli("dlq", "replay", "jobs", str(dead_letters[1]), "99", "98", "--json")
    assert ended.code == 3
    assert ended.json["replayed"] == [{"dead_letter_id": dead_letters[1], "msg_id": 6}]
    assert ended.json["not_found"] == [99, 98]
    assert "99, 98" in ended.err
    assert "as job 7\n" in cli.ok("dlq", "replay", "jobs", str(dead_letters[0])).out


def test_dead_letters_of_a_type_are_replayed(cli, dead_letters):
    """The oldest first, up to the limit; then the others, into another queue."""
    first = cli.ok(
        "dlq", "replay", "jobs", "--error-type", "TimeoutError", "--limit", "1", "--json"
    )
    assert [each["dead_letter_id"] for each in first.json["replayed"]] == dead_letters[:1]
    cli.ok("queue", "create", "later")
    rest = cli.ok(
        "dlq", "replay", "jobs", "--error-type", "TimeoutError", "--target", "later", "--json"
    ).json
    assert [each["dead_letter_id"] for each in rest["replayed"]] == dead_letters[1:3]
    assert cli.ok("queue", "show", "later", "--json").json["snapshot"]["ready"] == 2
    cli.fails(3, "dlq", "replay", "jobs", "--all", "--target", "nowhere")


def test_all_dead_letters_are_replayed(cli, jobs, sql):
    """All are replayed, in several batches; a second time there are none left."""
    sql(
        "insert into pgmq.q_jobs_dlq (vt, message) select now(), '{}' from generate_series(1, 2500)"
    )
    assert (
        cli.ok("dlq", "replay", jobs, "--all").out == "replayed 2,500 dead letters of queue jobs\n"
    )
    assert cli.ok("dlq", "replay", jobs, "--all", "--json").json["replayed"] == []
    assert (
        cli.ok("dlq", "replay", jobs, "--all").out == "queue jobs had no dead letters to replay\n"
    )


def test_dead_letters_are_deleted(cli, dead_letters):
    """Single ones are deleted, then all."""
    ended = cli("dlq", "delete", "jobs", str(dead_letters[0]), "99", "--yes", "--json")
    assert ended.code == 3
    assert ended.json["deleted"] == dead_letters[:1]
    assert cli.ok("dlq", "purge", "jobs", "--yes").out == "deleted 4 dead letters of queue jobs\n"
    assert "no dead letters" in cli.ok("dlq", "list", "jobs").err


def test_statistics_are_printed(cli, dead_letters):
    """Both the queues now and the hours of the last day."""
    stats = cli.ok("stats", "--json").json
    assert stats["queues"][0]["dead_letters"] == 5
    assert sum(hour["dead_lettered"] for hour in stats["hours"]) == 5
    assert set(stats["hours"][0]) == set(HourStatistics.__slots__)
    cli.ok("queue", "create", "other")
    assert [each["queue"] for each in cli.ok("stats", "jobs", "--json").json["queues"]] == ["jobs"]
    assert "HOUR" in cli.ok("stats", "jobs").out


def test_what_is_piped_is_neither_cut_nor_coloured(cli, jobs, monkeypatch):
    """A row stays one line, even if the terminal is narrow."""
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("FORCE_COLOR", "1")
    cli.ok("enqueue", jobs, "1", "--run-id", "r" * 200)
    out = cli.ok("jobs", "list").out
    assert "\x1b" not in out
    assert "r" * 200 in out.splitlines()[1]
    assert not [line for line in out.splitlines() if line != line.rstrip()]


@pytest.mark.timeout(110)
def test_the_demo_prints_one_object(cli):
    """The JSON has the fields that others read, and no job is lost."""
    result = cli.ok("demo", "--json", "--jobs", "60").json
    assert result["enqueued"] == 60
    assert result["succeeded"] + result["dead_lettered"] == 60
    assert result["lost"] == 0
    assert {"retried", "duplicates", "jobs_per_second"} <= set(result)

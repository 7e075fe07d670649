"""`meshhook keys`: what waits and runs of each key, weights and limits."""

from __future__ import annotations

import pytest


@pytest.fixture
def keyed(cli, jobs):
    """A keyed queue with jobs of two keys, and one without."""
    cli.ok("queue", "set", jobs, "keyed=true", "max_running_per_key=4")
    cli.ok("enqueue", jobs, "1", "--key", "tenant-7")
    cli.ok("enqueue", jobs, "2", "--key", "tenant-7")
    cli.ok("enqueue", jobs, "3", "--key", "tenant-\x1b[31m8")
    cli.ok("enqueue", jobs, "4", "--delay", "3600")
    return jobs


def test_keys_are_listed(cli, keyed):
    """Those with the most ready jobs come first; nothing of a key reaches the terminal raw."""
    ended = cli.ok("keys", "list", keyed)
    lines = ended.out.splitlines()
    assert lines[0].split()[:3] == ["KEY", "READY", "RUNNING"]
    assert lines[1].split()[:3] == ["tenant-7", "2", "0"]
    assert "\x1b" not in ended.out
    assert any(line.startswith("(none)") for line in lines)
    found = cli.ok("keys", "list", keyed, "--limit", "1", "--json").json
    assert [each["key"] for each in found] == ["tenant-7"]
    assert found[0] | {"oldest_ready_seconds": 0} == {
        "key": "tenant-7",
        "ready": 2,
        "running": 0,
        "waiting_for_later": 0,
        "capped": False,
        "oldest_ready_seconds": 0,
        "weight": 1,
        "max_running": 4,
        "max_starts": None,
        "has_own_settings": False,
        "held_until": None,
        "held_at": None,
        "held_by": None,
        "hold_reason": None,
        "breaker": None,
        "failures_in_a_row": 0,
        "last_error_type": None,
        "breaker_opened_at": None,
        "next_probe_at": None,
        "blocked_by": None,
        "blocked_reason": None,
        "blocked_since": None,
        "blocked_until": None,
        "dead_letter_id": None,
    }


def test_keys_are_sorted_by_what_runs(cli, keyed, sql):
    """The key with the most running jobs comes first, however few wait."""
    sql("update pgmq.q_jobs set vt = now() + interval '1 hour', read_ct = 1 where msg_id = 3")
    found = cli.ok("keys", "list", keyed, "--sort", "running", "--json").json
    assert [each["running"] for each in found][:2] == [1, 0]
    assert "'waiting', 'running'" in cli.fails(2, "keys", "list", keyed, "--sort", "late")


def test_a_key_is_set_and_shown(cli, keyed):
    """A limit and a weight hold from then on; `none` takes them back."""
    shown = cli.ok("keys", "set", keyed, "tenant-7", "max_running=2", "weight=1.5").out
    assert "max_running" in shown
    found = cli.ok("keys", "show", keyed, "tenant-7", "--json").json
    assert (found["max_running"], found["weight"], found["ready"]) == (2, 1.5, 2)
    cli.ok("keys", "set", keyed, "tenant-7", "max_running=none", "weight=none")
    found = cli.ok("keys", "show", keyed, "tenant-7", "--json").json
    assert (found["max_running"], found["has_own_settings"]) == (4, False)
    assert "(none)" in cli.ok("keys", "show", keyed, "").out


def test_a_key_is_held_and_resumed(cli, keyed):
    """It says for how long, or that it has to be resumed."""
    assert "until resumed" in cli.ok("keys", "hold", keyed, "tenant-7").out
    assert "until resumed" in cli.ok("keys", "list", keyed).out
    found = cli.ok("keys", "hold", keyed, "tenant-7", "--for", "600", "--json").json
    assert found["held_until"] is not None
    assert "9m" in cli.ok("keys", "show", keyed, "tenant-7").out
    assert cli.ok("keys", "resume", keyed, "tenant-7", "--json").json["held_until"] is None
    assert "0.001 to" in cli.fails(2, "keys", "hold", keyed, "tenant-7", "--for", "0")


def test_mistakes_are_explained(cli, keyed):
    """The value, the rule and the way out."""
    assert "max_running='0'" in cli.fails(2, "keys", "set", keyed, "a", "max_running=0")
    assert "name what to set" in cli.fails(2, "keys", "set", keyed, "a")
    assert "SETTING=VALUE" in cli.fails(2, "keys", "set", keyed, "a", "4")
    assert "at most 200 characters" in cli.fails(2, "keys", "show", keyed, "k" * 201)
    cli.ok("queue", "create", "plain")
    assert "meshhook queue set plain keyed=true" in cli.fails(2, "keys", "list", "plain")
    assert "no messages" in _empty(cli)


def _empty(cli):
    cli.ok("queue", "create", "empty", "keyed=true")
    ended = cli.ok("keys", "list", "empty")
    return ended.out + ended.err


def test_what_blocks_an_ordered_key_is_shown(cli, jobs):
    """By which job, why, since when and until when."""
    cli.ok("queue", "set", jobs, "keyed=true", "ordered=true")
    cli.ok("enqueue", jobs, "1", "--key", "tenant-7", "--delay", "600")
    cli.ok("enqueue", jobs, "2", "--key", "tenant-7")
    shown = cli.ok("keys", "show", jobs, "tenant-7").out
    assert "msg_id 1, scheduled" in shown
    assert "(in 9m" in shown
    assert "1 (scheduled)" in cli.ok("keys", "list", jobs).out
    found = cli.ok("keys", "show", jobs, "tenant-7", "--json").json
    assert (found["blocked_by"], found["blocked_reason"]) == (1, "scheduled")
    assert "ordered=false" in cli.fails(2, "queue", "set", jobs, "keyed=false")

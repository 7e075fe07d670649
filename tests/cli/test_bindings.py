"""`meshhook queue bind`, `unbind` and `bindings`, and `meshhook publish`."""

from __future__ import annotations


def test_topics_are_bound_listed_and_unbound(cli, jobs):
    """Each command says what it did, as JSON too; what was so before is no error."""
    assert cli.ok("queue", "bindings").err.strip() == "no topic is bound"
    assert cli.ok("queue", "bind", jobs, "shop.*").out.strip() == "bound shop.* to queue jobs"
    assert "it was bound already" in cli.ok("queue", "bind", jobs, "shop.*").out
    lines = cli.ok("queue", "bindings", jobs).out.splitlines()
    assert lines[1].split()[:2] == ["jobs", "shop.*"]
    (found,) = cli.ok("queue", "bindings", "--json").json
    assert (found["queue"], found["pattern"]) == ("jobs", "shop.*")
    assert cli.ok("queue", "unbind", jobs, "shop.*", "--json").json["was_bound"]
    assert "meshhook queue bindings jobs" in cli.ok("queue", "unbind", jobs, "shop.*").err
    assert "got 'a..b'" in cli.fails(2, "queue", "bind", jobs, "a..b")


def test_a_job_is_published(cli, jobs):
    """It says which queues got it, or that none is bound; bad input is refused as by enqueue."""
    assert "no queue is bound to shop.sold" in cli.ok("publish", "shop.sold", "{}").err
    cli.ok("queue", "bind", jobs, "shop.*")
    said = cli.ok("publish", "shop.sold", '{"n": 1}', "--key", "k", "--header", "h=1").out
    assert said.strip() == "published shop.sold to 1 queue: job 1 in jobs"
    assert cli.ok("publish", "shop.sold", "-", "--json", stdin="2\n").json == {
        "topic": "shop.sold",
        "msg_ids": {"jobs": 2},
    }
    assert '"n": 1' in cli.ok("jobs", "show", jobs, "1").out
    assert "got 'a.*'" in cli.fails(2, "publish", "a.*", "1")
    assert "meshhook-" in cli.fails(2, "publish", "a", "1", "--header", "meshhook-settled=9")
    assert "max_attempts" in cli.fails(2, "publish", "a", "1", "--retry", '{"max_attempts": 0}')
    assert "expires_in" in cli.fails(2, "publish", "a", "1", "--expires-in", "0")
    assert "takes one job" in cli.fails(2, "publish", "a", "-", stdin="1\n2\n")
    cli.fails(2, "publish", "a", "{")

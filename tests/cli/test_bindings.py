"""`meshhook queue bind`, `unbind` and `bindings`."""

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

"""`meshhook enqueue --unique-key`: what is enqueued, and what is said."""

from __future__ import annotations


def test_a_duplicate_is_named(cli, jobs):
    """The command says which job has the key, and whether it was replaced."""
    unique = ("enqueue", jobs, '{"n": 1}', "--unique-key", "k")
    assert cli.ok(*unique).out.strip() == f"enqueued job 1 in {jobs}"
    assert cli.ok(*unique).out.strip() == f"job 1 in {jobs} has the key: nothing enqueued"
    replaced = cli.ok(*unique, "--on-conflict", "replace", "--unique", "until-started")
    assert replaced.out.strip() == f"replaced job 1 in {jobs}"
    assert cli.ok(*unique, "--unique", "60", "--json").json == {
        "queue": jobs,
        "enqueued": 0,
        "replaced": False,
        "msg_ids": [1],
    }

"""Help for tests of applications with encryption: keys, and the payloads that jobs had."""

from __future__ import annotations

from typing import Any

from meshhook import App, DeadLetter, FollowUp, Job
from meshhook.testing import QueueDatabase, make_key_ring


async def test_an_app_with_keys_is_tested_as_without(meshhook_database: QueueDatabase) -> None:
    """Jobs and dead letters show their payload, and a drain has the keys."""
    app = App(encryption=make_key_ring())
    seen: list[Any] = []

    @app.job("payments")
    async def pay(job: Job[dict[str, str]]) -> None:
        seen.append((job.payload, job.is_encrypted))
        if job.payload["card"] == "refused":
            raise DeadLetter("no")

    async with meshhook_database.connect(app):
        follow_up = FollowUp("payments", {"card": "after"})
        await pay.enqueue({"card": "4111"})
        await pay.enqueue({"card": "refused"}, on_dead_letter=follow_up)
        await meshhook_database.enqueue(pay, {"card": "by the test"})
        jobs = await meshhook_database.assert_enqueued(pay, count=3)
        assert [job.payload["card"] for job in jobs] == ["4111", "refused", "by the test"]
        assert all(job.is_encrypted for job in jobs)
        await meshhook_database.drain(app)
        await meshhook_database.assert_dead_lettered(pay, {"card": "refused"}, count=1)
    assert {payload["card"] for payload, _ in seen} == {"4111", "refused", "by the test", "after"}
    assert all(is_encrypted for _, is_encrypted in seen)


async def test_without_the_keys_the_message_is_shown(meshhook_database: QueueDatabase) -> None:
    """A test with other keys sees what is stored, and fails at no job."""
    await meshhook_database.create_queue("payments")
    meshhook_database.encryption = make_key_ring("k1")
    await meshhook_database.enqueue("payments", {"card": "4111"})
    for keys in (None, make_key_ring("k1"), make_key_ring("k2", "k3")):
        meshhook_database.encryption = keys
        [job] = await meshhook_database.all_enqueued("payments")
        assert job.is_encrypted
        assert job.payload.keys() == {"enc"}


def test_keys_are_new_each_time() -> None:
    """No two rings have the same key; the ids are those that were asked for."""
    assert make_key_ring().key_ids == ("test",)
    assert make_key_ring("k2", "k1").key_ids == ("k2", "k1")
    assert make_key_ring().first != make_key_ring().first

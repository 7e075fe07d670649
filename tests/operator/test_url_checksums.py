"""Checksums of database URLs: the same in every version, and computed in good order."""

from __future__ import annotations

import asyncio
import threading

from meshhook_operator import url_checksums
from meshhook_operator.url_checksums import UrlChecksums
from support.waiting import eventually

URL = "postgresql://me:hunter2@db.example.com/app"


async def test_it_is_the_same_in_every_version():
    """Another one would replace all workers when the operator is updated."""
    checksums = UrlChecksums()
    assert await checksums.of(URL, "shop/database").compute(is_hurried=True) == "4ea4944e"
    other = await checksums.of(URL, "shop/other").compute(is_hurried=True)
    assert other != "4ea4944e", "two Secrets with one URL do not show that they have"


def test_two_of_one_url_are_equal_before_they_are_computed():
    """A Secret is read again and again, and its URL is compared each time."""
    checksums = UrlChecksums()
    one = checksums.of(URL, "shop/database")
    assert one == checksums.of(URL, "shop/database")
    assert len({one, checksums.of(URL, "shop/database")}) == 1
    assert one != checksums.of(URL, "shop/other")
    assert one != checksums.of(URL + "2", "shop/database")
    assert one != URL
    assert "hunter2" not in repr(one)


async def test_queues_that_were_read_do_not_wait_for_others(monkeypatch):
    """Hundreds that wait for databases that cannot be reached hold up nobody else."""
    may_end = threading.Event()
    computed: list[str] = []

    def digest(url: str, _: str) -> str:
        computed.append(url)
        if url != URL:
            assert may_end.wait(60)
        return url

    monkeypatch.setattr(url_checksums, "_digest", digest)
    checksums = UrlChecksums()
    bad = [checksums.of(f"{URL}{index}", "shop/bad") for index in range(200)]
    try:
        async with asyncio.TaskGroup() as tasks:
            for each in bad:
                tasks.create_task(each.compute(is_hurried=False))
            await eventually(lambda: len(computed) == 1)
            good = checksums.of(URL, "shop/good")
            assert await asyncio.wait_for(good.compute(is_hurried=True), 60) == URL
            assert len(computed) == 1 + 1
            may_end.set()
    finally:
        may_end.set()
    assert len(computed) == len(bad) + 1
    assert await bad[0].compute(is_hurried=False) == f"{URL}0"
    assert len(computed) == len(bad) + 1, "each is computed once"

"""The table of leases that a worker holds."""

from __future__ import annotations

from meshhook.worker.leases import LeaseTable


def test_a_lease_is_due_by_its_age() -> None:
    """A lease is due when it was claimed, or last extended, long enough ago."""
    table = LeaseTable()
    table.add([(1, 1), (2, 1)], claimed_at=0)
    assert table.due(now=9, age_seconds=10) == {}
    assert table.due(now=10, age_seconds=10) == {1: 1, 2: 1}
    table.extended({1: 1}, extended_at=10)
    assert table.due(now=15, age_seconds=10) == {2: 1}


def test_a_limited_lease_is_not_extended_for_ever() -> None:
    """After its limit a lease is left to run out."""
    table = LeaseTable()
    table.add([(1, 1)], claimed_at=0)
    table.limit(1, until=20)
    assert table.due(now=19, age_seconds=10) == {1: 1}
    assert table.due(now=20, age_seconds=10) == {}


def test_only_the_same_attempt_is_forgotten() -> None:
    """What is settled late does not take the lease of a newer attempt along."""
    table = LeaseTable()
    table.add([(1, 1)], claimed_at=0)
    table.add([(1, 2)], claimed_at=5)
    table.discard([(1, 1)])
    table.extended({1: 1}, extended_at=100)
    assert table.due(1e9, 0.0) == {1: 2}
    assert table.due(now=15, age_seconds=10) == {1: 2}
    table.discard([(1, 2)])
    assert len(table) == 0

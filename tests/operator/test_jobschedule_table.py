"""What the watch and the listings report of JobSchedules, whatever comes first."""

from __future__ import annotations

from meshhook_operator.api.jobqueue import ObjectKey
from meshhook_operator.reconciliation.jobschedules import JobScheduleTable
from meshhook_operator.reconciliation.schedule_findings import MAX_DECLARED, judged
from support.declared_jobschedules import KEY, NIGHTLY
from support.jobschedules import jobschedule


def test_a_listing_finds_what_the_watch_missed() -> None:
    """Those that are not in it are gone, but not those that came while it was made."""
    table = JobScheduleTable(on_change=lambda _: None)
    table.update(jobschedule("old"))
    known = table.uids()
    table.update(jobschedule("new", second=7))
    table.list_all([jobschedule("missed", second=8)], known)
    assert {each.key.name for each in table} == {"new", "missed"}


def test_a_deletion_that_is_reported_late_is_that_of_the_old_one() -> None:
    """One that was created again under the name stays, as does the history of its schedule."""
    changed: list[ObjectKey] = []
    table = JobScheduleTable(on_change=changed.append)
    table.update(jobschedule(second=5))
    table.update(jobschedule(second=7))
    changed.clear()
    table.remove(NIGHTLY, "nightly-5")
    assert [each.uid for each in table.of_jobqueue(KEY)] == ["nightly-7"]
    assert changed == []
    table.remove(NIGHTLY, "nightly-7")
    assert list(table) == []
    assert changed == [KEY]


def test_what_the_watch_reports_during_a_listing_is_newer() -> None:
    """A listing that takes long has versions of before, and those that are gone."""
    table = JobScheduleTable(on_change=lambda _: None)
    known = table.uids()
    table.update(jobschedule(generation=2))
    table.update(jobschedule("again", second=7))
    table.list_all([jobschedule(), jobschedule("again", second=6)], known)
    assert {(each.uid, each.generation) for each in table} == {("nightly-5", 2), ("again-7", 1)}


def test_one_that_moves_to_another_jobqueue_is_told_to_both() -> None:
    """The one that it had deletes its schedule, and the other one stores it."""
    changed: list[ObjectKey] = []
    table = JobScheduleTable(on_change=changed.append)
    table.update(jobschedule())
    changed.clear()
    table.update(jobschedule(generation=2, jobQueueRef={"name": "others"}))
    others = ObjectKey("shop", "others")
    assert set(changed) == {KEY, others}
    assert table.of_jobqueue(KEY) == []
    assert [each.key for each in table.of_jobqueue(others)] == [NIGHTLY]


def test_a_queue_has_a_thousand_at_most() -> None:
    """The oldest ones; what those declare twice counts once."""
    older = [jobschedule(f"s{number}") for number in range(MAX_DECLARED)]
    again = jobschedule("again", scheduleName="s7", second=6)
    younger = [jobschedule(f"t{number}", second=7) for number in range(3)]
    found = [finding and finding.reason for _, finding in judged([*older, again, *younger])]
    assert found == [*[None] * MAX_DECLARED, "Conflict", *["TooMany"] * 3]


def test_a_status_is_noted_for_its_version_only() -> None:
    """A version that came while a status was written has its own."""
    table = JobScheduleTable(on_change=lambda _: None)
    first = jobschedule()
    table.update(first)
    second = jobschedule(generation=2)
    table.update(second)
    table.note_status(first, first.status)
    assert [each.generation for each in table] == [2]

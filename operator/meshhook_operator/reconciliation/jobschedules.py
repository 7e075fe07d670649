"""All JobSchedules, by name and by the JobQueue that they refer to."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from meshhook_operator.api.jobqueue import ObjectKey
    from meshhook_operator.api.jobschedule import JobSchedule
    from meshhook_operator.api.schedule_spec import JobScheduleStatus


class JobScheduleTable:
    """What the watch and the listings report of JobSchedules. It outlives the terms."""

    def __init__(
        self,
        *,
        on_change: Callable[[ObjectKey], None],
        has_jobqueue: Callable[[ObjectKey], bool] = lambda _: True,
    ) -> None:
        """Take what it works with.

        Args:
            on_change: called with the name of each JobQueue whose schedules have changed.
            has_jobqueue: whether there is a JobQueue of a name. Default: there are all.
        """
        self._on_change = on_change
        self._has_jobqueue = has_jobqueue
        self._by_key: dict[ObjectKey, JobSchedule] = {}
        self._of_jobqueue: defaultdict[ObjectKey | None, set[ObjectKey]] = defaultdict(set)
        self.is_listed = False
        """Whether all of them are known. Until then, none may be taken for deleted."""

    def __iter__(self) -> Iterator[JobSchedule]:
        """Yield all of them."""
        return iter(self._by_key.values())

    def of_jobqueue(self, key: ObjectKey) -> Sequence[JobSchedule]:
        """Return those of a JobQueue, the oldest first."""
        all_of_it = (self._by_key[each] for each in self._of_jobqueue.get(key, ()))
        found = (each for each in all_of_it if not each.is_deleting)
        return sorted(found, key=lambda each: (each.created_at, each.uid))

    def refers_to_none(self, key: ObjectKey) -> bool:
        """Whether there is such a JobSchedule, and its JobQueue is not there: maybe not yet."""
        found = self._by_key.get(key)
        if found is None or found.is_deleting:
            return False
        return found.jobqueue_key is None or not self._has_jobqueue(found.jobqueue_key)

    def update(self, jobschedule: JobSchedule) -> None:
        """Take a new JobSchedule, or a newer version of one."""
        before = self._take_out(jobschedule.key)
        self._by_key[jobschedule.key] = jobschedule
        self._of_jobqueue[jobschedule.jobqueue_key].add(jobschedule.key)
        if before is not None and _declares(before) == _declares(jobschedule):
            return
        for each in {jobschedule.jobqueue_key, before.jobqueue_key if before else None}:
            if each is not None:
                self._on_change(each)

    def remove(self, key: ObjectKey, uid: str | None = None) -> None:
        """Forget one that was deleted.

        Args:
            key: its name.
            uid: its uid; another one that has the name by now stays. Default: whichever has it.
        """
        if uid is not None and key in self._by_key and self._by_key[key].uid != uid:
            return
        before = self._take_out(key)
        if before is not None and before.jobqueue_key is not None:
            self._on_change(before.jobqueue_key)

    def _take_out(self, key: ObjectKey) -> JobSchedule | None:
        found = self._by_key.pop(key, None)
        if found is not None:
            of_same = self._of_jobqueue[found.jobqueue_key]
            of_same.discard(key)
            if not of_same:
                del self._of_jobqueue[found.jobqueue_key]
        return found

    def uids(self) -> dict[ObjectKey, str]:
        """Return the uid of each, by name: what to compare a listing with that begins now."""
        return {key: each.uid for key, each in self._by_key.items()}

    def list_all(self, found: Collection[JobSchedule], known: dict[ObjectKey, str]) -> None:
        """Take all that there are; those known before the listing that are not in it are gone.

        What the watch has reported since the listing began is newer, and stays.

        Args:
            found: the listing.
            known: what `uids` returned when it began.
        """
        gone = known.keys() - {each.key for each in found}
        for jobschedule in found:
            was, now = known.get(jobschedule.key), self._by_key.get(jobschedule.key)
            if was != jobschedule.uid and was == (now and now.uid):
                self.update(jobschedule)
        for key in gone:
            self.remove(key, known[key])
        if not self.is_listed:
            self.is_listed = True
            for jobqueue_key in {each.jobqueue_key for each in self}:
                if jobqueue_key is not None:
                    self._on_change(jobqueue_key)

    def note_status(self, jobschedule: JobSchedule, status: JobScheduleStatus) -> None:
        """Note what was written to the status of a version, unless there is a newer one."""
        if self._by_key.get(jobschedule.key) is jobschedule:
            self._by_key[jobschedule.key] = jobschedule.with_status(status)


def _declares(jobschedule: JobSchedule) -> tuple[object, ...]:
    return (jobschedule.uid, jobschedule.generation, jobschedule.is_deleting)

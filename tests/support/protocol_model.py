"""What the protocol of a queue promises, as plain data: what PostgreSQL is held against.

An id may come again. A message is known by its `Key`: its id, and when it was enqueued. A lease is
a key and the message's `read_ct` when it was claimed.
"""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from meshhook.outcomes import AttemptOutcome

if TYPE_CHECKING:
    from collections.abc import Iterable

Key: TypeAlias = tuple[int, float]
"""A msg_id, and when it was enqueued, in seconds since 1970."""

_FINAL = {
    AttemptOutcome.SUCCEEDED,
    AttemptOutcome.DEAD_LETTERED,
    AttemptOutcome.CANCELLED,
    AttemptOutcome.ARCHIVED,
    AttemptOutcome.EXPIRED,
}
_SPENDS_NO_ATTEMPT = {AttemptOutcome.SNOOZED, AttemptOutcome.REPLAYED}


class ProtocolViolation(AssertionError):  # noqa: N818 - what the model is there to find
    """The database did what the protocol rules out."""


class Lease(NamedTuple):
    """What a worker shows for its right to a message."""

    key: Key
    read_ct: int


class Entry(NamedTuple):
    """One row of the history."""

    key: Key
    run_id: str
    outcome: AttemptOutcome
    worker: str | None


class Row(NamedTuple):
    """One row of the history as it was found, with the number of its attempt."""

    entry: Entry
    attempt: int


@dataclass(frozen=True, slots=True)
class Found:
    """What stands in the tables of a queue."""

    live: dict[Key, str]
    """The run of each message."""
    dead: dict[int, str]
    """The run of each dead letter."""
    archived: Counter[str]
    """How often a run stands in the archive."""
    history: list[Row]


@dataclass(slots=True)
class Message:
    """A message in the queue."""

    run_id: str
    is_due: bool = True
    """Whether a claim may take it."""
    leases: list[int] = field(default_factory=list)
    """The `read_ct` of each attempt without an outcome, oldest first: the last one holds."""


@dataclass(slots=True)
class QueueModel:
    """A queue with its dead letters, its archive and its history."""

    live: dict[Key, Message] = field(default_factory=dict)
    dead: dict[int, str] = field(default_factory=dict)
    origins: dict[int, Key] = field(default_factory=dict)
    """What each dead letter was."""
    archived: Counter[str] = field(default_factory=Counter)
    history: Counter[Entry] = field(default_factory=Counter)
    recorded: dict[int, AttemptOutcome] = field(default_factory=dict)
    """The attempts of workers whose outcome is recorded, and which."""

    def copy(self) -> QueueModel:
        """Return what a copy of the database holds."""
        return copy.deepcopy(self)

    def enqueued(self, key: Key, run_id: str) -> None:
        """Note a new message."""
        if key in self.live:
            raise ProtocolViolation(f"two messages have the key {key}")
        self.live[key] = Message(run_id)

    def claimed(self, lease: Lease, run_id: str) -> None:
        """Note a lease that a claim has handed out; refuse one that it must not hand out."""
        message = self.live.get(lease.key)
        if message is None or message.run_id != run_id:
            raise ProtocolViolation(f"{run_id} was claimed as {lease.key}, and is not that message")
        if not message.is_due:
            raise ProtocolViolation(f"{run_id} was claimed while another lease or a delay held")
        if lease.read_ct in message.leases:
            raise ProtocolViolation(f"two leases of {run_id} have the read_ct {lease.read_ct}")
        message.leases.append(lease.read_ct)
        message.is_due = False

    def expired(self, key: Key) -> None:
        """Note that a lease or a delay has run out."""
        self.live[key].is_due = True

    def holds(self, lease: Lease) -> bool:
        """Say whether a lease holds."""
        message = self.live.get(lease.key)
        return message is not None and message.leases[-1:] == [lease.read_ct]

    def check_lease(self, lease: Lease, *, held: bool, what: str) -> None:
        """Refuse an answer about a lease that is not the right one."""
        expected = self.holds(lease)
        if expected is not held:
            raise ProtocolViolation(
                f"{what} took {lease} for {'held' if held else 'lost'}, and it is the opposite"
            )

    def settled(
        self,
        lease: Lease,
        outcome: AttemptOutcome,
        *,
        attempt_id: int,
        worker: str,
        delay_seconds: float = 0,
    ) -> None:
        """Note that an outcome was recorded."""
        message = self.live[lease.key]
        self.history[Entry(lease.key, message.run_id, outcome, worker)] += 1
        self.recorded[attempt_id] = outcome
        if outcome in _FINAL:
            del self.live[lease.key]
            if outcome in {AttemptOutcome.ARCHIVED, AttemptOutcome.EXPIRED}:
                self.archived[message.run_id] += 1
        else:
            message.leases.clear()
            message.is_due = delay_seconds <= 0

    def died(self, dead_letter_id: int, run_id: str, key: Key) -> None:
        """Note the dead letter that a settlement made of a message."""
        self.dead[dead_letter_id] = run_id
        self.origins[dead_letter_id] = key

    def replayed(self, dead_letter_id: int, key: Key) -> None:
        """Note that a dead letter became a message again."""
        run_id = self.dead.pop(dead_letter_id)
        self.enqueued(key, run_id)
        origin = self.origins.pop(dead_letter_id)
        self.history[Entry(origin, run_id, AttemptOutcome.REPLAYED, None)] += 1

    def released(self, lease: Lease) -> None:
        """Note that a lease was given back."""
        message = self.live[lease.key]
        message.leases.clear()
        message.is_due = True

    def extended(self, lease: Lease) -> None:
        """Note that a lease was extended."""
        message = self.live[lease.key]
        message.is_due = False

    def read(self, key: Key, read_ct: int) -> None:
        """Note that another client has read a message: its read is a lease of nobody here."""
        message = self.live[key]
        message.leases.append(read_ct)
        message.is_due = False

    def removed(self, key: Key) -> str:
        """Note that another client has removed a message, and return its run."""
        return self.live.pop(key).run_id

    def dropped(self) -> None:
        """Note that the queue was dropped: only its history stays."""
        self.live.clear()
        self.dead.clear()
        self.origins.clear()
        self.archived.clear()

    def check(self, found: Found) -> None:
        """Refuse what stands in the database if it is not what should."""
        _same("messages", found.live, {key: each.run_id for key, each in self.live.items()})
        _same("dead letters", found.dead, self.dead)
        _same("archive", found.archived, self.archived)
        of_workers = Counter(
            row.entry for row in found.history if row.entry.outcome is not AttemptOutcome.LOST
        )
        _same("history", of_workers, self.history)
        _check_attempts(found.history)


def _same(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise ProtocolViolation(f"{what}: found {found}, expected {expected}")


def _check_attempts(rows: Iterable[Row]) -> None:
    """Refuse a history with a gap, an attempt twice, two ends, or two runs under one key."""
    lives: dict[Key, list[Row]] = defaultdict(list)
    for row in rows:
        lives[row.entry.key].append(row)
    for key, life in lives.items():
        if len({row.entry.run_id for row in life}) > 1:
            raise ProtocolViolation(f"the history of {key} is that of several runs: {life}")
        if sum(row.entry.outcome in _FINAL for row in life) > 1:
            raise ProtocolViolation(f"{key} ended more than once: {life}")
        spent = sorted(row.attempt for row in life if row.entry.outcome not in _SPENDS_NO_ATTEMPT)
        if spent != list(range(1, len(spent) + 1)):
            raise ProtocolViolation(f"the attempts of {key} are {spent}: {life}")

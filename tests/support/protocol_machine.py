"""Random histories of a queue and its workers, each step of which is held against the model."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from meshhook.outcomes import AttemptOutcome
from meshhook.store.settlements import Settlement
from support.protocol_model import Key, Lease, ProtocolViolation, QueueModel
from support.protocol_store import MAX_ATTEMPTS, Store

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from meshhook.jobs import Job

WORKERS = 3
MAX_MESSAGES = 4
"""As many messages a queue has before one more is enqueued: few, so that much befalls each."""
DRAIN_TURNS = 50
"""More turns than the few messages of a queue have attempts in all."""

_PICK = st.integers(0, 7)
"""Which of what there is; more than there is begins anew."""
_WORKER = st.integers(0, WORKERS - 1)
_BY_HANDLERS = st.sampled_from(
    [
        AttemptOutcome.SUCCEEDED,
        AttemptOutcome.RETRIED,
        AttemptOutcome.SNOOZED,
        AttemptOutcome.DEAD_LETTERED,
        AttemptOutcome.DEAD_LETTERED,
        AttemptOutcome.CANCELLED,
        AttemptOutcome.ARCHIVED,
        AttemptOutcome.EXPIRED,
    ]
)
_FATES = st.sampled_from(["answered", "answer lost", "never sent"])
"""What becomes of a statement: the worker hears of it, or it is done and the worker does not, or
it is not done and the worker does not know."""


class Disturbance(Enum):
    """What may happen to workers at any moment."""

    CRASH = "a worker dies and forgets all; another one with a name of its own takes its place"
    READ = "another client of PGMQ reads"
    ARCHIVE = "another client of PGMQ archives a message, whoever holds it"
    DELETE = "another client of PGMQ deletes a message, whoever holds it"
    DROP = "the queue is dropped and made anew: ids come again"
    COPY = "a replica is as far as this, and hears of nothing after it"
    DRAIN = "a worker does its work until the queue is empty, which must come to an end"


@dataclass(slots=True)
class Attempt:
    """A job that a worker runs."""

    id: int
    job: Job[Any]
    was_released: bool = False
    """Whether its lease was given back, and its handler takes no notice."""

    @property
    def lease(self) -> Lease:
        """The lease that it runs under."""
        return Lease(self.job.key, self.job.read_ct)


@dataclass(slots=True)
class Ended:
    """An attempt whose outcome waits to be recorded."""

    id: int
    settlement: Settlement
    is_uncertain: bool = False
    """Whether it may be recorded already."""
    claimed_again: Job[Any] | None = None
    """The newer lease under which it is to be recorded if it is not recorded already."""

    @property
    def lease(self) -> Lease:
        """The lease that it is to be recorded under."""
        return Lease(self.settlement.key, self.settlement.read_ct)

    def take_up(self, job: Job[Any]) -> None:
        """Record it under the newer lease with which its worker has claimed the job again."""
        if self.is_uncertain:
            self.claimed_again = job
        else:
            self.settlement = self.settlement._replace(read_ct=job.read_ct, attempt=job.attempt)


@dataclass(slots=True)
class ModelWorker:
    """What a worker process has in its memory."""

    name: str
    running: list[Attempt] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)

    @property
    def has_jobs(self) -> bool:
        """Whether it would lose anything if it died."""
        return bool(self.running or self.ended)


class ProtocolMachine(RuleBasedStateMachine):
    """Workers, other clients and administrators who do what they may, in any order."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store = store
        self.model = QueueModel()
        self.copied: QueueModel | None = None
        self.names = 0
        self.workers = [self._new_worker() for _ in range(WORKERS)]
        self.runs = 0
        self.attempts = 0
        self.completing: tuple[ModelWorker, Attempt] | None = None
        """Whose handler has settled its job in a transaction that is still open."""
        store.clear()

    # Producers

    @initialize()
    def first_jobs(self) -> None:
        """Without jobs nothing happens."""
        self.enqueue(2)

    @precondition(lambda self: len(self.model.live) < MAX_MESSAGES)
    @rule(jobs=st.integers(1, 3))
    def enqueue(self, jobs: int) -> None:
        """A producer enqueues."""
        run_ids = [f"run-{self.runs + number}" for number in range(jobs)]
        self.runs += jobs
        for key, run_id in zip(self.store.enqueue(run_ids), run_ids, strict=True):
            self.model.enqueued(key, run_id)

    # Workers

    @precondition(lambda self: self._unlocked(is_due=True))
    @rule(number=_WORKER, limit=st.integers(1, 3))
    def claim(self, number: int, limit: int) -> None:
        """A worker claims; what it still runs itself goes on under the new lease."""
        self._claim(self.workers[number], limit)

    def _claim(self, worker: ModelWorker, limit: int) -> None:
        free = self._unlocked(is_due=True)
        jobs = self.store.claim(limit)
        if free and not jobs:
            raise ProtocolViolation(f"nothing was claimed, and {free} are due")
        if len(jobs) > limit:
            raise ProtocolViolation(f"{len(jobs)} jobs were claimed where {limit} were asked for")
        for job in jobs:
            attempt = self._attempt(job)
            self.model.claimed(attempt.lease, str(job.run_id))
            self._take(worker, attempt)

    def _take(self, worker: ModelWorker, attempt: Attempt) -> None:
        job = attempt.job
        for running in worker.running:
            if running.lease.key != attempt.lease.key:
                continue
            if running.was_released:
                self._release(attempt)
            else:
                job.started_timestamp = running.job.started_timestamp
                running.job = job
            return
        if job.lost_attempts and (ended := _of_message(worker.ended, attempt.lease.key)):
            ended.take_up(job)
        elif job.attempt > MAX_ATTEMPTS and job.lost_attempts:
            settlement = _settlement(job, AttemptOutcome.DEAD_LETTERED)._replace(
                started_at=None, error_type="LeaseLost"
            )
            worker.ended.append(Ended(attempt.id, settlement))
        else:
            worker.running.append(attempt)

    @precondition(lambda self: self._runs())
    @rule(pick=_PICK, outcome=_BY_HANDLERS)
    def end(self, pick: int, outcome: AttemptOutcome) -> None:
        """A handler ends; its outcome waits to be recorded."""
        worker, attempt = _picked(self._runs(), pick)
        worker.running.remove(attempt)
        worker.ended.append(_ended(attempt, outcome))

    @precondition(lambda self: self._waiting(is_uncertain=False))
    @rule(pick=_PICK, limit=st.integers(1, 3), fate=_FATES)
    def settle(self, pick: int, limit: int, fate: str) -> None:
        """A worker records outcomes for the first time."""
        worker, waiting = _picked(self._waiting(is_uncertain=False), pick)
        batch = waiting[:limit]
        if fate != "never sent":
            self._settle(worker, batch)
        for each in batch:
            each.is_uncertain = fate != "answered"
            if not each.is_uncertain:
                worker.ended.remove(each)

    @precondition(lambda self: self._waiting(is_uncertain=True))
    @rule(pick=_PICK, limit=st.integers(1, 3), fate=_FATES)
    def settle_again(self, pick: int, limit: int, fate: str) -> None:
        """A worker that does not know what was recorded looks, and records the rest."""
        worker, waiting = _picked(self._waiting(is_uncertain=True), pick)
        batch = waiting[:limit]
        recorded = self._find_settled(worker, batch)
        rest = [each for each in batch if each.id not in recorded]
        if rest and fate != "never sent":
            recorded |= self._settle(worker, rest)
        if fate != "answered":
            return
        recorded |= self._find_settled(worker, batch)
        for each in batch:
            if each.id in self.model.recorded and each.id not in recorded:
                raise ProtocolViolation(f"{worker.name} takes {each} for lost; it is recorded")
            if each.claimed_again is None or each.id in recorded:
                worker.ended.remove(each)
            else:
                job, each.claimed_again, each.is_uncertain = each.claimed_again, None, False
                each.take_up(job)

    @precondition(lambda self: self.completing is None and self._runs(released_too=True))
    @rule(pick=_PICK)
    def begin_completion(self, pick: int) -> None:
        """A handler settles its job in a transaction of its own, which stays open."""
        worker, attempt = _picked(self._runs(released_too=True), pick)
        worker.running.remove(attempt)
        settlement = _settlement(attempt.job, AttemptOutcome.SUCCEEDED)
        held = self.store.begin_completion(worker.name, settlement)
        self.model.check_lease(attempt.lease, held=held, what="complete")
        if held:
            self.completing = worker, attempt
            return
        self.store.end_completion(commit=False)
        if not attempt.was_released:
            worker.ended.append(_ended(attempt, AttemptOutcome.RETRIED))

    @precondition(lambda self: self.completing is not None)
    @rule(commit=st.booleans())
    def end_completion(self, commit: bool) -> None:
        """That transaction ends; what follows holds only if it was rolled back."""
        assert self.completing is not None
        (worker, attempt), self.completing = self.completing, None
        self.store.end_completion(commit=commit)
        if commit:
            self.model.settled(
                attempt.lease,
                AttemptOutcome.SUCCEEDED,
                attempt_id=attempt.id,
                worker=worker.name,
            )
        if not attempt.was_released:
            worker.ended.append(_ended(attempt, AttemptOutcome.RETRIED))

    @precondition(lambda self: self._runs())
    @rule(pick=_PICK, stops=st.booleans())
    def extend(self, pick: int, stops: bool) -> None:
        """A worker extends its leases; what it has lost it stops, or the handler goes on."""
        worker, _ = _picked(self._runs(), pick)
        attempts = _first_of_each_message([each for w, each in self._runs() if w is worker])
        answers = self.store.extend([each.job for each in attempts])
        for attempt, held in zip(attempts, answers, strict=True):
            self.model.check_lease(attempt.lease, held=held, what="extend")
            if held and attempt.lease.key != self.locked:
                self.model.extended(attempt.lease)
            elif not held and stops:
                worker.running.remove(attempt)

    @precondition(lambda self: self._runs())
    @rule(pick=_PICK, is_sent=st.booleans(), goes_on=st.booleans())
    def release(self, pick: int, is_sent: bool, goes_on: bool) -> None:
        """A worker that stops gives a lease back; its handler may go on all the same."""
        worker, attempt = _picked(self._runs(), pick)
        if attempt.lease.key == self.locked:
            return
        if is_sent:
            self._release(attempt)
        attempt.was_released = True
        if not goes_on:
            worker.running.remove(attempt)

    # Time, other clients, and administrators

    @precondition(lambda self: self._unlocked(is_due=False))
    @rule(pick=_PICK)
    def expire(self, pick: int) -> None:
        """A lease or a delay runs out."""
        key = _picked(self._unlocked(is_due=False), pick)
        self.store.expire(key[0])
        self.model.expired(key)

    @precondition(lambda self: self.model.dead)
    @rule(pick=_PICK, more=st.booleans())
    def replay(self, pick: int, more: bool) -> None:
        """Somebody replays dead letters."""
        ids = sorted(self.model.dead)
        chosen = ids if more else [ids[pick % len(ids)]]
        replayed = self.store.replay(chosen)
        if [each for each, _ in replayed] != chosen:
            raise ProtocolViolation(f"{chosen} were to be replayed, and {replayed} were")
        for dead_letter_id, key in replayed:
            self.model.replayed(dead_letter_id, key)

    @precondition(lambda self: any(each.has_jobs for each in self.workers))
    @rule(pick=_PICK, disturbance=st.sampled_from(Disturbance))
    def disturb(self, pick: int, disturbance: Disturbance) -> None:
        """Something happens that no worker has a hand in, while some have jobs."""
        keys = self._unlocked()
        if disturbance is Disturbance.CRASH:
            self._crash(_picked([each for each in self.workers if each.has_jobs], pick))
        elif disturbance is Disturbance.READ:
            for lease in self.store.read(1 + pick % 2):
                self.model.read(lease.key, lease.read_ct)
        elif disturbance in {Disturbance.ARCHIVE, Disturbance.DELETE} and keys:
            self._remove(_picked(keys, pick), keeps=disturbance is Disturbance.ARCHIVE)
        elif disturbance is Disturbance.DROP and self.completing is None:
            self.store.drop_and_create()
            self.model.dropped()
        elif disturbance is Disturbance.COPY and self.completing is None:
            self.store.copy()
            self.copied = self.model.copy()
        elif disturbance is Disturbance.DRAIN:
            self._drain(self._new_worker())

    @precondition(lambda self: self.completing is None and self.copied is not None)
    @rule()
    def fail_over(self) -> None:
        """The replica is promoted: all since is lost, and ids come again. Workers live on."""
        assert self.copied is not None
        self.store.restore()
        self.model, self.copied = self.copied, None

    def _new_worker(self) -> ModelWorker:
        self.names += 1
        return ModelWorker(f"w{self.names}")

    def _crash(self, worker: ModelWorker) -> None:
        if self.completing is not None and self.completing[0] is worker:
            self.completing = None
            self.store.end_completion(commit=False)
        self.workers[self.workers.index(worker)] = self._new_worker()

    def _drain(self, worker: ModelWorker) -> None:
        for _ in range(DRAIN_TURNS):
            for key in self._unlocked(is_due=False):
                self.store.expire(key[0])
                self.model.expired(key)
            if not self._unlocked():
                return
            self._claim(worker, 3)
            worker.ended += [_ended(each, AttemptOutcome.SUCCEEDED) for each in worker.running]
            self._settle(worker, worker.ended)
            worker.running.clear()
            worker.ended.clear()
        raise ProtocolViolation(f"the queue does not end: {self.model.live}")

    def _remove(self, key: Key, *, keeps: bool) -> None:
        run_id = self.model.removed(key)
        if keeps:
            self.store.archive(key[0])
            self.model.archived[run_id] += 1
        else:
            self.store.delete(key[0])

    # What must hold

    @invariant()
    def the_tables_are_what_the_model_says(self) -> None:
        """Nothing is lost, nothing is there twice, and the history is that of each job alone."""
        self.model.check(self.store.find())

    def teardown(self) -> None:
        """Leave no transaction open."""
        self.store.end_completion(commit=False)
        self.completing = None

    # Helpers

    @property
    def locked(self) -> Key | None:
        """The key of the message that an open transaction has locked, if one has."""
        return None if self.completing is None else self.completing[1].lease.key

    def _attempt(self, job: Job[Any]) -> Attempt:
        self.attempts += 1
        return Attempt(self.attempts, job)

    def _unlocked(self, *, is_due: bool | None = None) -> list[Key]:
        """Return the keys of the messages that no open transaction has locked."""
        return [
            key
            for key, each in self.model.live.items()
            if key != self.locked and is_due in {None, each.is_due}
        ]

    def _release(self, attempt: Attempt) -> None:
        held = self.store.release(attempt.job)
        self.model.check_lease(attempt.lease, held=held, what="release")
        if held:
            self.model.released(attempt.lease)

    def _runs(self, *, released_too: bool = False) -> list[tuple[ModelWorker, Attempt]]:
        """Return what runs, and where."""
        return [
            (worker, attempt)
            for worker in self.workers
            for attempt in worker.running
            if released_too or not attempt.was_released
        ]

    def _waiting(self, *, is_uncertain: bool) -> list[tuple[ModelWorker, list[Ended]]]:
        """Return what each worker could record in one statement; what is locked would wait."""
        waiting = []
        for worker in self.workers:
            ended = _first_of_each_message(worker.ended)
            batch = [
                each
                for each in ended
                if each.is_uncertain is is_uncertain and each.lease.key != self.locked
            ]
            if batch:
                waiting.append((worker, batch))
        return waiting

    def _settle(self, worker: ModelWorker, batch: Sequence[Ended]) -> set[int]:
        """Settle, note what was recorded, and return the ids of these."""
        positions = self.store.settle(worker.name, [each.settlement for each in batch])
        for position, each in enumerate(batch):
            self.model.check_lease(each.lease, held=position in positions, what="settle")
        died = []
        for each in (batch[position] for position in sorted(positions)):
            run_id = self.model.live[each.lease.key].run_id
            if each.settlement.outcome is AttemptOutcome.DEAD_LETTERED:
                died.append((run_id, each.lease.key))
            self.model.settled(
                each.lease,
                each.settlement.outcome,
                attempt_id=each.id,
                worker=worker.name,
                delay_seconds=each.settlement.delay_seconds,
            )
        if died:
            self._note_dead(died)
        return {batch[position].id for position in positions}

    def _note_dead(self, died: list[tuple[str, Any]]) -> None:
        new = sorted(set(self.store.find().dead) - set(self.model.dead))
        if len(new) != len(died):
            raise ProtocolViolation(f"{died} became the dead letters {new}")
        for dead_letter_id, (run_id, key) in zip(new, died, strict=True):
            self.model.died(dead_letter_id, run_id, key)

    def _find_settled(self, worker: ModelWorker, batch: Sequence[Ended]) -> set[int]:
        """Look what is recorded already, and return the ids of these."""
        found = self.store.find_settled(worker.name, [each.settlement for each in batch])
        for position, outcome in found.items():
            recorded = self.model.recorded.get(batch[position].id)
            if recorded is not outcome:
                raise ProtocolViolation(
                    f"{worker.name} takes {batch[position]} for {outcome}, and it is {recorded}"
                )
        return {batch[position].id for position in found}


_Item = TypeVar("_Item")
_OfMessage = TypeVar("_OfMessage", Attempt, Ended)


def _picked(items: Sequence[_Item], pick: int) -> _Item:
    return items[pick % len(items)]


def _of_message(items: Iterable[_OfMessage], key: Key) -> _OfMessage | None:
    return next((each for each in items if each.lease.key == key), None)


def _first_of_each_message(items: Iterable[_OfMessage]) -> list[_OfMessage]:
    first: dict[int, _OfMessage] = {}
    for each in items:
        first.setdefault(each.lease.key[0], each)
    return list(first.values())


def _ended(attempt: Attempt, outcome: AttemptOutcome) -> Ended:
    if outcome is AttemptOutcome.RETRIED and attempt.job.attempt >= MAX_ATTEMPTS:
        outcome = AttemptOutcome.DEAD_LETTERED
    return Ended(attempt.id, _settlement(attempt.job, outcome))


def _settlement(job: Job[Any], outcome: AttemptOutcome) -> Settlement:
    return Settlement(
        msg_id=job.msg_id,
        read_ct=job.read_ct,
        enqueued=job.enqueued_timestamp,
        attempt=job.attempt,
        outcome=outcome,
        started_at=job.started_timestamp,
        finished_at=job.started_timestamp + 0.001,
        run_id=job.run_id,
        workflow_id=job.workflow_id,
        project_id=job.project_id,
    )

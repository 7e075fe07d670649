"""Slots that several queues share, event by event."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from meshhook.worker.slot_shares import Share, SharedSlots


class Queue:
    """A runner in miniature: jobs that wait, jobs that run."""

    def __init__(self, share: Share) -> None:
        self.share = share
        self.wanted_slots = 0
        self.taken_slots = 0
        share.user = self

    @property
    def waits_for_slots(self) -> bool:
        """Whether jobs wait."""
        return self.wanted_slots > 0

    def put(self, jobs: int) -> None:
        """Take jobs, and start those that may."""
        self.wanted_slots += jobs
        self.look_again()

    def look_again(self) -> None:
        """Start what may start now."""
        while self.wanted_slots and self.share.may_start:
            self.wanted_slots -= 1
            self.taken_slots += 1

    def end(self) -> None:
        """Let a job end."""
        if self.taken_slots:
            self.taken_slots -= 1
            self.look_again()
            self.share.freed()


def make(count: int, weights: list[int]) -> tuple[SharedSlots, list[Queue]]:
    """Return slots, and a queue for each weight."""
    slots = SharedSlots(count, {str(n): weight for n, weight in enumerate(weights)})
    return slots, [Queue(share) for share in slots.shares.values()]


EVENTS = st.lists(
    st.tuples(st.sampled_from(["put", "end", "wants more", "wants no more"]), st.integers(0, 3)),
    max_size=60,
)
WEIGHTS = st.lists(st.integers(1, 10), min_size=2, max_size=4)


# The second queue's part is one slot, and nobody wants the one that the third queue leaves but it.
NOBODY_ELSE = [("put", 0), ("put", 1), *(("wants no more", number) for number in range(3))]


@given(st.integers(4, 12), WEIGHTS, EVENTS)
@example(4, [1, 1, 1], NOBODY_ELSE)
def test_slots_are_never_taken_twice_and_never_idle_in_vain(
    count: int, weights: list[int], events: list[tuple[str, int]]
) -> None:
    """Whatever happens: at most all are taken, and all that may be used are.

    A slot stays free beside a waiting job only for a queue that looks for more at this moment.
    """
    slots, queues = make(count, weights)
    for event, number in events:
        queue = queues[number % len(queues)]
        if event == "put":
            queue.put(3)
        elif event == "end":
            queue.end()
        else:
            queue.share.wants_more = event == "wants more"
        assert sum(each.taken_slots for each in queues) <= count
        if slots.free and any(each.wanted_slots for each in queues):
            assert any(each.share.wants_more for each in queues)
        # Whoever has less than its part and a job for it is kept waiting by nobody but time.
        for each in queues:
            assert not (each.wanted_slots and slots.free and each.taken_slots < each.share.part)


@given(st.integers(4, 12), WEIGHTS)
def test_shares_come_about_as_slots_come_free(count: int, weights: list[int]) -> None:
    """From one queue that has taken all, each other gets its part, a slot at a time."""
    _, queues = make(count, weights)
    first, *others = queues
    for each in others:
        each.share.wants_more = False
    first.put(1_000)
    assert first.taken_slots == count
    for each in others:
        each.share.wants_more = True
        each.put(1_000)
    assert first.taken_slots == count
    for _ in range(count):
        if first.taken_slots > first.share.part:
            first.end()
    assert [each.taken_slots for each in queues] == [each.share.part for each in queues]


def test_a_queue_that_finds_nothing_leaves_its_slots_at_once() -> None:
    """The other's waiting jobs start in that moment."""
    _, (one, other) = make(4, [1, 1])
    one.put(10)
    assert one.taken_slots == 2
    assert one.share.free == 0
    other.share.wants_more = False
    assert one.taken_slots == 4

"""The protocol of claims, leases and outcomes: random histories, held against a model.

docs/protocol.md says what the model checks, and how to play more.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from meshhook.store import queries
from support.protocol_machine import ProtocolMachine
from support.protocol_model import ProtocolViolation
from support.protocol_store import Store

EXAMPLES = int(os.environ.get("MESHHOOK_PROTOCOL_EXAMPLES", "0"))
"""How many random histories to play, other ones each time. Default 0: the same 150 each time."""
STEPS = 50

# Some play thousands of statements, one after the other, on a machine that does much else.
pytestmark = pytest.mark.timeout(900)

_PLAYED = settings(
    max_examples=EXAMPLES or 150,
    stateful_step_count=STEPS,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)
_UNTIL_A_FAULT = settings(
    _PLAYED, max_examples=max(EXAMPLES, 3_000), derandomize=True, phases=[Phase.generate]
)


class Fence(NamedTuple):
    """A part of some statements that keeps the protocol."""

    files: tuple[str, ...]
    pattern: str
    replacement: str = ""
    """What stands in its place where it is taken out."""


_SETTLE = ("settle", "settle_succeeded", "settle_alike")
_IDENTITY = r"and pg_catalog\.date_part\('epoch', \w\.enqueued_at\) = \w+\.enqueued"
_LEASE = r"and q\.read_ct = \w+\.read_ct"
_FENCES = {
    "identity": Fence((*_SETTLE, "extend", "release"), _IDENTITY),
    "lease": Fence(_SETTLE, _LEASE),
    "lease extended": Fence(("extend",), _LEASE),
    "lease given back": Fence(("release",), _LEASE),
    "due": Fence(
        ("claim",),
        r"and q\.vt <= least\(pg_catalog\.now\(\), \$5::pg_catalog\.timestamptz\)",
        "and $5::pg_catalog.timestamptz is null",
    ),
    "history of lost attempts": Fence(
        ("claim",),
        r"where not \(c\.mark -> 'is_recorded'::pg_catalog\.text\)::boolean\n\)",
        "where false\n)",
    ),
    "replay moves": Fence(
        ("replay_dead_letters",), r"delete from (\S+) d using", r"update \1 d set read_ct = 0 from"
    ),
}
_SELDOM_MISSED = {
    "one outcome": Fence(_SETTLE, r"and q\.read_ct <> meshhook\.settled_attempts\(q\.headers\)"),
    "found of this worker": Fence(
        ("find_settled",),
        r"and a\.worker = \$2::pg_catalog\.text",
        "and $2::pg_catalog.text is not null",
    ),
}
"""Those that only a rare history needs: it takes up to a minute to find one."""
KEYED_FENCES = {
    "due": Fence(
        ("claim_keyed",),
        r"least\(pg_catalog\.now\(\), \$5::pg_catalog\.timestamptz\) as to_vt",
        "coalesce($5::pg_catalog.timestamptz, 'infinity') as to_vt",
    ),
    "history of lost attempts": Fence(("claim_keyed",), *_FENCES["history of lost attempts"][1:]),
    # What keys with fewer jobs leave is for the others.
    "the rest": Fence(
        ("claim_keyed",),
        r"else \$3::int - \(select pg_catalog\.count\(\*\) from fair\) end",
        "else 0 end",
    ),
}
FENCES = _FENCES | (_SELDOM_MISSED if EXAMPLES else {})


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    """A queue of a database of its own."""
    store = Store(database_url)
    yield store
    store.close()


@pytest.fixture
def keyed_store(database_url: str) -> Iterator[Store]:
    """The same of a queue whose messages have keys."""
    store = Store(database_url, keyed=True)
    yield store
    store.close()


def play(store: Store, how_long: settings) -> None:
    """Play random histories; the first one that breaks the protocol is an error."""

    class OnStore(ProtocolMachine):
        def __init__(self) -> None:
            super().__init__(store)

    run_state_machine_as_test(OnStore, settings=how_long)


def test_no_history_breaks_the_protocol(store: Store) -> None:
    """Whatever workers, other clients and administrators do, the tables are what the model says."""
    play(store, _PLAYED)


def test_no_history_of_a_keyed_queue_breaks_the_protocol(keyed_store: Store) -> None:
    """Fair claims lease as others do, and leave nothing that is due."""
    play(keyed_store, _PLAYED)


@pytest.mark.parametrize("name", FENCES)
def test_a_fence_that_is_taken_out_is_missed(
    store: Store, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """As soon as the statements lack it, the model finds a history that breaks the protocol."""
    miss(store, monkeypatch, FENCES[name])


@pytest.mark.parametrize("name", KEYED_FENCES)
def test_a_fence_of_keyed_claims_that_is_taken_out_is_missed(
    keyed_store: Store, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The same where messages have keys."""
    miss(keyed_store, monkeypatch, KEYED_FENCES[name])


def miss(store: Store, monkeypatch: pytest.MonkeyPatch, fence: Fence) -> None:
    """Take a fence out of the statements, and play until it is missed."""
    load = queries.load

    def load_without(file: str, *arguments: Any, **options: Any) -> str:
        text = load(file, *arguments, **options)
        if file not in fence.files:
            return text
        text, count = re.subn(fence.pattern, fence.replacement, text)
        assert count, f"sql/{file}.sql does not have {fence.pattern}"
        return text

    monkeypatch.setattr(queries, "load", load_without)
    with pytest.raises(ProtocolViolation):
        play(store, _UNTIL_A_FAULT)

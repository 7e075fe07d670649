"""The retry strategy: bounds that hold for every setting and every attempt."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshhook import RetryInfo, RetryStrategy
from meshhook.errors import InvalidSettingError
from meshhook.retry import MAX_ATTEMPTS, MAX_BACKOFF_MS

FRACTIONS = st.floats(0, 1, exclude_max=True)
ATTEMPTS = st.integers(1, 10_000)


@st.composite
def strategies(draw: st.DrawFn, jitter: st.SearchStrategy[float] | None = None) -> RetryStrategy:
    """Any valid strategy."""
    base = draw(st.integers(0, MAX_BACKOFF_MS))
    fraction = draw(FRACTIONS)
    return RetryStrategy(
        base_delay_ms=base,
        max_delay_ms=draw(st.integers(base, MAX_BACKOFF_MS)),
        max_attempts=draw(st.integers(1, MAX_ATTEMPTS)),
        jitter=draw(st.floats(0, 1) if jitter is None else jitter),
        random_fraction=lambda: fraction,
    )


def without_jitter(strategy: RetryStrategy, attempt: int) -> int:
    """Return the ceiling after an attempt."""
    return RetryStrategy(
        strategy.base_delay_ms, strategy.max_delay_ms, strategy.max_attempts, jitter=0
    ).get_next_delay(attempt)


def test_the_defaults() -> None:
    """A second, doubled up to five minutes, five attempts, half of it random."""
    assert RetryStrategy().get_config() == {
        "base_delay_ms": 1_000,
        "max_delay_ms": 300_000,
        "max_attempts": 5,
        "jitter": 0.5,
        "backoff": "exponential",
        "delays_ms": (),
    }
    assert RetryStrategy().get_all_retry_delays() == [1_000, 2_000, 4_000, 8_000]


@given(strategies(), ATTEMPTS)
def test_a_delay_is_never_above_the_maximum(strategy: RetryStrategy, attempt: int) -> None:
    """No delay is negative or longer than max_delay_ms, at any attempt."""
    assert 0 <= strategy.get_next_delay(attempt) <= strategy.max_delay_ms


@given(strategies(), ATTEMPTS)
def test_the_jitter_stays_in_its_share(strategy: RetryStrategy, attempt: int) -> None:
    """A delay lies in the top `jitter` share of its ceiling."""
    ceiling = without_jitter(strategy, attempt)
    low = ceiling * (1 - strategy.jitter)
    assert math.floor(low - 0.5) <= strategy.get_next_delay(attempt) <= ceiling


@given(strategies(jitter=st.just(0.0)), ATTEMPTS)
def test_ceilings_never_fall(strategy: RetryStrategy, attempt: int) -> None:
    """A later attempt waits as long or longer, and at most twice as long."""
    now, later = strategy.get_next_delay(attempt), strategy.get_next_delay(attempt + 1)
    assert now <= later <= 2 * now


@given(strategies(jitter=st.just(0.0)), st.integers(1, 60))
def test_ceilings_double_exactly(strategy: RetryStrategy, attempt: int) -> None:
    """The ceiling is base * 2**(n - 1), in whole milliseconds, up to the maximum."""
    expected = min(strategy.base_delay_ms * 2 ** (attempt - 1), strategy.max_delay_ms)
    assert strategy.get_next_delay(attempt) == expected


@given(strategies(), ATTEMPTS)
def test_a_job_is_retried_or_dead(strategy: RetryStrategy, attempt: int) -> None:
    """After each failed attempt exactly one of the two holds."""
    can_retry = attempt < strategy.max_attempts
    assert strategy.can_retry(attempt) is can_retry
    assert strategy.should_move_to_dead_letter(attempt) is not can_retry


@given(strategies(), ATTEMPTS)
def test_the_info_agrees_with_the_rest(strategy: RetryStrategy, attempt: int) -> None:
    """The info says what the other methods say, without jitter."""
    can_retry = strategy.can_retry(attempt)
    delay_ms = without_jitter(strategy, attempt) if can_retry else None
    info = strategy.get_retry_info(attempt)
    assert info == RetryInfo(
        attempt=attempt,
        max_attempts=strategy.max_attempts,
        remaining_attempts=max(0, strategy.max_attempts - attempt),
        can_retry=can_retry,
        should_move_to_dead_letter=strategy.should_move_to_dead_letter(attempt),
        delay_ms=delay_ms,
        delay_seconds=None if delay_ms is None else delay_ms / 1000,
    )
    assert info.next_delay_ms == info.delay_ms


@given(strategies())
def test_all_delays_are_one_fewer_than_attempts(strategy: RetryStrategy) -> None:
    """A job that always fails waits after each attempt but the last."""
    delays = strategy.get_all_retry_delays()
    assert len(delays) == strategy.max_attempts - 1
    assert delays == [without_jitter(strategy, n) for n in range(1, strategy.max_attempts)]


@given(strategies(), ATTEMPTS)
def test_seconds_are_milliseconds_by_a_thousand(strategy: RetryStrategy, attempt: int) -> None:
    """Both units give one delay."""
    assert strategy.get_delay_seconds(attempt) == strategy.get_next_delay(attempt) / 1000


@given(strategies())
def test_the_config_makes_an_equal_strategy(strategy: RetryStrategy) -> None:
    """What get_config returns can be given to the constructor."""
    same = RetryStrategy(**strategy.get_config(), random_fraction=strategy.random_fraction)
    assert same == strategy


def test_random_delays_differ() -> None:
    """By default two jobs that fail together do not come back together."""
    strategy = RetryStrategy(base_delay_ms=MAX_BACKOFF_MS, max_delay_ms=MAX_BACKOFF_MS)
    assert len({strategy.get_next_delay(1) for _ in range(10)}) > 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("base_delay_ms", -1),
        ("base_delay_ms", MAX_BACKOFF_MS + 1),
        ("base_delay_ms", 1.5),
        ("base_delay_ms", True),
        ("base_delay_ms", None),
        ("max_delay_ms", 999),
        ("max_delay_ms", MAX_BACKOFF_MS + 1),
        ("max_delay_ms", "9000"),
        ("max_attempts", 0),
        ("max_attempts", MAX_ATTEMPTS + 1),
        ("max_attempts", 2.0),
        ("jitter", -0.1),
        ("jitter", 1.1),
        ("jitter", math.nan),
        ("jitter", "0.5"),
        ("jitter", True),
    ],
)
def test_a_field_out_of_range_is_named(field: str, value: Any) -> None:
    """The error has the field, the value received and the range."""
    with pytest.raises(InvalidSettingError, match=rf"{field} is .* from .* to .*, got {value!r}"):
        RetryStrategy(**{field: value})


@pytest.mark.parametrize("attempt", [0, -1, 1.0, True, None, "1"])
@pytest.mark.parametrize(
    "method",
    [
        "can_retry",
        "should_move_to_dead_letter",
        "get_next_delay",
        "get_delay_seconds",
        "get_retry_info",
    ],
)
def test_attempts_count_from_one(method: str, attempt: Any) -> None:
    """Whatever is no attempt is refused by every method."""
    with pytest.raises(InvalidSettingError, match="attempt is a whole number from 1, got"):
        getattr(RetryStrategy(), method)(attempt)

"""The settings of a queue: the same rules in the library and in the database."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any, TypeAlias, get_args

import annotated_types
import asyncpg
import pytest
from pydantic.fields import FieldInfo

from meshhook import QueueConfig, get_queue_config, set_queue_config
from meshhook.errors import InvalidSettingError
from meshhook.queue_config import KEY_SETTING_NAMES, SETTING_NAMES, QueueSettings, changed_settings

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CURRENT = QueueConfig(queue="jobs", created_at=NOW, updated_at=NOW)


def bounds(field: FieldInfo) -> tuple[float | None, float | None, float | None]:
    """Return the lowest value, the value that is just not allowed, and the highest."""
    metadata = list(field.metadata)
    for part in get_args(field.annotation):
        metadata += getattr(part, "__metadata__", ())
    for item in list(metadata):
        metadata += getattr(item, "metadata", ())
    low = next((item.ge for item in metadata if isinstance(item, annotated_types.Ge)), None)
    above = next((item.gt for item in metadata if isinstance(item, annotated_types.Gt)), None)
    high = next((item.le for item in metadata if isinstance(item, annotated_types.Le)), None)
    return low, above, high  # type: ignore[return-value]


NUMBERS = {
    name: bounds(field)
    for name, field in QueueSettings.model_fields.items()
    if bounds(field)[2] is not None and name not in ("retry_delays_ms", "priority_target_seconds")
}


def test_every_number_has_a_range() -> None:
    """Only the switches, the path, the ids and the targets have none."""
    assert set(SETTING_NAMES) - set(NUMBERS) == {
        "dlq_enabled",
        "paused",
        "keyed",
        "key_path",
        "ordered",
        "on_dead_letter",
        "results",
        "encryption",
        "lookup_by",
        "dead_letter_follow_up",
        "on_expiry",
        "retry_backoff",
        "retry_delays_ms",
        "prioritized",
        "priority_target_seconds",
    }


async def test_a_new_queue_has_the_defaults_of_the_library(
    connection: Connection, queue_name: str
) -> None:
    """The defaults of the table and of the model are one."""
    row = await connection.fetchrow("select * from meshhook.queue_config")
    config = QueueConfig(**dict(row or {}))
    assert config.queue == queue_name
    assert {name: getattr(config, name) for name in SETTING_NAMES} == QueueSettings().model_dump()


async def test_the_table_has_the_columns_of_the_model(connection: Connection) -> None:
    """Neither side has a setting that the other lacks.

    What claims note in the row is no setting, nor is the old name of the column `queue`; what
    stands in another table has no column.
    """
    rows = await connection.fetch(
        "select column_name, is_nullable = 'YES' as is_nullable from information_schema.columns "
        "where table_schema = 'meshhook' and table_name = 'queue_config'"
    )
    columns = {row["column_name"] for row in rows} - {"adopted_msg_id", "queue_name"}
    assert columns == set(QueueConfig.model_fields) - {"has_key_limits"}
    nullable = {row["column_name"] for row in rows if row["is_nullable"]}
    assert nullable == {
        name
        for name, field in QueueSettings.model_fields.items()
        if type(None) in get_args(field.annotation)
    }


@pytest.mark.parametrize("name", NUMBERS)
async def test_both_sides_have_one_range(
    connection: Connection, queue_name: str, name: str
) -> None:
    """The database takes the ends of the range of the model, and nothing beyond."""
    low, above, high = NUMBERS[name]
    lowest = low if low is not None else (above or 0) + 0.001
    too_low = above if above is not None else (low or 0) - 1
    assert high is not None
    if name in KEY_SETTING_NAMES:
        await set_queue_config(connection, queue_name, keyed=True)
        current = await get_queue_config(connection, queue_name)
    else:
        current = CURRENT
    other = {"retry_backoff_max_ms": high} if name == "retry_backoff_base_ms" else {}
    other |= {"retry_backoff_base_ms": 0} if name == "retry_backoff_max_ms" else {}
    other |= {"breaker_max_pause_seconds": high} if name == "breaker_pause_seconds" else {}
    other |= {"breaker_pause_seconds": lowest} if name == "breaker_max_pause_seconds" else {}
    for column, value in other.items():
        await connection.execute(f"update meshhook.queue_config set {column} = {value}")
    for value in (lowest, high):
        await connection.execute(f"update meshhook.queue_config set {name} = {value}")
        assert getattr(changed_settings(current, {name: value, **other}), name) == value
    for value in (too_low, high + 1):
        with pytest.raises(asyncpg.CheckViolationError):
            await connection.execute(f"update meshhook.queue_config set {name} = {value}")
        with pytest.raises(InvalidSettingError, match=name):
            changed_settings(current, {name: value, **other})


async def test_the_database_checks_that_the_base_is_at_most_the_maximum(
    connection: Connection, queue_name: str
) -> None:
    """Neither side lets the first delay be longer than the longest."""
    with pytest.raises(asyncpg.CheckViolationError, match="base_ms_at_most_max"):
        await connection.execute("update meshhook.queue_config set retry_backoff_max_ms = 999")
    with pytest.raises(
        InvalidSettingError, match=r"base_ms \(1000\) is more than .*max_ms \(999\)"
    ):
        changed_settings(CURRENT, {"retry_backoff_max_ms": 999})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"visibility_timeout_seconds": "60"}, 60),
        ({"retry_jitter": "0.25"}, 0.25),
        ({"paused": "true"}, True),
        ({"paused": "off"}, False),
        ({"job_timeout_seconds": "none"}, None),
        ({"job_timeout_seconds": " NULL "}, None),
        ({"dlq_retention_days": None}, None),
        ({"dlq_retention_days": "30"}, 30),
    ],
)
def test_values_may_be_text(changes: dict[str, Any], expected: Any) -> None:
    """A command line gives text; `none` stands for None."""
    (name,) = changes
    assert getattr(changed_settings(CURRENT, changes), name) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("visibility_timeout_seconds", "soon"),
        ("visibility_timeout_seconds", 1.5),
        ("visibility_timeout_seconds", None),
        ("visibility_timeout_seconds", "none"),
        ("retry_jitter", math.nan),
        ("retry_jitter", " nan"),
        ("job_timeout_seconds", math.inf),
        ("job_timeout_seconds", math.nan),
        ("max_payload_bytes", 10**30),
        ("paused", "maybe"),
    ],
)
def test_a_wrong_value_is_named(name: str, value: Any) -> None:
    """The error has the setting and the value received."""
    with pytest.raises(InvalidSettingError, match=f"^{name}="):
        changed_settings(CURRENT, {name: value})


def test_an_unknown_setting_lists_those_that_there_are() -> None:
    """A mistyped name is refused, with the names to choose from."""
    with pytest.raises(InvalidSettingError, match=r"'pausd'.*visibility_timeout_seconds.*paused"):
        changed_settings(CURRENT, {"pausd": True})
    with pytest.raises(InvalidSettingError, match="'queue'"):
        changed_settings(CURRENT, {"queue": "other"})


def test_a_change_leaves_the_rest() -> None:
    """What is not named stays as it is, and the current settings are not touched."""
    changed = changed_settings(CURRENT, {"max_retry_attempts": 9})
    assert changed.model_dump(exclude={"max_retry_attempts"}) == QueueSettings().model_dump(
        exclude={"max_retry_attempts"}
    )
    assert CURRENT.max_retry_attempts == 5


def test_the_retry_strategy_has_the_settings() -> None:
    """Each setting reaches its field."""
    settings = QueueSettings(
        retry_backoff_base_ms=10, retry_backoff_max_ms=40, max_retry_attempts=7, retry_jitter=1
    )
    strategy = settings.retry_strategy(lambda: 0.5)
    assert strategy.get_config() == {
        "base_delay_ms": 10,
        "max_delay_ms": 40,
        "max_attempts": 7,
        "jitter": 1.0,
        "backoff": "exponential",
        "delays_ms": (),
    }
    assert strategy.get_next_delay(3) == 20


def test_a_column_of_a_newer_version_is_no_obstacle() -> None:
    """A worker that still runs while a newer version adds a setting keeps following the rest."""
    row = CURRENT.model_dump() | {"setting_of_tomorrow": 1, "paused": True}
    assert QueueConfig(**row).paused

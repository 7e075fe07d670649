"""What settings of a queue need in its tables: indexes, and triggers of blocked keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshhook.administration.settings import get_queue_config
from meshhook.errors import InvalidSettingError
from meshhook.escaping import quoted
from meshhook.postgres.database import Database
from meshhook.queue_config import KEY_PLACE_NAMES, QueueConfig, changed_settings
from meshhook.store import queries
from meshhook.store.key_indexes import match_key_indexes
from meshhook.store.lookup_indexes import match_lookup_indexes
from meshhook.store.priority_indexes import match_priority_index
from meshhook.store.table_locks import change_tables

if TYPE_CHECKING:
    from collections.abc import Mapping


async def build_indexes(database: Database, queue: str, changes: Mapping[str, Any]) -> None:
    """Make what a change of settings needs in the tables. What it does not need is dropped later.

    Raises:
        InvalidSettingError: if the keys of a keyed queue are to be elsewhere.
    """
    if changes.keys() & set(KEY_PLACE_NAMES):
        await _build_key_indexes(database, queue, changes)
    if "lookup_by" in changes:
        await _build_lookup_indexes(database, queue, changes)
    if "prioritized" in changes:
        config = await get_queue_config(database, queue)
        if changed_settings(config, changes).prioritized:
            await match_priority_index(database, queue, prioritized=True)


async def drop_indexes(database: Database, config: QueueConfig, changes: Mapping[str, Any]) -> None:
    """Drop what the settings, which were changed, no longer need."""
    queue = config.queue
    if "on_dead_letter" in changes and config.on_dead_letter == "continue":
        await _set_block_triggers(database, queue, is_on=False)
    if changes.keys() & {"keyed", "ordered"} and not (config.keyed and config.ordered):
        await match_key_indexes(database, queue, config.keys, ordered=False)
    if "lookup_by" in changes:
        await match_lookup_indexes(database, queue, config.lookup_by)
    if "prioritized" in changes and not config.prioritized:
        await match_priority_index(database, queue, prioritized=False)


async def _build_key_indexes(database: Database, queue: str, changes: Mapping[str, Any]) -> None:
    config = await get_queue_config(database, queue)
    settings = changed_settings(config, changes)
    if not settings.keyed:
        return
    if config.keyed and config.keys != settings.keys:
        raise InvalidSettingError(
            f"key_path={quoted(settings.key_path)}: while a queue is keyed, its keys stay where "
            f"they are. Turn them off first: meshhook queue set {queue} keyed=false"
        )
    ordered = settings.ordered or config.ordered
    await match_key_indexes(database, queue, settings.keys, ordered=ordered)
    if settings.on_dead_letter == "block":
        await _set_block_triggers(database, queue, is_on=True)


async def _build_lookup_indexes(database: Database, queue: str, changes: Mapping[str, Any]) -> None:
    """Build the indexes that a change of settings needs. What it does not need is dropped later."""
    config = await get_queue_config(database, queue)
    settings = changed_settings(config, changes)
    await match_lookup_indexes(database, queue, {*config.lookup_by, *settings.lookup_by})


async def _set_block_triggers(database: Database, queue: str, *, is_on: bool) -> None:
    await change_tables(database, queue, queries.load("set_block_triggers"), queue, is_on)

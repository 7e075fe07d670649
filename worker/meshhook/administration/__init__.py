"""Administration of queues: create, drop, list, and read or change their settings."""

from meshhook.administration.purges import purge_in_chunks
from meshhook.administration.queues import create_queue, drop_queue
from meshhook.administration.setting_changes import set_queue_config
from meshhook.administration.settings import get_queue_config
from meshhook.administration.snapshots import (
    COUNT_LIMIT,
    MAX_COUNT_LIMIT,
    QueueSnapshot,
    get_queue_snapshot,
    list_queues,
    snapshot_from,
)
from meshhook.administration.tables import describe_tables

__all__ = [
    "COUNT_LIMIT",
    "MAX_COUNT_LIMIT",
    "QueueSnapshot",
    "create_queue",
    "describe_tables",
    "drop_queue",
    "get_queue_config",
    "get_queue_snapshot",
    "list_queues",
    "purge_in_chunks",
    "set_queue_config",
    "snapshot_from",
]

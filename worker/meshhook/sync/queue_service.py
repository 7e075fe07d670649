"""`SyncQueueService`: one queue, without an event loop in the calling thread."""

from __future__ import annotations

from meshhook.jobs import PayloadT
from meshhook.sync.changes import SyncQueueChanges
from meshhook.sync.producer import SyncQueueProducer


class SyncQueueService(SyncQueueProducer[PayloadT], SyncQueueChanges[PayloadT]):
    """One queue, for threads, scripts and WSGI: enqueue, cancel, find and await jobs.

    Threads may share one service, and so may processes that are forked: each opens connections of
    its own when it first needs them.
    """

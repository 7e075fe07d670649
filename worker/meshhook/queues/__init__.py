"""One queue, for producers and for programs that claim jobs without a worker."""

from meshhook.queues.service import QueueService

__all__ = ["QueueService"]

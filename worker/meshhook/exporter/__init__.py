"""The exporter of queue metrics: reads all queues periodically and exports the latest figures."""

from meshhook.exporter.queue_exporter import QueueExporter

__all__ = ["QueueExporter"]

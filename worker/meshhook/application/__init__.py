"""The short front door: an application declares its handlers, enqueues, and runs workers."""

from meshhook.application.app import App
from meshhook.application.queue_handler import QueueHandler

__all__ = ["App", "QueueHandler"]

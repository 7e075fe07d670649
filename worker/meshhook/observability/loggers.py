"""The library's loggers: events with fields, handed to the standard `logging` of the application.

An application sees them through the handlers that it has; each field is an attribute of the
record. The command line shows them as text for people or as JSON: see `logs`.
"""

from __future__ import annotations

import logging
from typing import Any

import structlog


def get_logger(name: str) -> Any:
    """Return a logger whose methods take an event and its fields.

    It does not depend on how the application has configured structlog, if it uses it at all.
    """
    return structlog.wrap_logger(
        logging.getLogger(name),
        wrapper_class=structlog.stdlib.BoundLogger,
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.render_to_log_kwargs,
        ],
        cache_logger_on_first_use=True,
    )

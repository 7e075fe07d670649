"""The library's loggers: events with fields, passed to the standard `logging` of the application.

An application sees them through its own handlers. The fields are part of the message, and each is
also an attribute of the record, as is `event`, the message without them. The command line shows
them as text or as JSON: see `logs`. Nothing here needs structlog or depends on its configuration.
"""

from __future__ import annotations

import logging
from typing import Any, Self

from meshhook.escaping import quoted, shown_sentence
from meshhook.observability.redaction import hidden

_MAX_VALUE_CHARACTERS = 500


class _Fields(dict[str, Any]):
    """The fields of a record, which are its arguments: its message is made only if it is wanted."""

    def __getitem__(self, name: str) -> str:
        """Return a field as shown in a message: short, on one line, without secrets."""
        value = hidden(name, super().__getitem__(name))
        if not isinstance(value, str):
            return quoted(value, limit=_MAX_VALUE_CHARACTERS)
        text = shown_sentence(repr(value[:_MAX_VALUE_CHARACTERS]), lines=False)
        if len(value) > _MAX_VALUE_CHARACTERS:
            text += f"… ({len(value) - _MAX_VALUE_CHARACTERS} more characters)"
        is_plain = text[1:-1] == value and value and not set(value) & set(" \"'=")
        return value if is_plain else text


class EventLogger:
    """A logger whose methods take an event and its fields.

    `exc_info` and `stack_info` mean what they mean to `logging`; every other keyword is a field.
    """

    def __init__(self, logger: logging.Logger, fields: dict[str, Any] | None = None) -> None:
        """Take the underlying logger, and fields added to all records."""
        self._logger = logger
        self._fields = fields or {}

    def bind(self, **fields: Any) -> Self:
        """Return a logger that adds these fields to its records."""
        return type(self)(self._logger, self._fields | fields)

    def debug(self, event: str, **fields: Any) -> None:
        """Log details for debugging."""
        self._log(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: Any) -> None:
        """Log a normal event."""
        self._log(logging.INFO, event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Log something that may need attention."""
        self._log(logging.WARNING, event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """Log something that needs attention."""
        self._log(logging.ERROR, event, fields)

    def exception(self, event: str, **fields: Any) -> None:
        """Log the exception that is being handled."""
        self._log(logging.ERROR, event, {"exc_info": True, **fields})

    def _log(self, level: int, event: str, fields: dict[str, Any]) -> None:
        if not self._logger.isEnabledFor(level):
            return
        fields = self._fields | fields
        keywords = {name: fields.pop(name) for name in ("exc_info", "stack_info") if name in fields}
        if fields:
            # A template, so that tools that group records by template get one group per event.
            template = f"{event.replace('%', '%%')}: " + " ".join(
                f"{name}=%({name})s" for name in fields
            )
            arguments: tuple[_Fields, ...] = (_Fields(fields),)
        else:
            template, arguments = event, ()
        extra = {"event": event, **fields}
        self._logger.log(level, template, *arguments, extra=extra, stacklevel=3, **keywords)


def get_logger(name: str) -> EventLogger:
    """Return a logger whose methods take an event and its fields."""
    return EventLogger(logging.getLogger(name))

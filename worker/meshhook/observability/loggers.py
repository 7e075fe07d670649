"""The library's loggers: events with fields, handed to the standard `logging` of the application.

An application sees them through the handlers that it has: the fields stand in the message, and each
is an attribute of the record as well, like `event`, which is the message without them. The command
line shows them as text for people or as JSON: see `logs`. Nothing here needs structlog, nor is it
changed by how an application has set that up.
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
        """Return a field as it stands in a message: short, on one line, without secrets."""
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
        """Take the logger below, and the fields of all records."""
        self._logger = logger
        self._fields = fields or {}

    def bind(self, **fields: Any) -> Self:
        """Return a logger whose records have these fields as well."""
        return type(self)(self._logger, self._fields | fields)

    def debug(self, event: str, **fields: Any) -> None:
        """Log what only helps to find a fault."""
        self._log(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: Any) -> None:
        """Log what is as it should be."""
        self._log(logging.INFO, event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Log what may need a look."""
        self._log(logging.WARNING, event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """Log what needs somebody."""
        self._log(logging.ERROR, event, fields)

    def exception(self, event: str, **fields: Any) -> None:
        """Log the exception that is handled."""
        self._log(logging.ERROR, event, {"exc_info": True, **fields})

    def _log(self, level: int, event: str, fields: dict[str, Any]) -> None:
        if not self._logger.isEnabledFor(level):
            return
        fields = self._fields | fields
        keywords = {name: fields.pop(name) for name in ("exc_info", "stack_info") if name in fields}
        if fields:
            # A template, so that what groups records by theirs has one group an event.
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

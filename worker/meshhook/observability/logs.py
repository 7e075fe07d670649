"""Configuration of log output: one JSON object per line, or text for people."""

from __future__ import annotations

import codecs
import json
import logging
import math
import os
import sys
from typing import TYPE_CHECKING, Any, TextIO

import structlog

from meshhook.errors import InvalidSettingError
from meshhook.escaping import quoted, shown, shown_json, shown_sentence
from meshhook.observability.job_context import current_fields
from meshhook.observability.redaction import hidden
from meshhook.observability.tracebacks import trace_of

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor

LOG_FORMATS = ("auto", "json", "console")
LOG_LEVELS = ("debug", "info", "warning", "error")
_TRACES = ("exception", "stack")
_TRACE_INDENT = "    "
_QUOTED = frozenset(" \t=\r\n\"'")
"""Characters that make the renderer quote a text."""
_MAX_INT_BITS = 10_000
_MAX_ODD_CHARACTERS = 2_000


def configure_logging(
    log_format: str = "auto", level: str = "info", *, stream: TextIO | None = None
) -> None:
    """Send all log records of this process to one stream, replacing any previous configuration.

    It covers structlog and the standard `logging`, including Python's warnings. A program that
    configures logging itself does not call this: the library's records then go where it says.

    Args:
        log_format: `json`: one object a line; `console`: for people; `auto`: console on a terminal.
            Default auto.
        level: the lowest level that is logged: debug, info, warning or error. Default info.
        stream: where to write. Default: standard error.

    Raises:
        InvalidSettingError: naming the argument that is wrong.
    """
    if log_format not in LOG_FORMATS:
        raise InvalidSettingError(f"log format: {', '.join(LOG_FORMATS)}, got {quoted(log_format)}")
    if level not in LOG_LEVELS:
        raise InvalidSettingError(f"log level: {', '.join(LOG_LEVELS)}, got {quoted(level)}")
    stream = sys.stderr if stream is None else stream
    is_terminal = stream.isatty()
    for_people = log_format == "console" or (log_format == "auto" and is_terminal)
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        add_job_fields,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="timestamp"),
        _exception_as_text,
        _hide_secrets,
    ]
    renderers: list[Processor] = [_render_json]
    if for_people:
        colors = is_terminal and not os.environ.get("NO_COLOR")
        renderers = [_escape_for_people, _people_renderer(colors=colors)]
    elif codecs.lookup(getattr(stream, "encoding", None) or "utf-8").name != "utf-8":
        renderers = [_render_ascii_json]
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            # Our own records carry their event as an attribute, which replaces the message.
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(capture=True)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def add_job_fields(_: object, __: str, event: EventDict) -> EventDict:
    """Add queue, msg_id, attempt, run_id and trace_id of the job that the caller works on.

    A structlog processor for programs that configure logging themselves; `configure_logging`
    includes it. Fields that the event has already are kept.
    """
    for name, value in current_fields().items():
        event.setdefault(name, value)
    return event


class JobFilter(logging.Filter):
    """The same for the standard `logging`: add it to a handler, and use the fields in its format.

    `%(msg_id)s` needs a default for lines without a job: `Formatter(defaults=...)`.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the fields as attributes, and let every record through."""
        for name, value in current_fields().items():
            if not hasattr(record, name):
                setattr(record, name, value)
        return True


def _people_renderer(*, colors: bool) -> Processor:
    return structlog.dev.ConsoleRenderer(
        colors=colors,
        pad_event_to=0,
        timestamp_key="timestamp",
        # Without the values of local variables, which may hold payloads and secrets.
        exception_formatter=structlog.dev.plain_traceback,
    )


def _exception_as_text(_: object, __: str, event: EventDict) -> EventDict:
    """Render an exception as text fields, whatever objects it holds."""
    found = event.pop("exc_info", None)
    if found is True:
        found = sys.exc_info()
    error = found[1] if isinstance(found, tuple) else found
    if isinstance(error, BaseException):
        event.setdefault("error_type", type(error).__name__)
        if "error" not in event:  # which says the same
            event.setdefault("error_message", _as_text(error))
        event["exception"] = _trace(error)
        record = event.get("_record")
        if isinstance(record, logging.LogRecord):
            record.exc_info = None  # else the formatter adds it a second time
    return event


def _hide_secrets(_: object, __: str, event: EventDict) -> EventDict:
    return {name: hidden(name, value) for name, value in event.items()}


def _escape_for_people(_: object, __: str, event: EventDict) -> EventDict:
    """Escape terminal sequences, and lines that would look like another record."""
    return {shown(str(name)): _for_people(name, value) for name, value in event.items()}


def _for_people(name: object, value: Any) -> Any:
    if name in _TRACES and isinstance(value, str):
        # Indented, so that none of its lines can be mistaken for a record.
        return _TRACE_INDENT + shown_sentence(value).replace("\n", f"\n{_TRACE_INDENT}")
    if isinstance(value, str):
        if name == "event" or not _QUOTED & set(value):
            return shown(value)
        return _Quoted(shown_sentence(repr(value), lines=False))
    is_number = isinstance(value, float) or (isinstance(value, int) and _is_short(value))
    return (
        value if is_number or value is None else _Quoted(quoted(value, limit=_MAX_ODD_CHARACTERS))
    )


class _Quoted(str):
    """A value that is already rendered; the renderer would quote it again."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _render_json(_: object, __: str, event: EventDict) -> str:
    return shown_json(_json(event, ensure_ascii=False))


def _render_ascii_json(_: object, __: str, event: EventDict) -> str:
    return _json(event, ensure_ascii=True)


def _json(event: EventDict, *, ensure_ascii: bool) -> str:
    first = ("timestamp", "level", "event", "logger", "queue", "msg_id", "attempt", "trace_id")
    ordered = {name: event[name] for name in first if name in event} | dict(event)
    try:
        return json.dumps(ordered, default=_as_text, ensure_ascii=ensure_ascii, allow_nan=False)
    except Exception:  # noqa: BLE001 - no record is lost for what stands in it
        plain = {_as_text(name): _plain(value) for name, value in ordered.items()}
        return json.dumps(plain, ensure_ascii=ensure_ascii)


def _plain(value: Any) -> Any:
    """Return a value that JSON can represent: NaN, cycles and other keys become text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, int):
        return value if _is_short(value) else quoted(value)
    return value if isinstance(value, str | None) else quoted(value, limit=_MAX_ODD_CHARACTERS)


def _is_short(number: int) -> bool:
    # Python writes out numbers of up to 4,300 digits.
    return number.bit_length() <= _MAX_INT_BITS


def _as_text(value: object) -> str:
    """Return a value as text, even if its `repr` fails."""
    try:
        return str.__str__(str(value))
    except Exception:  # noqa: BLE001 - objects and exceptions of others may do anything
        return quoted(value)


def _trace(error: BaseException) -> str:
    try:
        return trace_of(error, error.__traceback__).rstrip()
    except Exception:  # noqa: BLE001 - the same
        return f"(the trace of {type(error).__name__} cannot be shown)"

"""Log records are one JSON object per line, or text for people, and contain no secrets."""

from __future__ import annotations

import io
import json
import logging
import warnings
from typing import Any

import pytest
import structlog

from meshhook.errors import InvalidSettingError
from meshhook.observability.loggers import get_logger
from meshhook.observability.logs import configure_logging


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        """Return true."""
        return True


@pytest.fixture
def stream() -> io.StringIO:
    """Where JSON records are written."""
    stream = io.StringIO()
    configure_logging(stream=stream)
    return stream


def records(stream: io.StringIO) -> list[dict[str, Any]]:
    """Return the records, one per line."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_record_is_one_json_object_with_its_fields(stream):
    """Line feeds in values are escaped."""
    get_logger("meshhook.worker").bind(queue="jobs").info("job\ndone", msg_id=7, attempt=1)
    [record] = records(stream)
    assert list(record)[:4] == ["timestamp", "level", "event", "logger"]
    assert record["timestamp"].endswith("Z")
    del record["timestamp"]
    assert record == {
        "level": "info",
        "event": "job\ndone",
        "logger": "meshhook.worker",
        "queue": "jobs",
        "msg_id": 7,
        "attempt": 1,
    }


def test_all_kinds_of_loggers_go_to_the_same_place(stream):
    """Records of the standard library and of structlog, and warnings."""
    logging.getLogger("other").warning("hello %s", "there", extra={"field": 1})
    structlog.get_logger("third").warning("hi %d", 3, field=2)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=False)
        logging.captureWarnings(capture=True)
        warnings.warn("careful", stacklevel=1)
    first, second, third = records(stream)
    assert (first["event"], first["field"], first["logger"]) == ("hello there", 1, "other")
    assert (second["event"], second["field"]) == ("hi 3", 2)
    assert "careful" in third["event"]


@pytest.mark.parametrize("logger", [get_logger("x"), logging.getLogger("x")], ids=["ours", "std"])
def test_an_exception_is_text(stream, logger):
    """Its type, message and traceback have fields of their own, once each."""
    try:
        dict[str, int]()["no"]
    except KeyError:
        logger.exception("failed")
    [record] = records(stream)
    assert record["error_type"] == "KeyError"
    assert record["error_message"] == "'no'"
    assert record["exception"].startswith("Traceback")
    assert record["exception"].count("KeyError") == 1


def test_secrets_are_hidden_in_fields_and_texts(stream):
    """By the name of a field at any depth, and in URLs anywhere."""
    url = "postgresql://someone:hunter2/with@signs@db.example/name"
    try:
        int(url)
    except ValueError:
        get_logger("x").exception(
            f"connecting to {url}",
            database_url="hunter2",
            options={"webhook_secret": "hunter2", "nested": [{"api_key": "hunter2"}], "url": url},
            Authorization="Bearer hunter2",
        )
    text = stream.getvalue()
    assert "hunter2" not in text
    assert "with@signs" not in text
    assert "postgresql://someone:(hidden)@db.example/name" in records(stream)[0]["event"]


def test_values_that_json_lacks_become_text(stream):
    """No record is lost because of its values."""
    loop: list[Any] = []
    loop.append(loop)
    get_logger("x").info("odd", nan=float("nan"), thing=object(), keys={(1, 2): 3})
    odd = records(stream)[0]
    assert odd["nan"] == "nan"
    assert odd["thing"].startswith("<object")
    assert "(1, 2)" in odd["keys"]


def test_the_level_is_the_lowest_that_is_logged():
    """The level applies to all loggers."""
    stream = io.StringIO()
    configure_logging("json", "warning", stream=stream)
    get_logger("x").info("no")
    logging.getLogger("y").info("no")
    structlog.get_logger("z").info("no")
    logging.getLogger("y").warning("yes")
    assert [record["event"] for record in records(stream)] == ["yes"]


def test_people_get_text_and_terminals_colours(monkeypatch):
    """Control characters in records are escaped."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal = Terminal()
    configure_logging("auto", stream=terminal)
    get_logger("x").info("hello", body="a\x1b[2Jb")
    assert "\x1b[0m" in terminal.getvalue()
    assert "\x1b[2J" not in terminal.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    plain = Terminal()
    configure_logging("console", stream=plain)
    get_logger("x").info("hello", queue="jobs")
    assert "\x1b" not in plain.getvalue()
    assert "hello" in plain.getvalue()
    assert "queue=jobs" in plain.getvalue()


def test_configuring_twice_logs_once(stream):
    """The last configuration counts."""
    again = io.StringIO()
    configure_logging(stream=again)
    logging.getLogger("x").warning("once")
    assert stream.getvalue() == ""
    assert len(records(again)) == 1


@pytest.mark.parametrize(("log_format", "level"), [("xml", "info"), ("json", "loud")])
def test_an_unknown_format_or_level_is_named(log_format, level):
    """The message lists the valid ones."""
    with pytest.raises(InvalidSettingError, match=r"xml|loud"):
        configure_logging(log_format, level)

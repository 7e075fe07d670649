"""The library's records in an application that has set nothing up but the standard `logging`."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from meshhook.observability.loggers import get_logger

log = get_logger("meshhook.test")


def test_with_basic_config_a_line_names_its_queue_and_job():
    """As `logging.basicConfig()` shows it: on standard error, with all fields."""
    code = """
import logging
logging.basicConfig()
from meshhook.observability.loggers import get_logger
get_logger("meshhook.worker").bind(queue="orders").warning(
    "attempt retried", msg_id=7, error="it is\\nbroken", error_type="HTTPError")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert done.stderr == (
        "WARNING:meshhook.worker:attempt retried: queue=orders msg_id=7 "
        "error='it is\\nbroken' error_type=HTTPError\n"
    )


def test_fields_are_attributes_and_the_template_is_that_of_the_event(caplog):
    """So that whatever groups or indexes records has something to go by."""
    log.error("100% lost", queue="orders", msg_id=7)
    [record] = caplog.records
    assert record.getMessage() == "100% lost: queue=orders msg_id=7"
    assert record.msg == "100%% lost: queue=%(queue)s msg_id=%(msg_id)s"
    assert (record.event, record.queue, record.msg_id) == ("100% lost", "orders", 7)


def test_an_event_without_fields_is_its_message(caplog):
    """Whatever characters it has."""
    log.error("100% done")
    [record] = caplog.records
    assert record.getMessage() == record.event == "100% done"


def test_a_message_holds_no_secret_and_no_long_text(caplog):
    """The attribute has the whole text, for a handler that hides and cuts by itself."""
    url = "postgresql://me:hunter2@host/name"
    log.error("failed", error=f"no way to {url}", password="hunter2", text="x" * 10_000)
    [record] = caplog.records
    assert "hunter2" not in record.getMessage()
    assert "postgresql://me:(hidden)@host/name" in record.getMessage()
    assert len(record.getMessage()) < 1_000
    assert record.text == "x" * 10_000


def test_a_record_names_the_line_that_logged_it(caplog):
    """And not one of the logger's own."""
    log.error("here")
    [record] = caplog.records
    assert (record.filename, record.funcName) == (
        "test_loggers.py",
        "test_a_record_names_the_line_that_logged_it",
    )


def test_what_is_not_logged_costs_no_message(caplog):
    """The level of the logger below decides."""
    with caplog.at_level(logging.WARNING, logger="meshhook.test"):
        log.info("no", value=pytest.fail)
    assert caplog.records == []


def test_an_exception_is_one(caplog):
    """As with the standard logger."""
    try:
        dict[str, int]()["missing"]
    except KeyError:
        log.exception("failed", queue="orders")
    [record] = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[0] is KeyError

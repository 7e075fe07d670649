"""The queues and handlers that `meshhook worker` is given."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from meshhook.cli.failures import UsageError
from meshhook.cli.worker_queues import batch_options, queue_handlers, queue_weights, queues_of
from meshhook.errors import InvalidSettingError

HANDLERS = """
async def one(job): ...
async def other(job): ...
"""


@pytest.fixture
def handlers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module `shop_handlers` in the current directory; returns the module."""
    (tmp_path / "shop_handlers.py").write_text(HANDLERS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "shop_handlers", raising=False)
    import shop_handlers  # type: ignore[import-not-found]  # noqa: PLC0415 - made above

    return shop_handlers


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], {"workflow_jobs": 1}),
        (["jobs"], {"jobs": 1}),
        (["jobs:2"], {"jobs": 2}),
        (["a:3", "b"], {"a": 3, "b": 1}),
    ],
)
def test_a_queue_may_have_a_weight(given: list[str], expected: dict[str, int]) -> None:
    """Without one it has weight 1; without a queue it is the default one."""
    assert queues_of(None, queue_weights(given)) == expected


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (["a", "a:2"], UsageError, "'a' is named twice"),
        (["a:x"], InvalidSettingError, "queue a:x: a weight is a whole number, as in a:3"),
        (["a:"], InvalidSettingError, "queue a:: a weight"),
        (["a:-1"], InvalidSettingError, "queue a:-1: a weight"),
        (["a:²"], InvalidSettingError, "a weight is a whole number"),
    ],
)
def test_what_is_no_queue_is_named(
    options: list[str], error: type[Exception], message: str
) -> None:
    """The message repeats the argument."""
    with pytest.raises(error, match=message):
        queue_weights(options)


def test_a_queue_may_have_a_handler_of_its_own(handlers: Any) -> None:
    """The other queues use the handler without a queue."""
    found = queue_handlers(["a", "b"], ["shop_handlers:one", "b=shop_handlers:other"])
    assert found == {"a": handlers.one, "b": handlers.other}


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["a=shop_handlers:one"], "queue 'b' has no --handler"),
        (["shop_handlers:one", "shop_handlers:other"], "every queue already has one"),
        (["a=shop_handlers:one", "a=shop_handlers:other"], "queue 'a' already has one"),
        (["shop_handlers:one", "c=shop_handlers:other"], "the worker has no queue 'c'"),
    ],
)
def test_each_queue_has_one_handler(options: list[str], message: str) -> None:
    """No handler, two handlers, or one for a queue that is not worked on are refused."""
    with pytest.raises(UsageError, match=message):
        queue_handlers(["a", "b"], options)


def test_bad_queues_end_the_command_at_once(bare_cli: Any) -> None:
    """Before anything is started, with several processes as well."""
    said = bare_cli.fails(2, "worker", "A", "--handler", "a:b", "--processes", "2")
    assert "must be lower case" in said
    assert "256" in bare_cli.fails(2, "worker", "a", "--handler", "a:b", "--processes", "257")


def test_batches_are_for_functions() -> None:
    """The handlers of an app say themselves what they take."""
    assert batch_options(None, None, has_app=True) == {}
    assert batch_options(10, None, has_app=False) == {"batch": 10, "batch_wait_seconds": None}
    with pytest.raises(UsageError, match="leave out --batch"):
        batch_options(10, None, has_app=True)
    with pytest.raises(InvalidSettingError, match="batch_wait_seconds is only for"):
        batch_options(None, 1, has_app=False)
    with pytest.raises(InvalidSettingError, match="batch is a whole number from 1 to 1000"):
        batch_options(1001, 1, has_app=False)

"""Finding a handler by its name, and suggesting names where there is none."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshhook.cli.handler_loader import load_handler
from meshhook.errors import InvalidHandlerError

MODULE = '''
"""Handlers of the test."""
from functools import partial
from meshhook import create_job_handler

@create_job_handler
async def deliver(job): pass

def refund(job): pass

class Nested:
    @staticmethod
    def inner(job): pass

number = 3
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current directory, with a module and a package, which are forgotten afterwards."""
    (tmp_path / "my_handlers.py").write_text(MODULE)
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / "shop" / "orders.py").write_text("def ship(job): pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.parametrize(
    "name",
    ["my_handlers:deliver", "my_handlers:refund", "my_handlers:Nested.inner", "shop.orders:ship"],
)
def test_a_handler_of_the_current_directory_is_found(folder, name):
    """Modules and attributes may be dotted."""
    assert callable(load_handler(name))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("my_handlers", "must be module:function"),
        ("my_handlers:", "must be module:function"),
        (":deliver", "must be module:function"),
        ("my_handlers:deliver()", "must be module:function"),
        ("my_handlers.py:deliver", "name its module: my_handlers:deliver"),
        ("./shop/orders.py:ship", "name its module: shop.orders:ship"),
        ("my_handler:deliver", "no module 'my_handler'"),
        ("my_handler:deliver", "did you mean 'my_handlers'?"),
        ("shop.order:ship", "did you mean 'shop.orders'?"),
        ("shopp.orders:ship", "no module 'shopp'"),
        ("my_handlers:delivr", "did you mean 'deliver'?"),
        ("my_handlers:other", "there is: deliver, refund"),
        ("my_handlers:Nested.iner", "'Nested' of module 'my_handlers' has no 'iner'"),
        ("my_handlers:number", "of type int, not a function"),
    ],
)
def test_what_was_not_found_is_named_with_what_is_there(folder, name, said):
    """The message repeats the name, and suggests others."""
    with pytest.raises(InvalidHandlerError) as caught:
        load_handler(name)
    assert said in str(caught.value)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import no_such_thing", "ModuleNotFoundError: No module named 'no_such_thing' (broken.py"),
        ("\n1 / 0", "ZeroDivisionError: division by zero (broken.py, line 2)"),
        ("def (", "SyntaxError: invalid syntax (broken.py, line 1)"),
        ("raise SystemExit(3)", "SystemExit: 3 (broken.py, line 1)"),
    ],
)
def test_a_module_that_cannot_be_imported_says_why_and_where(folder, text, said):
    """The message has the error and its line, whatever the module raises."""
    (folder / "broken.py").write_text(text)
    with pytest.raises(InvalidHandlerError) as caught:
        load_handler("broken:deliver")
    assert said in str(caught.value)


def test_the_worker_command_says_it_with_code_2(cli, jobs, folder):
    """The command ends before it claims anything."""
    said = cli.fails(2, "worker", jobs, "--handler", "my_handlers:delivr")
    assert "did you mean 'deliver'?" in said


def test_a_function_of_no_job_is_code_2(cli, jobs, folder):
    """The library's own check of handlers applies as well."""
    (folder / "wrong.py").write_text("def deliver(): pass\n")
    assert "cannot be called with one job" in cli.fails(
        2, "worker", jobs, "--handler", "wrong:deliver"
    )


@pytest.mark.parametrize(
    ("option", "value"),
    [("--concurrency", "0"), ("--grace-seconds", "-1"), ("--grace-seconds", "nan")],
)
def test_options_of_the_worker_have_a_range(cli, jobs, option, value):
    """The message gives the range."""
    said = cli.fails(2, "worker", jobs, "--handler", "json:loads", option, value)
    assert option.removeprefix("--").replace("-", "_") in said
    assert value in said

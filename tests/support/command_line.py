"""The commands of the program, walked as the argument parser has them, and run in this process."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from meshhook.cli.app import all_commands, run
from support.logging_setup import logging_as_before


@dataclass(frozen=True)
class Parameter:
    """An argument or an option of a command."""

    name: str
    flag: str | None
    """How it is written, for an option: `--limit`."""
    takes_value: bool
    is_required: bool
    is_list: bool


@dataclass(frozen=True)
class Command:
    """A command, and what may stand behind it."""

    words: tuple[str, ...]
    parameters: tuple[Parameter, ...]

    def __str__(self) -> str:
        """Return it as it is typed."""
        return " ".join(self.words)

    def has(self, name: str) -> bool:
        """Say whether it has a parameter of that name."""
        return any(each.name == name for each in self.parameters)


def _parameter(found: Any) -> Parameter:
    is_option = found.param_type_name == "option"
    return Parameter(
        name=found.name,
        flag=found.opts[0] if is_option else None,
        takes_value=not getattr(found, "is_flag", False),
        is_required=bool(found.required),
        is_list=found.nargs == -1 or bool(getattr(found, "multiple", False)),
    )


def _walk(found: Any, words: tuple[str, ...]) -> Iterator[Command]:
    groups = getattr(found, "commands", None)
    if groups is None or getattr(found, "invoke_without_command", False):
        parameters = tuple(_parameter(each) for each in found.params if each.name != "help")
        yield Command(words, parameters)
    for name, command in (groups or {}).items():
        yield from _walk(command, (*words, name))


COMMANDS = tuple(_walk(all_commands(), ()))
"""All commands; new ones come by themselves."""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


def run_command(arguments: list[str], stdin: bytes = b"") -> Ended:
    """Run a command in this process, on streams as strict as files in UTF-8."""
    before = sys.stdin
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    sys.stdin = io.TextIOWrapper(io.BytesIO(stdin))
    try:
        with (
            logging_as_before(),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            code = run(arguments)
    finally:
        sys.stdin = before
    return Ended(int(code), _written(out), _written(err))


def _written(stream: io.TextIOWrapper) -> str:
    stream.flush()
    assert isinstance(stream.buffer, io.BytesIO)
    return stream.buffer.getvalue().decode()

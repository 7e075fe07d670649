"""Every command and option, given anything: a code that is documented, and one message.

The commands and their options are those that the argument parser has: new ones come by themselves.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshhook import MeshHookError, QueueExporter
from meshhook.console import server
from support.command_line import COMMANDS, Command, Ended, Parameter, run_command
from support.fuzzing import examples
from support.hostile import TEXTS, is_safe_line

CODES = {0, 1, 2, 3, 4}
PROGRAMS = {"worker", "exporter", "console", "demo", "serve-postgres"}
"""They go on until they are stopped; here they end at once, for want of a database."""
OF_THE_SERVER = {"roles create", "roles grant"}
"""Their roles belong to all databases of the server that the tests share."""

# What the system passes on: no NUL, and bytes that are no UTF-8 as halves of surrogate pairs.
ARGUMENTS = TEXTS.map(lambda text: text.replace("\0", "").encode("utf-8", "replace").decode()) | (
    st.binary(max_size=8).map(
        lambda raw: raw.replace(b"\0", b"").decode("utf-8", "surrogateescape")
    )
)
PLAUSIBLE = st.sampled_from(
    [
        "jobs",
        "none",
        "1",
        "0",
        "-1",
        "1000",
        "99999999999999999999",
        "9" * 5_000,
        "1e400",
        "nan",
        "-",
        "/",
        "/dev/null",
        "{}",
        "json:loads",
        "paused=true",
        "x=y",
        "max_retry_attempts=3",
        "worker",
        "reader",
        "meshhook_reader",
        "ready",
    ]
)
VALUES = PLAUSIBLE | ARGUMENTS | st.integers().map(str) | st.floats().map(str)


def _command(command: Command) -> str:
    return str(command)


@st.composite
def command_lines(draw: Any, command: Command) -> list[str]:
    """Arguments for a command: those that it needs, most of the time, and any of the others."""
    arguments = list(command.words)
    for each in command.parameters:
        if draw(st.integers(0, 9)) > (0 if each.is_required else 4):
            arguments += _written(draw, each)
    if draw(st.integers(0, 9)) == 9:
        arguments.append(draw(VALUES))
    return arguments


def _written(draw: Any, parameter: Parameter) -> list[str]:
    if not parameter.takes_value:
        return [str(parameter.flag)]
    times = draw(st.integers(1, 3)) if parameter.is_list else 1
    written: list[str] = []
    for _ in range(times):
        value = draw(st.just("jobs") | VALUES if parameter.name == "queue" else VALUES)
        written += [value] if parameter.flag is None else [parameter.flag, value]
    return written


def check(arguments: list[str], ended: Ended) -> None:
    """Check what can be said of any command that has ended."""
    assert ended.code in CODES
    # A script may have tabs.
    out = ended.out.replace("\t", " ") if "sql" in arguments else ended.out
    odd = [ascii(line) for line in (out + ended.err).split("\n") if not is_safe_line(line)]
    assert not odd
    assert "Traceback" not in ended.err
    assert "this is a bug" not in ended.err
    if ended.code:
        assert "error: " in ended.err or "Usage: " in ended.err
        assert len(ended.err) < 5_000
    elif "--json" in arguments and "--help" not in arguments:
        json.loads(ended.out, parse_constant=pytest.fail)


@pytest.mark.parametrize("address", ["@v0\udcb3", "a..b", "x" * 300, "\x1b[2J"])
def test_an_address_that_no_machine_has_is_said(address, monkeypatch):
    """It is no fault of the program."""
    monkeypatch.setenv("MESHHOOK_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    arguments = ["exporter", "--metrics-address", address, "--metrics-port", "0"]
    monkeypatch.setattr(QueueExporter, "start", _started)
    ended = run_command(arguments)
    check(arguments, ended)
    assert ended.code == 1
    assert "metrics port 0 on " in ended.err


def _started(_: QueueExporter) -> None:
    raise MeshHookError("it would export until it is stopped")


async def _served(*_: object) -> None:
    raise MeshHookError("it would serve until it is stopped")


@pytest.mark.parametrize("command", COMMANDS, ids=_command)
@examples(10)
@given(data=st.data())
def test_any_arguments_without_a_database(data, command, monkeypatch, tmp_path):
    """What is wrong is said, and else that there is no database."""
    monkeypatch.setenv("MESHHOOK_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    monkeypatch.setenv("MESHHOOK_PROCESS_INDEX", "0")  # so that no others are started
    monkeypatch.delenv("MESHHOOK_POSTGRES_PASSWORD", raising=False)
    monkeypatch.setattr(QueueExporter, "start", _started)
    monkeypatch.setattr(server, "serve", _served)
    monkeypatch.chdir(tmp_path)
    arguments = data.draw(command_lines(command), label="arguments")
    check(arguments, run_command(arguments))


@pytest.mark.parametrize(
    "command",
    [each for each in COMMANDS if str(each) not in PROGRAMS | OF_THE_SERVER],
    ids=_command,
)
@examples(6)
@given(data=st.data())
def test_any_arguments_with_a_database(  # noqa: PLR0917 - fixtures
    data, command, monkeypatch, tmp_path, database, shared_url
):
    """The same, where the arguments reach it."""
    monkeypatch.setenv("MESHHOOK_DATABASE_URL", shared_url)
    monkeypatch.chdir(tmp_path)
    arguments = data.draw(command_lines(command), label="arguments")
    check(arguments, run_command(arguments, stdin=data.draw(st.binary(), label="stdin")))

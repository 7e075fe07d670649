"""How the demo calls this program in the commands that it suggests."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from meshhook.cli.demo import _program


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `meshhook` in a folder that the shell does not search."""
    path = tmp_path / "a folder" / "bin" / "meshhook"
    path.parent.mkdir(parents=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    monkeypatch.setattr(sys, "argv", [str(path), "demo"])
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    return path


def test_a_program_that_the_shell_finds_is_called_by_its_name(program, monkeypatch):
    """It is called `meshhook`, as users type it."""
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    assert _program(is_embedded=False) == "meshhook"
    assert _program(is_embedded=True) == "meshhook --embedded"


def test_a_program_that_the_shell_does_not_find_is_called_by_its_path(program):
    """The path is quoted where the shell needs it."""
    assert shlex.split(_program(is_embedded=True)) == [str(program), "--embedded"]


def test_another_installation_on_the_path_is_not_taken_for_this_one(program, monkeypatch, tmp_path):
    """Another version of `meshhook` might not understand what the demo created."""
    other = tmp_path / "other" / "meshhook"
    other.parent.mkdir()
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", str(other.parent))
    assert shlex.split(_program(is_embedded=False)) == [str(program)]


def test_a_module_is_called_as_one(monkeypatch):
    """`python -m meshhook demo` is suggested as `python -m meshhook`."""
    monkeypatch.setattr(sys, "argv", ["/somewhere/meshhook/__main__.py", "demo"])
    assert shlex.split(_program(is_embedded=False)) == [sys.executable, "-m", "meshhook"]

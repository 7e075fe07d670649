"""How the demo calls this program in the commands that it says to try next."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from meshhook.cli.demo import _program


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `meshhook` that was started by its path, which the shell does not search."""
    path = tmp_path / "a folder" / "bin" / "meshhook"
    path.parent.mkdir(parents=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    monkeypatch.setattr(sys, "argv", [str(path), "demo"])
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    return path


def test_a_program_that_the_shell_finds_is_called_by_its_name(program, monkeypatch):
    """As everybody types it."""
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    assert _program(is_embedded=False) == "meshhook"
    assert _program(is_embedded=True) == "meshhook --embedded"


def test_a_program_that_the_shell_does_not_find_is_called_by_its_path(program):
    """In quotes where the shell needs them."""
    assert shlex.split(_program(is_embedded=True)) == [str(program), "--embedded"]


def test_another_installation_on_the_path_is_not_taken_for_this_one(program, monkeypatch, tmp_path):
    """A `meshhook` of another version would not know what the demo has made."""
    other = tmp_path / "other" / "meshhook"
    other.parent.mkdir()
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", str(other.parent))
    assert shlex.split(_program(is_embedded=False)) == [str(program)]


def test_a_module_is_called_as_one(monkeypatch):
    """`python -m meshhook demo` has no program file that could be called."""
    monkeypatch.setattr(sys, "argv", ["/somewhere/meshhook/__main__.py", "demo"])
    assert shlex.split(_program(is_embedded=False)) == [sys.executable, "-m", "meshhook"]

"""Commands are imported when they are called, so that help and completion are quick."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from meshhook.cli.app import all_commands

# What takes long to load: the driver, tables, logs, and every command.
LOADED = """
import atexit, sys
from meshhook.cli.app import run
slow = {"asyncpg", "pydantic_settings", "prometheus_client", "rich", "structlog"}
def report():
    loaded = slow & set(sys.modules)
    loaded |= {name for name in sys.modules if name.startswith("meshhook.cli.")} - {
        f"meshhook.cli.{name}"
        for name in ("app", "failures", "interrupts", "lazy_group", "options")
    }
    print("loaded:", sorted(loaded), file=sys.stderr)
atexit.register(report)
sys.exit(run(sys.argv[1:]))
"""


def loaded_by(*arguments: str, **environment: str) -> tuple[str, str, str]:
    """Run the program; return its output, its error messages, and which slow modules it loaded."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *arguments],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )
    said, _, loaded = done.stderr.rpartition("loaded: ")
    return done.stdout, said, loaded.strip()


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["--version"], []], ids=" ".join)
def test_help_and_version_import_no_command(arguments):
    """The help lists every command all the same."""
    out, said, loaded = loaded_by(*arguments)
    assert loaded == "[]"
    if "--version" not in arguments:
        assert [name for name in all_commands().commands if f"\n  {name} " not in out + said] == []


def test_a_wrong_command_is_refused_with_a_hint_and_imports_none():
    """The hint suggests commands that are not imported."""
    out, said, loaded = loaded_by("quee", "list")
    assert (out, loaded) == ("", "[]")
    assert "No such command 'quee'" in said
    assert "'queue'" in said


def test_completion_knows_all_commands_and_imports_none():
    """Completion of a command's name, as bash asks for it."""
    out, _, loaded = loaded_by(
        _MESHHOOK_COMPLETE="complete_bash", COMP_WORDS="meshhook wor", COMP_CWORD="1"
    )
    assert (out.split(), loaded) == (["worker", "workers"], "[]")


def test_completion_goes_on_below_a_command():
    """Options and subcommands are completed too; their command is imported for it."""
    out, _, _ = loaded_by(
        _MESHHOOK_COMPLETE="complete_bash", COMP_WORDS="meshhook dlq re", COMP_CWORD="2"
    )
    assert out.split() == ["replay"]
    out, _, _ = loaded_by(
        _MESHHOOK_COMPLETE="complete_bash", COMP_WORDS="meshhook stats --wa", COMP_CWORD="2"
    )
    assert out.split() == ["--watch"]


def test_a_command_imports_no_other():
    """Nor does it load rich, unless it prints a table."""
    out, _, loaded = loaded_by("migrate", "sql")
    assert out.startswith("-- ")
    assert "meshhook.cli.migrate" in loaded
    others = {name.replace("-", "_") for name in all_commands().commands} - {"migrate"}
    assert not [name for name in others if f"'meshhook.cli.{name}'" in loaded]
    assert "'rich'" not in loaded
    assert "'structlog'" not in loaded


def test_every_command_has_a_summary_and_a_module():
    """The list in the help is complete, and each command says more in its own help."""
    program = all_commands()
    assert list(program.commands) == list(program.summaries)
    for name, command in program.commands.items():
        assert command.short_help == program.summaries[name]
        assert command.help

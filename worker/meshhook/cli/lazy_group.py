"""A group of commands that imports the module of a command when that command is called."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, ClassVar

from typer.core import TyperCommand, TyperGroup
from typer.main import get_command


class LazyGroup(TyperGroup):
    """A group whose commands are modules, each imported when its command is called.

    The lazy group of click's documentation imports a command as soon as anything asks for it, and
    the help text asks for all of them. Here help, completion and the hint at a misspelt name use
    the summaries; only a command that is called, or completed itself, is imported.
    """

    package: ClassVar[str]
    """Where the modules are: the command `serve-postgres` is the module `serve_postgres`.

    Each has the command or group as a typer application named `app`.
    """
    summaries: ClassVar[Mapping[str, str]]
    """What the help says about each command, by name, in the order of the help."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name, summary in self.summaries.items():
            self.add_command(_Unloaded(name, short_help=summary))

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Return the command that the first argument names, imported, and the other arguments."""
        name, command, others = super().resolve_command(ctx, args)
        if name is not None and isinstance(command, _Unloaded):
            command = self.load(name)
        return name, command, others

    def load(self, name: str) -> Any:
        """Import the module of a command, and return the command."""
        module = import_module(f"{self.package}.{name.replace('-', '_')}")
        command = get_command(module.app)
        command.short_help = self.summaries[name]
        self.add_command(command, name)
        return command

    def load_all(self) -> None:
        """Import every command, for what looks into all of them."""
        for name in self.summaries:
            self.load(name)


class _Unloaded(TyperCommand):
    """Stands for a command in the group's lists until the command is called."""

"""Tables that fit the terminal: they shrink, leave columns out, and at last stand row by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from meshhook.cli.output import console, say
from meshhook.escaping import shown

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

_GAP = 2
_SHRUNK_WIDTH = 14
_EMPTY = ("", "-")
_MAX_NAME_CHARACTERS = 200
_MAX_CELL_CHARACTERS = 2_000
_STYLES = {
    "succeeded": "green",
    "running": "cyan",
    "retrying": "yellow",
    "retried": "yellow",
    "lost": "bold red",
    "dead_lettered": "red",
    "paused": "yellow",
}


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table."""

    title: str
    is_number: bool = False
    shrinks: bool = False
    """Whether its cells may be cut short."""
    is_optional: bool = False
    """Whether it is left out where there is no room, or nothing in it."""


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Print rows, as wide as the terminal at the most."""
    _print(table(columns, rows, console().width))


def print_fields(fields: Sequence[tuple[str, str]], *, indent: int = 0) -> None:
    """Print names and values, one pair a line."""
    _print(_fields(fields, indent))


def _print(renderable: RenderableType) -> None:
    target = console()
    if target.is_terminal:
        target.print(renderable)
        return
    with target.capture() as capture:
        target.print(renderable)
    for line in capture.get().splitlines():
        say(line.rstrip())


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> RenderableType:
    """Return a table of at most `width` columns of text."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    cells = [[_cell(value) for value in row] for row in rows]
    chosen = [
        i
        for i, column in enumerate(columns)
        if not column.is_optional or any(row[i] not in _EMPTY for row in rows)
    ]
    natural = [
        max([len(column.title), *(row[i].cell_len for row in cells)])
        for i, column in enumerate(columns)
    ]
    least = [
        min(size, _SHRUNK_WIDTH) if column.shrinks else size
        for column, size in zip(columns, natural, strict=True)
    ]

    def room(sizes: Sequence[int]) -> int:
        return width - sum(sizes[i] for i in chosen) - _GAP * (len(chosen) - 1)

    while room(least) < 0 and any(columns[i].is_optional for i in chosen):
        chosen.remove(next(i for i in reversed(chosen) if columns[i].is_optional))
    if room(least) < 0:
        return Group(*(_record(columns, row) for row in rows))
    sizes = _spread(natural, least, chosen, room(least))
    result = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    for i in chosen:
        result.add_column(
            Text(columns[i].title),
            justify="right" if columns[i].is_number else "left",
            width=sizes[i],
            no_wrap=True,
            overflow="ellipsis",
        )
    for row in cells:
        result.add_row(*(row[i] for i in chosen))
    return result


def _record(columns: Sequence[Column], row: Sequence[str]) -> RenderableType:
    """Return a row as one pair of title and cell a line, with a blank line behind."""
    pairs = [(each.title, cell) for each, cell in zip(columns, row, strict=True)]
    return _fields([pair for pair in pairs if pair[1] not in _EMPTY], 0, gap_after=True)


def _spread(
    natural: Sequence[int], least: Sequence[int], chosen: Sequence[int], room: int
) -> list[int]:
    """Return column widths: the least ones, and what is left where something is cut."""
    sizes = list(least)
    while room > 0:
        cut = [i for i in chosen if sizes[i] < natural[i]]
        if not cut:
            break
        narrowest = min(cut, key=lambda i: sizes[i])
        sizes[narrowest] += 1
        room -= 1
    return sizes


def _fields(
    fields: Sequence[tuple[str, str]], indent: int, *, gap_after: bool = False
) -> RenderableType:
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, _GAP, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in fields:
        grid.add_row(Text(shown(name, limit=_MAX_NAME_CHARACTERS), style="bold"), _cell(value))
    return Padding(grid, (0, 0, 1 if gap_after else 0, indent), expand=False)


def _cell(value: str) -> Text:
    from rich.text import Text

    return Text(shown(value, limit=_MAX_CELL_CHARACTERS), style=_STYLES.get(value, ""))

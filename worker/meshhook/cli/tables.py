"""Tables and fields as wide as the terminal, drawn by rich.

rich cuts the widest columns of a table until it fits. It cannot leave a column out, nor turn rows
into lists of fields where even that is too wide, so both are decided here.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from meshhook.cli.output import Column, say
from meshhook.escaping import shown

_GAP = 2
_SHRUNK_WIDTH = 14
_EMPTY = ("", "-")
_MAX_NAME_CHARACTERS = 200
_MAX_CELL_CHARACTERS = 2_000
# Output that is piped is not cut or folded: a line is a row, however long.
_PIPE_COLUMNS = 100_000
_STYLES = {
    "succeeded": "green",
    "running": "cyan",
    "retrying": "yellow",
    "retried": "yellow",
    "lost": "bold red",
    "dead_lettered": "red",
    "paused": "yellow",
}


def console() -> Console:
    """Return the console on standard output, for results."""
    return _console(sys.stdout)


def error_console() -> Console:
    """Return the console on standard error, for progress."""
    return _console(sys.stderr)


@cache
def _console(stream: TextIO) -> Console:
    is_terminal = stream.isatty()
    return Console(
        file=stream,
        highlight=False,
        markup=False,
        emoji=False,
        # Whatever TERM and FORCE_COLOR say: what goes into a file or a pipe has no colours.
        force_terminal=is_terminal,
        no_color=None if is_terminal else True,
        width=None if is_terminal else _PIPE_COLUMNS,
    )


def print_renderable(renderable: RenderableType) -> None:
    """Print what rich can draw; into a file or a pipe, without spaces at the ends of lines."""
    target = console()
    if target.is_terminal:
        target.print(renderable)
        return
    with target.capture() as capture:
        target.print(renderable)
    for line in capture.get().splitlines():
        say(line.rstrip())


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> RenderableType:
    """Return a table of at most `width` columns of text, or the rows as lists of fields."""
    cells = [[_cell(value) for value in row] for row in rows]
    least = [
        min(size, _SHRUNK_WIDTH) if column.shrinks else size
        for column, size in zip(columns, _widths(columns, cells), strict=True)
    ]
    chosen = [
        i
        for i, column in enumerate(columns)
        if not column.is_optional or any(row[i] not in _EMPTY for row in rows)
    ]

    def fits() -> bool:
        return sum(least[i] for i in chosen) + _GAP * (len(chosen) - 1) <= width

    while not fits() and any(columns[i].is_optional for i in chosen):
        chosen.remove(next(i for i in reversed(chosen) if columns[i].is_optional))
    if not fits():
        return Group(*(_record(columns, row) for row in rows))
    result = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    for i in chosen:
        result.add_column(
            Text(columns[i].title),
            justify="right" if columns[i].is_number else "left",
            # rich cuts only what it might fold. The cells themselves are never folded.
            no_wrap=not columns[i].shrinks,
        )
    for row in cells:
        result.add_row(*(row[i] for i in chosen))
    return result


def fields(
    pairs: Sequence[tuple[str, str]], *, indent: int = 0, gap_after: bool = False
) -> RenderableType:
    """Return names and values, one pair a line; long values are folded."""
    grid = Table.grid(padding=(0, _GAP, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in pairs:
        cell = Text(shown(value, limit=_MAX_CELL_CHARACTERS), style=_STYLES.get(value, ""))
        grid.add_row(Text(shown(name, limit=_MAX_NAME_CHARACTERS), style="bold"), cell)
    return Padding(grid, (0, 0, 1 if gap_after else 0, indent), expand=False)


def _widths(columns: Sequence[Column], cells: Sequence[Sequence[Text]]) -> list[int]:
    return [
        max([len(column.title), *(row[i].cell_len for row in cells)])
        for i, column in enumerate(columns)
    ]


def _record(columns: Sequence[Column], row: Sequence[str]) -> RenderableType:
    """Return a row as one pair of title and cell a line, with a blank line after it."""
    pairs = [(each.title, cell) for each, cell in zip(columns, row, strict=True)]
    return fields([pair for pair in pairs if pair[1] not in _EMPTY], gap_after=True)


def _cell(value: str) -> Text:
    return Text(
        shown(value, limit=_MAX_CELL_CHARACTERS),
        style=_STYLES.get(value, ""),
        no_wrap=True,
        overflow="ellipsis",
    )

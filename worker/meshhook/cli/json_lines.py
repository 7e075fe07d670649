"""JSON lines from an argument, a file or standard input, with their line numbers."""

from __future__ import annotations

import contextlib
import gzip
import json
import math
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import IO, Any

from meshhook.cli.failures import UsageError
from meshhook.cli.standard_input import interruptible
from meshhook.errors import InvalidJobError
from meshhook.escaping import quoted, shown

_STANDARD_INPUT = Path("-")
MAX_LINE_BYTES = 128 * 1024 * 1024
"""No queue accepts a longer job: `max_payload_bytes` is at most 100 MiB."""
_MAX_DIGITS = 4_300
"""The length of the longest whole number that Python reads by default."""
_SURE_CHARACTERS = 15
"""A float of this many characters, with its point and without an exponent, is read exactly."""
_DOCUMENT_HINT = (
    'one JSON value per line; to send a whole document: meshhook enqueue QUEUE "$(cat {})"'
)


@dataclass(slots=True)
class Line:
    """One value, and where it was found."""

    number: int
    value: Any
    place: str
    """What to put before an error: `jobs.jsonl, line 7: `; empty for an argument."""


class JsonLines:
    """The values of an input, read on demand."""

    def __init__(
        self,
        lines: Iterator[bytes],
        *,
        name: str | None,
        size_bytes: int | None = None,
        position: Callable[[], int] = lambda: 0,
    ) -> None:
        """Take the lines.

        Args:
            lines: the input.
            name: the input's name; None for an argument, which has no line numbers.
            size_bytes: its length, if known.
            position: returns how many of these bytes have been read.
        """
        self._lines = lines
        self._name = name
        self.size_bytes = size_bytes
        self.position = position

    def __iter__(self) -> Iterator[Line]:
        """Yield the values, without blank lines.

        Raises:
            InvalidJobError: naming the line that is not JSON.
            UsageError: if the input cannot be read, or is empty.
        """
        is_empty = True
        for number, raw in enumerate(self._read(), start=1):
            if raw.strip():
                is_empty = False
                place = "" if self._name is None else f"{self._name}, line {number}: "
                if len(raw) > MAX_LINE_BYTES:
                    raise InvalidJobError(
                        f"{place}longer than {MAX_LINE_BYTES:,} bytes; no queue accepts such a job"
                    )
                yield Line(number, self._parse(raw, place, number), place)
        if is_empty:
            raise UsageError(f"{self._name or 'the argument'}: there is nothing in it to enqueue")

    def _read(self) -> Iterator[bytes]:
        try:
            while True:
                # The next line of a pipe may never come.
                with interruptible():
                    line = next(self._lines, None)
                if line is None:
                    return
                yield line
        except (OSError, EOFError, zlib.error) as error:
            raise UsageError(f"{self._name}: cannot be read: {error}") from error

    def _parse(self, raw: bytes, place: str, number: int) -> Any:
        try:
            text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            return json.loads(
                text,
                object_pairs_hook=_object,
                parse_float=_exact_float,
                parse_int=_whole_number,
            )
        except _NotCarriedError as error:
            raise InvalidJobError(f"{place}{error}") from None
        except UnicodeDecodeError as error:
            raise InvalidJobError(
                f"{place}not UTF-8: byte 0x{raw[error.start]:02x} at {error.start}"
            ) from None
        except RecursionError:
            raise InvalidJobError(f"{place}nested too deeply") from None
        except ValueError as error:
            reason = (
                f"{error.msg} at column {error.colno}"
                if isinstance(error, json.JSONDecodeError)
                else str(error)
            )
            hint = ""
            if self._name is not None and number == 1 and raw.strip()[:1] in b"{[":
                hint = "\n" + _DOCUMENT_HINT.format(self._name)
            raise InvalidJobError(f"{place}not JSON: {reason}{hint}") from None


class _NotCarriedError(Exception):
    """JSON that would not arrive as it was sent."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise _NotCarriedError(f"the key {quoted(twice)} appears twice in an object")
    return found


def _exact_float(text: str) -> float:
    number = float(text)
    if len(text) <= _SURE_CHARACTERS and "e" not in text and "E" not in text:
        return number
    try:
        # A handler gets, and the queue is sent, what a float reads as.
        is_exact = math.isfinite(number) and Decimal(repr(number)) == Decimal(text)
    except InvalidOperation:  # an exponent too large for any number
        is_exact = False
    if not is_exact:
        raise _NotCarriedError(
            f"the number {shown(text, limit=60)} has more digits, or is larger or smaller, than "
            "programs read exactly; send it as text"
        )
    return number


def _whole_number(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise _NotCarriedError(
            f"a whole number of {len(text.lstrip('-'))} digits; programs read up to {_MAX_DIGITS}: "
            "send it as text"
        )
    return int(text)


def _lines_of(stream: IO[bytes]) -> Iterator[bytes]:
    # Not readline() without a limit: a line that never ends would be waited for.
    return iter(lambda: stream.readline(MAX_LINE_BYTES + 1), b"")


@contextlib.contextmanager
def open_lines(argument: str | None, file: Path | None) -> Iterator[JsonLines]:
    """Open what is to be enqueued: the argument, the file, or else standard input.

    Raises:
        UsageError: if both are given, the file cannot be opened, or nothing is given and standard
            input is a terminal.
    """
    if argument is not None and argument != "-":
        if file is not None:
            raise UsageError("give a job as JSON or a --file, not both")
        # One value, even if it has several lines.
        yield JsonLines(iter([argument.encode("utf-8", "surrogateescape")]), name=None)
    elif file is None or file == _STANDARD_INPUT:
        if sys.stdin.isatty() and file is None and argument is None:
            raise UsageError(
                "there is nothing to enqueue: give a job as JSON, a --file, or JSON lines on "
                "standard input (- reads them from the terminal)"
            )
        yield JsonLines(_lines_of(sys.stdin.buffer), name="standard input")
    else:
        with contextlib.ExitStack() as stack:
            try:
                source: IO[bytes] = stack.enter_context(file.open("rb"))
                size_bytes = file.stat().st_size
            except OSError as error:
                raise UsageError(f"--file {str(file)!r}: {error.strerror or error}") from error
            lines: Any = source
            if file.suffix == ".gz":
                lines = stack.enter_context(gzip.open(source))
            yield JsonLines(
                _lines_of(lines), name=str(file), size_bytes=size_bytes, position=_position(source)
            )


def _position(source: IO[bytes]) -> Callable[[], int]:
    # A file that is being iterated refuses tell(); its descriptor does not.
    return lambda: os.lseek(source.fileno(), 0, os.SEEK_CUR)

"""Limits on what a database may answer, checked before the driver reads it. Pure.

The driver buffers a message until it is complete, and decodes whatever a server announces. A server
run by a JobQueue's author may announce a gigabyte, columns that nobody asked for, an array of two
billion elements, or a password hash that takes a minute to compute.
"""

from __future__ import annotations

import re
import struct
from typing import Final

from meshhook_operator.errors import AnswerRefusedError

MAX_ITERATIONS: Final = 200_000
"""Of the SCRAM password hash, which blocks the event loop. PostgreSQL asks for 4,096."""
MAX_COLUMNS: Final = 200
STARTUP_BYTES: Final = 262_144
"""What a server may send until it is ready."""
STATEMENT_BYTES: Final = 16_777_216
"""What it may answer to one request, counted as the memory that the driver needs for it."""
MAX_TOLD_BYTES: Final = 65_536
"""The size of a message other than a row: errors, notices, names of columns."""
MAX_UNASKED: Final = 2_000
"""Notices, settings and notifications that may come at once."""
UNASKED_A_SECOND: Final = 100.0
"""And how many more per second."""
_MAX_LOGIN_STEPS = 8
_OBJECT_BYTES = 64
"""The memory that a message or a field takes in addition to its bytes."""

_HEADER = struct.Struct("!cI")
_SHORT = struct.Struct("!H")
_INT = struct.Struct("!i")
_LOGIN = frozenset(b"RKSNEZv")
_ANSWERS = frozenset(b"123CDEIKNSATZnst")
_UNASKED = frozenset(b"NSA")
_ROW, _COLUMNS, _READY, _LOGIN_STEP = b"DTZR"
_SCRAM_CONTINUES = 11
_ITERATIONS = re.compile(rb"i=0*([0-9]+)")
_MAX_DIGITS = 9
_MAX_DIMENSIONS = 6

_SCALARS = frozenset(
    (
        *(16, 18, 19, 20, 21, 23, 25, 26),  # bool, "char", name, bigint, smallint, int, text, oid
        *(700, 701, 1042, 1043),  # real, double precision, char, varchar
        *(1114, 1184, 2205, 2278, 3802, 114),  # times, regclass, void, jsonb, json
    )
)
_ARRAYS = frozenset((1003, 1005, 1007, 1009, 1016, 1028))  # name, smallint, int, text, bigint, oid


class AnswerLimits:
    """Checks what the server of one connection sends against the limits."""

    def __init__(self, *, statement_bytes: int = STATEMENT_BYTES, now: float) -> None:
        """Take the limit of one answer in bytes, and the time in seconds."""
        self._statement_bytes = statement_bytes
        self._left = STARTUP_BYTES
        self._unasked_left = float(MAX_UNASKED)
        self._checked_at = now
        self._login_steps = 0
        self._has_hashed = False
        self._array_columns: frozenset[int] = frozenset()
        self.is_ready = False
        """Whether the login is over."""

    def note_request(self) -> None:
        """Note a request: the server may answer up to the limit again."""
        if self.is_ready:
            self._left = self._statement_bytes

    def check(self, buffer: bytearray, now: float) -> int:
        """Return how many bytes at the start of the buffer are complete, allowed messages.

        Args:
            buffer: what the server has sent and the driver has not read yet.
            now: the time in seconds.

        Raises:
            AnswerRefusedError: naming what was sent, and the limit.
        """
        passed = max(0.0, now - self._checked_at)
        self._checked_at = now
        self._unasked_left = min(MAX_UNASKED, self._unasked_left + passed * UNASKED_A_SECOND)
        at, end = 0, len(buffer)
        while end - at >= _HEADER.size:
            kind, length = _HEADER.unpack_from(buffer, at)
            self._check_header(kind[0], length)
            if end - at <= length:
                break
            self._check_message(kind[0], buffer, at + _HEADER.size, at + 1 + length)
            at += 1 + length
        return at

    def _check_header(self, kind: int, length: int) -> None:
        if kind not in (_ANSWERS if self.is_ready else _LOGIN):
            raise AnswerRefusedError(
                f"the server sent a message of type {chr(kind)!a}, which is not expected here"
            )
        most = self._limit if kind == _ROW else MAX_TOLD_BYTES
        if not 4 <= length <= most:  # noqa: PLR2004 - the length counts itself
            raise AnswerRefusedError(
                f"the server announced a message of {length:,} bytes where {most:,} are allowed"
            )
        if length > self._left:
            raise self._too_much()

    def _check_message(self, kind: int, buffer: bytearray, at: int, end: int) -> None:
        self._left -= end - at + _OBJECT_BYTES
        try:
            if kind == _ROW:
                self._check_row(buffer, at, end)
            elif kind == _COLUMNS:
                self._check_columns(buffer, at, end)
            elif kind == _LOGIN_STEP:
                self._check_login_step(buffer, at, end)
        except (struct.error, ValueError):
            message = "the server sent a truncated message"
            raise AnswerRefusedError(message) from None
        if kind in _UNASKED:
            self._unasked_left -= 1
            if self._unasked_left < 0:
                raise AnswerRefusedError(
                    f"the server sent more than {MAX_UNASKED:,} notices and notifications at once"
                )
            if self.is_ready:
                # They may come for weeks without any request, and have a limit of their own.
                self._left += end - at + _OBJECT_BYTES
        elif kind == _READY and not self.is_ready:
            self.is_ready, self._left = True, self._statement_bytes
        if self._left < 0:
            raise self._too_much()

    def _too_much(self) -> AnswerRefusedError:
        return AnswerRefusedError(
            f"the server answered one request with more than {self._limit:,} bytes"
        )

    @property
    def _limit(self) -> int:
        return self._statement_bytes if self.is_ready else STARTUP_BYTES

    def _check_row(self, buffer: bytearray, at: int, end: int) -> None:
        (fields,) = _SHORT.unpack_from(buffer, at)
        if fields > MAX_COLUMNS:
            raise AnswerRefusedError(_too_many_columns(fields))
        self._left -= fields * _OBJECT_BYTES
        if self._array_columns:
            self._check_arrays(buffer, at + 2, end, fields)

    def _check_arrays(self, buffer: bytearray, at: int, end: int, fields: int) -> None:
        """Refuse arrays that announce more elements than their bytes can hold."""
        for index in range(fields):
            (length,) = _INT.unpack_from(buffer, at)
            at += 4
            if length < 0:
                continue
            if index in self._array_columns and length >= 20 and at + length <= end:  # noqa: PLR2004 - head of an array
                (dimensions,) = _INT.unpack_from(buffer, at)
                if 0 < dimensions <= _MAX_DIMENSIONS:
                    elements = 1
                    for each in range(min(dimensions, (length - 12) // 8)):
                        elements *= max(1, _INT.unpack_from(buffer, at + 12 + 8 * each)[0])
                    if 4 * elements > length:
                        raise AnswerRefusedError(
                            f"the server announced an array of {elements:,} elements in "
                            f"{length:,} bytes"
                        )
                    self._left -= elements * _OBJECT_BYTES
            at += length

    def _check_columns(self, buffer: bytearray, at: int, end: int) -> None:
        (count,) = _SHORT.unpack_from(buffer, at)
        if count > MAX_COLUMNS:
            raise AnswerRefusedError(_too_many_columns(count))
        at += 2
        arrays = set()
        for index in range(count):
            at = buffer.index(0, at, end) + 1
            (_, __, kind, ___, ____, _____) = struct.unpack_from("!IHIHiH", buffer, at)
            if kind in _ARRAYS:
                arrays.add(index)
            elif kind not in _SCALARS:
                raise AnswerRefusedError(
                    f"the server announced a column of type {kind}, which was not requested"
                )
            at += 18
        self._array_columns |= arrays

    def _check_login_step(self, buffer: bytearray, at: int, end: int) -> None:
        (step,) = _INT.unpack_from(buffer, at)
        self._login_steps += 1
        if self._login_steps > _MAX_LOGIN_STEPS:
            raise AnswerRefusedError("the server asked for a login too many times")
        if step != _SCRAM_CONTINUES:
            return
        # Check all of them: which one the driver uses is up to the driver.
        for digits in _ITERATIONS.findall(bytes(buffer[at + 4 : end])):
            if len(digits) > _MAX_DIGITS or int(digits) > MAX_ITERATIONS:
                raise AnswerRefusedError(
                    f"the server asked for more than {MAX_ITERATIONS:,} iterations of SCRAM"
                )
        if self._has_hashed:
            raise AnswerRefusedError("the server asked for the password hash twice")
        self._has_hashed = True


def _too_many_columns(count: int) -> str:
    return f"the server announced {count:,} columns where {MAX_COLUMNS} are allowed"

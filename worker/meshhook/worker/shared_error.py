"""The error that several jobs of a batch have ended with: read and logged once."""

from __future__ import annotations

from meshhook.outcomes import Outcome
from meshhook.worker.error_texts import ErrorText, error_text


class SharedError:
    """What is known of the last error with which a job of a batch has ended.

    To show a deep trace takes milliseconds, in which the event loop stands still: for a thousand
    jobs it would be seconds.
    """

    def __init__(self) -> None:
        """Know none."""
        self._text: ErrorText | None = None
        self._read: object = None
        self._logged: object = None

    def text_of(self, ended: object) -> ErrorText | None:
        """Return what is recorded of an exception; None if it is none, or an outcome."""
        if not isinstance(ended, BaseException) or isinstance(ended, Outcome):
            return None
        if ended is not self._read:
            self._read, self._text = ended, error_text(ended)
        return self._text

    def is_first_of(self, ended: object) -> bool:
        """Return whether nothing was logged about this end before, and note that it is now."""
        is_first = ended is not self._logged
        self._logged = ended
        return is_first

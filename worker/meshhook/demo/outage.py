"""What the demo sees of the receiver that is down: its breaker, and the jobs it keeps back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshhook.keys import BreakerState

if TYPE_CHECKING:
    from meshhook.keys import KeyState


class OutageWatch:
    """Follows the key of one receiver until its outage is over."""

    def __init__(self, receiver: str) -> None:
        """Take the name of the receiver, which is the key of its jobs."""
        self._receiver = receiver
        self._is_open = False
        self._is_over = False
        self.kept_back = 0
        """The most jobs that were ready while the breaker kept them back."""

    def note(self, key: KeyState) -> str | None:
        """Take the key as it is now, and return a sentence if its breaker has opened or closed.

        Later the breaker may open once more: the last jobs are those that the receiver never
        accepts, and they fail in a row, too.
        """
        if self._is_over:
            return None
        was_open, self._is_open = self._is_open, key.breaker not in {None, BreakerState.CLOSED}
        if self._is_open:
            self.kept_back = max(self.kept_back, key.ready)
        if self._is_open and not was_open:
            return (
                f"{self._receiver} is down: after {key.failures_in_a_row} failures in a row its "
                f"breaker opened, and {key.ready} jobs wait for it"
            )
        if was_open and not self._is_open:
            self._is_over = True
            return f"{self._receiver} is back: a probe succeeded, and its breaker closed"
        return None

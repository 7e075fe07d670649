"""The handler of `helm test`: the job succeeds when it has run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meshhook import Job


async def succeed(job: Job[Any]) -> None:
    """Do nothing, successfully."""

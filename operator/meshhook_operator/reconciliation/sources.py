"""What a tick knows of a queue: the way to it, and what was found there."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from meshhook_operator.databases.demand import QueueDemand, QueueProblem
from meshhook_operator.scaling import Failure

if TYPE_CHECKING:
    from meshhook_operator.databases.database import QueueDatabase
    from meshhook_operator.url_checksums import UrlChecksum

Found: TypeAlias = QueueDemand | QueueProblem | Failure
"""What a tick found of a queue; a Failure if the database could not be read at all."""


class Source(NamedTuple):
    """The way to the queue."""

    database: QueueDatabase | None
    """None if it cannot be reached at all, as without a Secret."""
    checksum: UrlChecksum | None
    """Of the workers' database URL; None if that is not known."""


def failure_of(found: QueueProblem | Failure) -> Failure:
    """Return why a queue could not be read. Pure."""
    if isinstance(found, Failure):
        return found
    return Failure(reason="QueueUnreadable", message=found.message)

"""Who uses the console, and what that lets them do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """What a user may do."""

    VIEWER = "viewer"
    """Look at everything."""
    OPERATOR = "operator"
    """Change things as well."""


@dataclass(frozen=True, slots=True)
class User:
    """Whoever sent a request."""

    name: str
    role: Role

    @property
    def may_change(self) -> bool:
        """Whether requests of this user may change anything."""
        return self.role is Role.OPERATOR


MAX_NAME_LENGTH = 200

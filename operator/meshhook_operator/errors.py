"""What can go wrong at the Kubernetes API and at databases, as the operator tells it apart."""

from __future__ import annotations

from meshhook.errors import DatabaseError, MeshHookError


class ClusterError(MeshHookError):
    """The API server did not do what was asked of it."""


class ClusterUnavailableError(ClusterError):
    """The API server cannot be reached, or cannot answer now: worth another try."""


class ClusterRefusedError(ClusterError):
    """The API server refused a request; the message says what it said.

    Attributes:
        code: the HTTP status.
    """

    def __init__(self, message: str, code: int) -> None:
        """Take the answer's message and HTTP status."""
        super().__init__(message)
        self.code = code


class HostNotAllowedError(MeshHookError):
    """A database URL leads to a host that the operator's settings do not allow."""


class AnswerRefusedError(DatabaseError):
    """A database has answered more than it may, or what makes no sense."""

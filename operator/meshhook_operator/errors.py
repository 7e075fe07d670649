"""Errors of the Kubernetes API and of databases, as the operator distinguishes them."""

from __future__ import annotations

from meshhook.errors import DatabaseError, MeshHookError


class ClusterError(MeshHookError):
    """The API server did not carry out a request."""


class ClusterUnavailableError(ClusterError):
    """The API server cannot be reached, or cannot answer now. Trying again may help."""


class ClusterRefusedError(ClusterError):
    """The API server refused a request; the message quotes its answer.

    Attributes:
        code: the HTTP status.
    """

    def __init__(self, message: str, code: int) -> None:
        """Take the answer's message and HTTP status."""
        super().__init__(message)
        self.code = code


class NamespaceEndingError(ClusterRefusedError):
    """Nothing can be created in a namespace that is being deleted."""


class NotLeadingError(ClusterUnavailableError):
    """A write by a process that does not lead, or no longer knows that it does."""


class HostNotAllowedError(MeshHookError):
    """A database URL leads to a host that the operator's settings do not allow."""


class AnswerRefusedError(DatabaseError):
    """A database sent an answer that is too large or malformed."""

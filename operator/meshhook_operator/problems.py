"""What an error means for a queue: a reason for the condition Ready, and a message for people."""

from __future__ import annotations

from http import HTTPStatus

import asyncpg

from meshhook.errors import (
    DatabaseError,
    DatabaseReadOnlyError,
    DatabaseUnavailableError,
    InvalidSettingError,
    MeshHookError,
    SchemaMissingError,
    UnsupportedPgmqError,
)
from meshhook_operator.api.conditions import Finding
from meshhook_operator.errors import (
    AnswerRefusedError,
    ClusterRefusedError,
    ClusterUnavailableError,
    HostNotAllowedError,
)
from meshhook_operator.scaling import Failure
from meshhook_operator.texts import capped

ANSWER_REFUSED = "AnswerRefused"
"""The reason for an answer of a database that is too large or malformed."""

_REASONS: tuple[tuple[type[MeshHookError], str], ...] = (
    (ClusterUnavailableError, "ClusterUnavailable"),
    (ClusterRefusedError, "ClusterRefused"),
    (HostNotAllowedError, "DatabaseHostNotAllowed"),
    (AnswerRefusedError, ANSWER_REFUSED),
    (DatabaseUnavailableError, "SourceUnavailable"),
    (DatabaseReadOnlyError, "DatabaseReadOnly"),
    (SchemaMissingError, "SchemaMissing"),
    (UnsupportedPgmqError, "SchemaMissing"),
    (InvalidSettingError, "InvalidDatabaseUrl"),
    (DatabaseError, "DatabaseRefused"),
)
_LOGIN_REFUSED = (
    asyncpg.InvalidPasswordError,
    asyncpg.InvalidAuthorizationSpecificationError,
)


def problem_of(error: MeshHookError) -> Failure:
    """Return the reason and the message for an error."""
    if isinstance(error.__cause__, _LOGIN_REFUSED):
        return _failure("LoginRefused", error)
    if isinstance(error, ClusterRefusedError) and error.code == HTTPStatus.FORBIDDEN:
        return _failure("Forbidden", error)
    reason = next((word for kind, word in _REASONS if isinstance(error, kind)), "Error")
    return _failure(reason, error)


def _failure(reason: str, error: MeshHookError) -> Failure:
    """Return them with the text made safe: it may quote a server, which may say anything."""
    return Failure(reason=reason, message=capped(str(error)))


def is_login_problem(failure: Failure) -> bool:
    """Whether reading the Secret again may solve it, since it may have changed."""
    return failure.reason in ("LoginRefused", "SourceUnavailable", "InvalidDatabaseUrl")


def not_ready(failure: Failure) -> Finding:
    """Return what the condition Ready says about a failure."""
    return Finding(holds=False, reason=failure.reason, message=failure.message)

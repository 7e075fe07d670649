"""What stands in the way of a queue: one word for the condition, one sentence for people."""

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
"""The reason where a database has answered more than it may, or what makes no sense."""

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
    """Return the reason and the message that an error makes."""
    if isinstance(error.__cause__, _LOGIN_REFUSED):
        return _failure("LoginRefused", error)
    if isinstance(error, ClusterRefusedError) and error.code == HTTPStatus.FORBIDDEN:
        return _failure("Forbidden", error)
    reason = next((word for kind, word in _REASONS if isinstance(error, kind)), "Error")
    return _failure(reason, error)


def _failure(reason: str, error: MeshHookError) -> Failure:
    """Return what an error makes: servers may have put anything into its text."""
    return Failure(reason=reason, message=capped(str(error)))


def is_login_problem(failure: Failure) -> bool:
    """Whether a Secret that was changed meanwhile may be the cure."""
    return failure.reason in ("LoginRefused", "SourceUnavailable", "InvalidDatabaseUrl")


def not_ready(failure: Failure) -> Finding:
    """Return what the condition Ready says of it."""
    return Finding(holds=False, reason=failure.reason, message=failure.message)

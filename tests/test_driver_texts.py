"""What servers say stands in this library's errors: cut, and with nothing that acts."""

from __future__ import annotations

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshhook.errors import MeshHookError
from meshhook.postgres.driver_errors import (
    translated_connect_errors,
    translated_errors,
    translated_statement_errors,
)
from support.hostile import TEXTS, is_safe_line

KINDS = [
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.ConnectionDoesNotExistError,
    asyncpg.InvalidPasswordError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.UndefinedTableError,
    asyncpg.LockNotAvailableError,
    asyncpg.UntranslatableCharacterError,
    asyncpg.exceptions.TargetServerAttributeNotMatched,
    asyncpg.exceptions.ClientConfigurationError,
    OSError,
]


@pytest.mark.parametrize(
    "translated", [translated_errors, translated_statement_errors, translated_connect_errors]
)
@given(kind=st.sampled_from(KINDS), text=TEXTS)
def test_what_a_server_says_is_safe_and_short(translated, kind, text):
    """In every error that it is turned into."""
    with pytest.raises(MeshHookError) as caught, translated():
        raise kind(text * 3)
    said = str(caught.value)
    assert len(said) < 1_500
    assert all(is_safe_line(line) for line in said.split("\n"))


def test_an_error_of_a_hundred_megabytes_is_cut():
    """With how much was cut."""
    with pytest.raises(MeshHookError, match="more characters") as caught, translated_errors():
        raise asyncpg.PostgresError("\x1b" * 100_000_000)
    assert len(str(caught.value)) < 1_500

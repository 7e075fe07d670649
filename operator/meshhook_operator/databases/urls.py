"""Checks of a URL from a Secret, before anything is done with it."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

from meshhook.errors import InvalidSettingError, WrongSchemeError
from meshhook.postgres.url import EXPECTED_FORM, parse_database_url
from meshhook_operator.errors import HostNotAllowedError

if TYPE_CHECKING:
    from meshhook.postgres.url import DatabaseUrl
    from meshhook_operator.databases.hosts import DatabaseHosts

MAX_URL_LENGTH = 8_192
MAX_FILE_BYTES = 1_048_576
DEFAULT_PORT = 5432

_FOREIGN_FILES = ("service", "servicefile", "passfile")
"""Parameters that would take a login from a file of the operator."""
_CERTIFICATES = ("sslcert", "sslkey", "sslrootcert", "sslcrl")


def check_url(url: str, hosts: DatabaseHosts) -> None:
    """Check that a URL can be parsed, and leads to allowed hosts and files only.

    The address of a name is checked when connecting, since it may change until then.

    Raises:
        InvalidSettingError: saying what is wrong, without anything that could be a password.
        HostNotAllowedError: naming the host.
    """
    if len(url) > MAX_URL_LENGTH:
        raise InvalidSettingError(
            f"the database URL has {len(url):,} characters where {MAX_URL_LENGTH:,} are allowed"
        )
    _check_parameters(url)
    try:
        target = parse_database_url(url)
    except WrongSchemeError:
        # It may not be a URL at all, so what precedes :// is not shown.
        raise InvalidSettingError(
            f"the database URL does not start with postgresql://. Expected {EXPECTED_FORM}"
        ) from None
    for name in _CERTIFICATES:
        if path := target.driver_parameters.get(name):
            _check_file(name, path)
    if not hosts.allows_all:
        _check_hosts(target, hosts)


def _check_parameters(url: str) -> None:
    try:
        query = parse_qsl(urlsplit(url).query, keep_blank_values=True)
    except ValueError:
        return  # the caller refuses the whole URL, with another message
    for name, _ in query:
        if name in _FOREIGN_FILES:
            raise InvalidSettingError(
                f"the parameter {name} of the database URL: the operator does not take logins from "
                "its own files; write host, user and password into the URL"
            )


def _check_hosts(target: DatabaseUrl, hosts: DatabaseHosts) -> None:
    if not target.hosts:
        raise HostNotAllowedError(hosts.refusal("a local socket", None))
    for host in target.hosts:
        port = host.port or DEFAULT_PORT
        is_socket = host.name.startswith(("/", "@"))
        if is_socket or not (hosts.allows_name(host.name, port) or hosts.needs_address(port)):
            raise HostNotAllowedError(hosts.refusal(host.name, None if is_socket else port))


def _check_file(parameter: str, path: str) -> None:
    """Refuse what has no end when it is read, such as a device or a pipe."""
    try:
        found = os.stat(path)  # noqa: PTH116 - the path may hold what pathlib refuses
    except (OSError, ValueError):
        return  # the driver reports that it does not exist
    if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_FILE_BYTES:
        raise InvalidSettingError(
            f"the parameter {parameter} of the database URL does not name a file with certificates"
        )

"""Parsing database URLs: what the driver handles, what we handle, and what is refused.

`parse_database_url` is the only place where one is parsed. No error quotes the URL: a password with
an unescaped special character may end up in any part of it.
"""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, NoReturn
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from meshhook.arguments import MAX_PORT
from meshhook.errors import InvalidSettingError, WrongSchemeError
from meshhook.known_secrets import known_secrets
from meshhook.postgres._tls import (
    check_files,
    refused,
    ssl_parameters,
    system_roots_context,
    with_environment,
)
from meshhook.postgres._url_parameters import DRIVERS_OWN, FOREIGN, HANDLED, KNOWN, REFUSED_BUT_FOR

EXPECTED_FORM = "postgresql://user:password@host:port/database"
PERCENT_HINT = (
    "in user, password and database, write special characters as in %40 for @, %3A for :, "
    "%2F for /, %3F for ?, %23 for #, %25 for %"
)

_SESSION_ATTRIBUTES = (
    "any",
    "primary",
    "standby",
    "prefer-standby",
    "read-write",
    "read-only",
)
_SCHEME = re.compile(r"((?:jdbc:)?[a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_SCHEMES = ("postgresql", "postgres")
_OTHER_SCHEME = re.compile(
    r"(?:jdbc:)?(?:https?|wss?|file|ftp|amqps?|rediss?|mysqlx?|mariadb|mongodb|sqlite|mssql|sqlserver"
    r"|oracle|cockroachdb|snowflake|clickhouse|duckdb|postgres(?:ql)?|psql|pgsql|pg)"
    r"(?:\+[a-z0-9]{1,12})?",
    re.IGNORECASE,
)
_USUAL_SETTINGS = frozenset({"datestyle", "intervalstyle", "jit", "options", "role", "timezone"})
_SETTING_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)?")
_PASSFILE_FIELDS = 5
_MAX_CONNECT_TIMEOUT_SECONDS = 3_600


class Host(NamedTuple):
    """One server to try."""

    name: str
    """A host name, an address, or the directory of a socket."""
    port: int | None
    """The port; None means the driver's default: PGPORT, or 5432."""


@dataclass(frozen=True, slots=True)
class SocketOptions:
    """What to set on the socket of a connection; None leaves the system's value."""

    keepalive: bool = True
    idle_seconds: int | None = None
    interval_seconds: int | None = None
    count: int | None = None
    user_timeout_ms: int | None = None


@dataclass(frozen=True, slots=True, repr=False)
class DatabaseUrl:
    """A parsed database URL. Its `repr` shows only `place`."""

    hosts: tuple[Host, ...]
    """The servers to try, in order; empty means the driver's default: PGHOST, or a local socket."""
    user: str | None
    password: str | None
    database: str | None
    connect_timeout_seconds: float | None
    """How long to try one host; None means our default."""
    target_session_attrs: str | None
    application_name: str | None
    server_settings: Mapping[str, str] = field(default_factory=dict)
    """Settings of the session, as the URL names them."""
    driver_parameters: Mapping[str, str] = field(default_factory=dict)
    """The parameters that the driver itself handles: TLS, Kerberos, password file."""
    socket_options: SocketOptions = SocketOptions()
    uses_system_roots: bool = False
    """Whether the server's certificate is checked against the system's authorities."""

    @property
    def place(self) -> str:
        """Where the database is: hosts, ports and name, without secrets."""
        shown = ", ".join(
            each.name if each.port is None else f"{each.name}:{each.port}" for each in self.hosts
        )
        return f"database {self.database or ''!r} at {shown or 'the local socket'}"

    def __repr__(self) -> str:
        """Show the place only."""
        return f"<DatabaseUrl {self.place}>"

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled: the pickle would hold the password."""
        raise TypeError("a DatabaseUrl is not pickled, for the password in it; parse the URL again")

    def driver_arguments(self) -> dict[str, Any]:
        """Return the arguments for `asyncpg.connect` that say where and as whom to connect.

        Raises:
            OSError: if a file with certificates cannot be read, or if others can read a key.
        """
        query = dict(self.driver_parameters)
        check_files(query)
        if self.password is None:
            _remember_passwords_elsewhere(query.get("passfile"))
        arguments: dict[str, Any] = {
            "user": self.user,
            "password": self.password,
            "database": self.database,
        }
        if self.uses_system_roots:
            arguments["ssl"] = system_roots_context(query)
        arguments["dsn"] = "postgresql://" + (f"?{urlencode(query)}" if query else "")
        return arguments


def parse_database_url(url: object) -> DatabaseUrl:
    """Parse a database URL.

    The parameters are those of libpq. Those that the driver does not support are refused, unless
    their value has no effect. Any other name is a setting of the session, such as
    `statement_timeout`.

    Args:
        url: postgresql://user:password@host:port/database?parameter=value. Several hosts are
            separated by commas.

    Raises:
        InvalidSettingError: naming the parameter, or what is wrong, and never a part of the URL
            that could belong to the password.
    """
    try:
        found = _parse(url)
    except InvalidSettingError as error:
        # The frames of the traceback hold parts of the URL in their variables, which some programs
        # print.
        failure = error.with_traceback(None)
    else:
        _remember(found)
        return found
    finally:
        del url
    raise failure from None


def _parse(url: object) -> DatabaseUrl:
    if not isinstance(url, str):
        raise InvalidSettingError(
            f"the database URL is text, got {_kind_of(url)}. Expected {EXPECTED_FORM}"
        )
    text = url.strip()
    if (found := _SCHEME.match(text)) and found[1].lower() not in _SCHEMES:
        # An unknown scheme is not shown: it may be a password followed by ://.
        if not _OTHER_SCHEME.fullmatch(found[1]):
            raise _invalid("it does not start with postgresql://")
        raise WrongSchemeError(found[1])
    if not text.isprintable():
        raise _invalid("it holds a line break or a control character")
    try:
        parts = urlsplit(text)
    except ValueError:
        raise _invalid("it holds a raw [ or ] or another character that must be escaped") from None
    if parts.scheme not in _SCHEMES:
        raise _invalid("it does not start with postgresql://")
    _check_for_raw_characters(text, parts.netloc, parts.path + parts.query)
    login, has_login, host_part = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    parameters = _parameters(parts.query)
    _remember_query(parameters)
    if service := parameters.pop("service", None):
        parameters = _service_parameters(service, parameters.pop("servicefile", None)) | parameters
    parameters.pop("servicefile", None)
    names = parameters.pop("host", None), parameters.pop("hostaddr", None)
    ports = parameters.pop("port", None)
    database = unquote(parts.path.removeprefix("/")) or None
    if not password and ":" in unquote(user):
        # The server would show what follows it as a part of the user's name.
        raise _invalid(
            "the colon between user and password is escaped (say a user's name with a colon in it "
            "by ?user=)"
        )
    if not parts.netloc and ":" in (database or ""):
        raise _invalid(
            "it holds a colon behind the third /, where the database is named (?dbname=)"
        )
    other_database = parameters.pop("dbname", None) or parameters.pop("database", None)
    parameters.pop("database", None)
    return _with_parameters(
        parameters,
        hosts=_hosts(host_part, *names, ports),
        user=(unquote(user) if has_login else "") or parameters.pop("user", None) or None,
        password=unquote(password) or parameters.pop("password", None) or None,
        database=database or other_database or None,
    )


def _remember(url: DatabaseUrl) -> None:
    """Register the secrets of a URL, to be hidden in all output of this process."""
    names = (url.user, url.database, url.application_name, *(host.name for host in url.hosts))
    known_secrets.remember(url.password, names=names)
    known_secrets.remember(url.driver_parameters.get("sslpassword"), names=names)


def _remember_query(parameters: Mapping[str, str]) -> None:
    """Register the secrets of the query, even if the rest of the URL is wrong."""
    names = tuple(parameters.get(each) for each in ("user", "dbname", "database", "host"))
    for name in ("password", "sslpassword", "oauth_client_secret", "scram_client_key"):
        known_secrets.remember(parameters.get(name), names=names)
    if parameters.get("password"):
        # After a raw & the rest of a password looks like a setting.
        for name, value in parameters.items():
            if name not in KNOWN and "_" not in name and "." not in name:
                known_secrets.remember(name, names=_USUAL_SETTINGS)
                known_secrets.remember(value, names=names)


def _remember_passwords_elsewhere(passfile: str | None) -> None:
    """Register the passwords that the driver looks up by itself."""
    known_secrets.remember(os.environ.get("PGPASSWORD"))
    file = passfile or os.environ.get("PGPASSFILE") or Path("~/.pgpass").expanduser()
    try:
        lines = Path(file).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        fields = re.split(r"(?<!\\):", line.strip(), maxsplit=4)
        if len(fields) == _PASSFILE_FIELDS:
            known_secrets.remember(fields[-1], names=fields[:-1])
            known_secrets.remember(re.sub(r"\\(.)", r"\1", fields[-1]), names=fields[:-1])


def _goes_through_network(hosts: tuple[Host, ...]) -> bool:
    names = [host.name for host in hosts] or (os.environ.get("PGHOST") or "/").split(",")
    return not any(name.startswith(("/", "@")) for name in names)


def _with_parameters(
    parameters: dict[str, str],
    *,
    hosts: tuple[Host, ...],
    user: str | None,
    password: str | None,
    database: str | None,
) -> DatabaseUrl:
    parameters = {
        name: value for name, value in parameters.items() if name not in {"user", "password"}
    }
    in_url, parameters = parameters, with_environment(parameters)
    tls = ssl_parameters(parameters, in_url=in_url)
    if parameters.get("channel_binding") == "require" and not _goes_through_network(hosts):
        raise refused("channel_binding", "require needs TLS, which a local socket does not have")
    uses_system_roots = tls.get("sslrootcert") == "system"
    if uses_system_roots:
        del tls["sslrootcert"]
        tls.pop("sslmode", None)
    settings = _server_settings(parameters)
    return DatabaseUrl(
        hosts=hosts,
        user=user,
        password=password,
        database=database,
        connect_timeout_seconds=_connect_timeout(parameters),
        target_session_attrs=_one_of(parameters, "target_session_attrs", _SESSION_ATTRIBUTES),
        application_name=parameters.get("application_name") or None,
        server_settings=settings,
        driver_parameters=tls
        | {name: parameters[name] for name in DRIVERS_OWN if parameters.get(name)},
        socket_options=_socket_options(parameters),
        uses_system_roots=uses_system_roots,
    )


def _check_for_raw_characters(text: str, netloc: str, rest: str) -> None:
    """Refuse a URL that an unescaped special character in the password splits in the wrong place.

    Raises:
        InvalidSettingError: without quoting any of it.
    """
    if "#" in text:
        raise _invalid("it holds a raw #")
    if netloc.count("@") > 1:
        raise _invalid("it holds more than one raw @ before the host")
    if "@" in rest:
        # What looks like the host is the beginning of the login.
        raise _invalid("it holds a raw @ behind the host, as after a password with a raw / or ?")


def _parameters(query: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise _invalid("what stands after the ? is not name=value, parted by &") from None
    return dict(pairs)


def _service_parameters(service: str, file_name: str | None) -> dict[str, str]:
    """Return the parameters of a service in a connection service file.

    Raises:
        InvalidSettingError: if there is no such file or service: the default database must not be
            used instead.
    """
    place = file_name or os.environ.get("PGSERVICEFILE")
    file = Path(place) if place else Path("~/.pg_service.conf").expanduser()
    services = configparser.RawConfigParser(strict=False)
    try:
        found = services.read(file, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError):
        raise refused("service", f"the file {str(file)!r} cannot be read as one") from None
    if not found:
        raise refused(
            "service",
            f"there is no file {str(file)!r}; PGSERVICEFILE or servicefile= names another",
        )
    if not services.has_section(service):
        raise refused("service", f"the file {str(file)!r} has no such service")
    values = dict(services.items(service))
    if "ldap" in values or "service" in values:
        raise refused("service", f"the service in {str(file)!r} refers to another place")
    return values


def _hosts(
    netloc: str, names: str | None, addresses: str | None, ports: str | None
) -> tuple[Host, ...]:
    if names and addresses:
        raise refused("hostaddr", "not together with host; name one of them")
    in_netloc = bool(netloc) and netloc != ":"
    listed = netloc if in_netloc else (names or addresses or "")
    hosts = [_host(each, unescape=in_netloc) for each in listed.split(",")] if listed else []
    if ports:
        numbers = [_port(each) for each in ports.split(",")]
        if len(numbers) == 1:
            numbers *= max(1, len(hosts))
        if not hosts:
            hosts = [Host("localhost", None)]
        if len(numbers) != len(hosts):
            raise refused("port", f"{len(numbers)} ports do not fit {len(hosts)} hosts")
        pairs = zip(hosts, numbers, strict=True)
        hosts = [Host(host.name, host.port or number) for host, number in pairs]
    return tuple(hosts)


def _host(text: str, *, unescape: bool) -> Host:
    if text.startswith("["):
        name, bracket, port = text[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            raise _invalid("an address in [ ] is not closed")
        port = port.removeprefix(":")
    elif text.startswith("/"):
        name, port = text, ""
    else:
        name, _, port = text.partition(":")
        if ":" in port and not unescape:
            # An address of IPv6, which needs no brackets as a value.
            name, port = text, ""
    name = unquote(name) if unescape else name
    if not name:
        name = "localhost"
    return Host(name, _port(unquote(port)) if port else None)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:6]) <= MAX_PORT):
        # Not shown: it may be a part of a password with a raw / in it.
        raise _invalid(f"a port is not a number from 1 to {MAX_PORT}")
    return int(text)


def _connect_timeout(parameters: Mapping[str, str]) -> float | None:
    seconds = _number(parameters, "connect_timeout", _MAX_CONNECT_TIMEOUT_SECONDS, least=-1)
    return float(seconds) if seconds is not None and seconds > 0 else None


def _socket_options(parameters: Mapping[str, str]) -> SocketOptions:
    return SocketOptions(
        keepalive=_number(parameters, "keepalives", 1) != 0,
        idle_seconds=_number(parameters, "keepalives_idle", 32_767) or None,
        interval_seconds=_number(parameters, "keepalives_interval", 32_767) or None,
        count=_number(parameters, "keepalives_count", 127) or None,
        user_timeout_ms=_number(parameters, "tcp_user_timeout", 2**31 - 1) or None,
    )


def _number(parameters: Mapping[str, str], name: str, most: int, *, least: int = 0) -> int | None:
    text = parameters.get(name)
    if not text:
        return None
    if not re.fullmatch(r"-?[0-9]{1,10}", text) or not least <= int(text) <= most:
        raise refused(name, f"a whole number from {least} to {most}")
    return int(text)


def _server_settings(parameters: Mapping[str, str]) -> dict[str, str]:
    """Return the parameters that are settings of the session.

    Raises:
        InvalidSettingError: naming a parameter that is not supported.
    """
    settings: dict[str, str] = {}
    for name, value in parameters.items():
        if name in REFUSED_BUT_FOR:
            allowed, reason = REFUSED_BUT_FOR[name]
            if value not in allowed:
                raise refused(name, reason)
        elif name in FOREIGN:
            raise refused(name, FOREIGN[name])
        elif name not in HANDLED:
            if not _SETTING_NAME.fullmatch(name):
                raise _invalid("a parameter has a name that no setting can have")
            settings[name] = value
    return settings


def _one_of(parameters: Mapping[str, str], name: str, values: tuple[str, ...]) -> str | None:
    value = parameters.get(name) or None
    if value is not None and value not in values:
        raise refused(name, f"one of {', '.join(values)}")
    return value


def _kind_of(value: object) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _invalid(reason: str) -> InvalidSettingError:
    return InvalidSettingError(
        f"the database URL is not valid: {reason} (it is not shown, for the password in it). "
        f"Expected {EXPECTED_FORM}; {PERCENT_HINT}"
    )

"""The URL of a database: what of it the driver takes, what we do ourselves, what is refused.

`parse_database_url` is the only place where one is read. No error of it quotes the URL: a password
with a raw special character may end up in any part.
"""

from __future__ import annotations

import configparser
import os
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from meshhook.errors import InvalidSettingError, WrongSchemeError
from meshhook.limits import MAX_PORT

EXPECTED_FORM = "postgresql://user:password@host:port/database"
PERCENT_HINT = (
    "in user, password and database, write special characters as in %40 for @, %3A for :, "
    "%2F for /, %3F for ?, %23 for #, %25 for %"
)

_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
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
_SETTING_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)?")
_MAX_CONNECT_TIMEOUT_SECONDS = 3_600


class Host(NamedTuple):
    """One server to try."""

    name: str
    """A name, an address, or the directory of a socket."""
    port: int | None
    """Its port; None means the driver's default: PGPORT, or 5432."""


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
    """A database URL, read. It shows nothing of itself but `place`."""

    hosts: tuple[Host, ...]
    """The servers to try, in order; none means the driver's default: PGHOST, or a local socket."""
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
    """What the driver reads from a URL by itself: TLS, Kerberos, password file."""
    socket_options: SocketOptions = SocketOptions()
    uses_system_roots: bool = False
    """Whether the server's certificate is checked against the system's authorities."""

    @property
    def place(self) -> str:
        """Where the database is: hosts, ports and name, and nothing secret."""
        shown = ", ".join(
            each.name if each.port is None else f"{each.name}:{each.port}" for each in self.hosts
        )
        return f"database {self.database or ''!r} at {shown or 'the local socket'}"

    def __repr__(self) -> str:
        """Show the place only."""
        return f"<DatabaseUrl {self.place}>"

    def driver_arguments(self) -> dict[str, Any]:
        """Return the arguments for `asyncpg.connect` that say where and as whom to connect.

        Raises:
            OSError: if a file with certificates cannot be read.
        """
        query = dict(self.driver_parameters)
        arguments: dict[str, Any] = {
            "user": self.user,
            "password": self.password,
            "database": self.database,
        }
        if self.uses_system_roots:
            arguments["ssl"] = _system_roots_context(query)
        arguments["dsn"] = "postgresql://" + (f"?{urlencode(query)}" if query else "")
        return arguments


def parse_database_url(url: object) -> DatabaseUrl:
    """Read a database URL.

    The parameters are those of libpq. Those that the driver has no means for are refused, unless
    their value asks for what happens anyway. Any other name is taken for a setting of the session,
    such as `statement_timeout`.

    Args:
        url: postgresql://user:password@host:port/database?parameter=value. Several hosts are
            parted by commas.

    Raises:
        InvalidSettingError: naming the parameter, or what is wrong, and never a part of the URL
            that could belong to the password.
    """
    if not isinstance(url, str):
        raise InvalidSettingError(
            f"the database URL is text, got {_kind_of(url)}. Expected {EXPECTED_FORM}"
        )
    text = url.strip()
    if (found := _SCHEME.match(text)) and found[1].lower() not in _SCHEMES:
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
    if service := parameters.pop("service", None):
        parameters = _service_parameters(service, parameters.pop("servicefile", None)) | parameters
    parameters.pop("servicefile", None)
    names = parameters.pop("host", None), parameters.pop("hostaddr", None)
    ports = parameters.pop("port", None)
    database = unquote(parts.path.removeprefix("/")) or None
    other_database = parameters.pop("dbname", None) or parameters.pop("database", None)
    parameters.pop("database", None)
    return _with_parameters(
        parameters,
        hosts=_hosts(host_part, *names, ports),
        user=(unquote(user) if has_login else "") or parameters.pop("user", None) or None,
        password=unquote(password) or parameters.pop("password", None) or None,
        database=database or other_database or None,
    )


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
    ssl_parameters = _ssl_parameters(parameters)
    if parameters.get("channel_binding") == "require":
        ssl_parameters = _proving_server(ssl_parameters)
    uses_system_roots = ssl_parameters.get("sslrootcert") == "system"
    if uses_system_roots:
        if ssl_parameters.get("sslmode", "verify-full") != "verify-full":
            raise _refused("sslrootcert", "system goes with sslmode=verify-full only")
        del ssl_parameters["sslrootcert"]
        ssl_parameters.pop("sslmode", None)
    settings: dict[str, str] = {}
    for name, value in parameters.items():
        if name in _REFUSED_BUT_FOR:
            allowed, reason = _REFUSED_BUT_FOR[name]
            if value not in allowed:
                raise _refused(name, reason)
        elif name in _FOREIGN:
            raise _refused(name, _FOREIGN[name])
        elif name not in _HANDLED:
            if not _SETTING_NAME.fullmatch(name):
                raise _invalid("a parameter has a name that no setting can have")
            settings[name] = value
    return DatabaseUrl(
        hosts=hosts,
        user=user,
        password=password,
        database=database,
        connect_timeout_seconds=_connect_timeout(parameters),
        target_session_attrs=_one_of(parameters, "target_session_attrs", _SESSION_ATTRIBUTES),
        application_name=parameters.get("application_name") or None,
        server_settings=settings,
        driver_parameters=ssl_parameters
        | {name: parameters[name] for name in _DRIVERS_OWN if parameters.get(name)},
        socket_options=_socket_options(parameters),
        uses_system_roots=uses_system_roots,
    )


def _proving_server(ssl_parameters: dict[str, str]) -> dict[str, str]:
    """Return parameters of TLS that prove who the server is, as binding the channel would.

    The driver (asyncpg) has no channel binding. A certificate that is verified in full proves as
    much: against the authority that the URL names, else against those that the system trusts.
    """
    sslmode = ssl_parameters.get("sslmode", "require")
    if sslmode not in {"require", "verify-ca", "verify-full"}:
        raise _refused("channel_binding", f"require needs TLS, and sslmode is {sslmode}")
    roots = ssl_parameters.get("sslrootcert", "system")
    return ssl_parameters | {"sslmode": "verify-full", "sslrootcert": roots}


_SSL_FILES = (
    "sslcert",
    "sslkey",
    "sslpassword",
    "sslrootcert",
    "sslcrl",
    "sslnegotiation",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
)
_DRIVERS_OWN = ("passfile", "krbsrvname", "gsslib")
_KEEPALIVES = (
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
)
_HANDLED = {
    *_SSL_FILES,
    *_DRIVERS_OWN,
    *_KEEPALIVES,
    "sslmode",
    "ssl",
    "requiressl",
    "connect_timeout",
    "target_session_attrs",
    "application_name",
    # Ours comes before it, as the default of any program does.
    "fallback_application_name",
    "channel_binding",
}

_NO_MEANS = "the driver (asyncpg) has no means for it; leave it out"
_OFF = ("", "0", "off", "false", "no", "disable")
_REFUSED_BUT_FOR: dict[str, tuple[tuple[str, ...], str]] = {
    "client_encoding": (
        ("auto", "utf8", "utf-8", "UTF8", "UTF-8", "unicode", "UNICODE"),
        "text is always sent as UTF-8; leave it out",
    ),
    "gssencmode": (
        ("disable", "prefer"),
        "require is not possible: the driver (asyncpg) encrypts with TLS only; use sslmode",
    ),
    "gssdelegation": (_OFF, _NO_MEANS),
    "load_balance_hosts": (("disable", ""), "hosts are tried in their order; leave it out"),
    "min_protocol_version": (("", "3.0"), "the driver (asyncpg) speaks version 3.0 only"),
    "max_protocol_version": (("", "3.0", "3.2", "latest"), "the driver speaks version 3.0 only"),
    "replication": (_OFF, "a session for replication cannot hold queues; leave it out"),
    "require_auth": (("",), _NO_MEANS),
    "requirepeer": (("",), _NO_MEANS),
    "sslcertmode": (("", "allow"), _NO_MEANS),
    "sslcompression": (("", "0", "1"), _NO_MEANS),
    "sslcrldir": (("",), "the driver (asyncpg) reads one file: sslcrl"),
    "sslkeylogfile": (("",), _NO_MEANS),
    "sslsni": (("", "1"), "the driver (asyncpg) always sends the server's name"),
    **dict.fromkeys(
        (
            "scram_client_key",
            "scram_server_key",
            "oauth_issuer",
            "oauth_client_id",
            "oauth_client_secret",
            "oauth_scope",
        ),
        (("",), _NO_MEANS),
    ),
}
"""Parameters that the driver has no means for: the values that change nothing, and the reason."""

_POOL = "a setting of other drivers; the size of a pool is an argument of Database.connect"
_FOREIGN = {
    "pgbouncer": "a setting of Prisma; say pooled=True, or MESHHOOK_POOLED=true, instead",
    "prepareThreshold": "a setting of JDBC; say pooled=True, or MESHHOOK_POOLED=true, instead",
    "prepare_threshold": "a setting of psycopg; say pooled=True, or MESHHOOK_POOLED=true, instead",
    "statement_cache_size": "an argument of asyncpg; say pooled=True, or MESHHOOK_POOLED=true",
    "schema": "a setting of Prisma; the queues are always in the schemas pgmq and meshhook",
    "currentSchema": "a setting of JDBC; the queues are always in the schemas pgmq and meshhook",
    "connection_limit": _POOL,
    "pool_timeout": _POOL,
    "pool": _POOL,
    "pool_size": _POOL,
    "sslaccept": "a setting of Prisma; use sslmode",
    "uselibpqcompat": "a setting of node-postgres; sslmode means what it means to libpq",
}
"""Parameters of other drivers, which the server would refuse by a puzzling message."""


def _check_for_raw_characters(text: str, netloc: str, rest: str) -> None:
    """Refuse a URL in which a raw special character of the password has moved a border.

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
    """Return what a connection service file says of a service.

    Raises:
        InvalidSettingError: if there is no such file or service: the default database must not be
            taken instead.
    """
    place = file_name or os.environ.get("PGSERVICEFILE")
    file = Path(place) if place else Path("~/.pg_service.conf").expanduser()
    services = configparser.RawConfigParser(strict=False)
    try:
        found = services.read(file, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError):
        raise _refused("service", f"the file {str(file)!r} cannot be read as one") from None
    if not found:
        raise _refused(
            "service",
            f"there is no file {str(file)!r}; PGSERVICEFILE or servicefile= names another",
        )
    if not services.has_section(service):
        raise _refused("service", f"the file {str(file)!r} has no such service")
    values = dict(services.items(service))
    if "ldap" in values or "service" in values:
        raise _refused("service", f"the service in {str(file)!r} refers to another place")
    return values


def _hosts(
    netloc: str, names: str | None, addresses: str | None, ports: str | None
) -> tuple[Host, ...]:
    if names and addresses:
        raise _refused("hostaddr", "not together with host; name one of them")
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
            raise _refused("port", f"{len(numbers)} ports do not fit {len(hosts)} hosts")
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


def _ssl_parameters(parameters: Mapping[str, str]) -> dict[str, str]:
    found = {name: parameters[name] for name in _SSL_FILES if parameters.get(name)}
    mode = parameters.get("sslmode")
    if mode is None and (text := parameters.get("ssl")) is not None:
        # As node-postgres and JDBC write it.
        modes = dict.fromkeys(("1", "true", "on", "require"), "require")
        mode = (modes | dict.fromkeys(("0", "false", "off"), "disable")).get(text.lower())
        if mode is None:
            raise _refused("ssl", "true or false; sslmode says more")
    if mode is None and parameters.get("requiressl"):
        mode = "require" if parameters["requiressl"] == "1" else "prefer"
    if mode == "no-verify":
        mode = "require"  # what node-postgres calls it
    if mode:
        if mode not in _SSL_MODES:
            raise _refused("sslmode", f"one of {', '.join(_SSL_MODES)}")
        found["sslmode"] = mode
    return found


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
        raise _refused(name, f"a whole number from {least} to {most}")
    return int(text)


def _one_of(parameters: Mapping[str, str], name: str, values: tuple[str, ...]) -> str | None:
    value = parameters.get(name) or None
    if value is not None and value not in values:
        raise _refused(name, f"one of {', '.join(values)}")
    return value


def _system_roots_context(query: dict[str, str]) -> ssl.SSLContext:
    """Return a context that checks against the system's authorities, and what goes with it."""
    context = ssl.create_default_context()
    steps: tuple[tuple[str, Callable[[str], None]], ...] = (
        ("ssl_min_protocol_version", lambda text: _set_version(context, "minimum_version", text)),
        ("ssl_max_protocol_version", lambda text: _set_version(context, "maximum_version", text)),
        ("sslcrl", lambda file: _load_revoked(context, file)),
    )
    for name, take in steps:
        if text := query.pop(name, None):
            take(text)
    password = query.pop("sslpassword", "")
    key = query.pop("sslkey", None)
    if certificate := query.pop("sslcert", None):
        context.load_cert_chain(certificate, key, password=lambda: password)
    return context


def _set_version(context: ssl.SSLContext, attribute: str, text: str) -> None:
    try:
        setattr(context, attribute, ssl.TLSVersion[text.replace(".", "_")])
    except KeyError:
        name = "ssl_min_protocol_version" if "min" in attribute else "ssl_max_protocol_version"
        raise _refused(name, "TLSv1.2 or TLSv1.3") from None


def _load_revoked(context: ssl.SSLContext, file: str) -> None:
    context.load_verify_locations(cafile=file)
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN


def _kind_of(value: object) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _invalid(reason: str) -> InvalidSettingError:
    return InvalidSettingError(
        f"the database URL is not valid: {reason} (it is not shown, for the password in it). "
        f"Expected {EXPECTED_FORM}; {PERCENT_HINT}"
    )


def _refused(name: str, reason: str) -> InvalidSettingError:
    return InvalidSettingError(f"the parameter {name} of the database URL: {reason}")

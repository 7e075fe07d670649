"""The URL of a database that Django's settings describe."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlencode

from django.db import connections

from meshhook.errors import InvalidSettingError
from meshhook.escaping import quoted

_PARAMETERS = {
    *("application_name", "channel_binding", "connect_timeout", "gssencmode", "options"),
    *("keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval"),
    *("passfile", "service", "sslcert", "sslcrl", "sslkey", "sslmode", "sslnegotiation"),
    *("sslpassword", "sslrootcert", "target_session_attrs", "tcp_user_timeout"),
}
"""What OPTIONS and a URL both may have; the rest of OPTIONS is for Django or its driver."""


def database_url(using: str = "default") -> str:
    """Return the URL of a database in DATABASES, for `App` and workers.

    Args:
        using: its name in DATABASES. Default `default`.

    Raises:
        InvalidSettingError: if it is no PostgreSQL, or there is none of that name.
    """
    if using not in connections:
        raise InvalidSettingError(
            f"DATABASES has no database {quoted(using)}; it has {', '.join(connections)}"
        )
    connection = connections[using]
    if connection.vendor != "postgresql":
        raise InvalidSettingError(
            f"the database {quoted(using)} in DATABASES is of {quoted(connection.vendor)}, and "
            "jobs are kept in PostgreSQL; name one that is"
        )
    return _url_of(connection.settings_dict)


def _url_of(settings: dict[str, Any]) -> str:
    host, port = str(settings.get("HOST") or ""), str(settings.get("PORT") or "")
    user, password = str(settings.get("USER") or ""), str(settings.get("PASSWORD") or "")
    options = settings.get("OPTIONS") or {}
    parameters = {name: str(options[name]) for name in sorted(_PARAMETERS & options.keys())}
    if host.startswith("/"):
        # A folder of sockets has no place in front of the path.
        parameters["host"] = host
        if port:
            parameters["port"] = port
        host = port = ""
    login = quote(user, safe="") + (f":{quote(password, safe='')}" if password else "")
    return (
        f"postgresql://{login}{'@' if login else ''}{f'[{host}]' if ':' in host else host}"
        f"{f':{port}' if port else ''}/{quote(str(settings.get('NAME') or ''), safe='')}"
        f"{'?' if parameters else ''}{urlencode(parameters, quote_via=quote)}"
    )

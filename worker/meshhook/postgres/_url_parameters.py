"""The parameters that a database URL may have, and how each of them is handled."""

from __future__ import annotations

from meshhook.postgres._tls import SSL_PARAMETERS

DRIVERS_OWN = ("passfile", "krbsrvname", "gsslib")
KEEPALIVES = (
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
)
HANDLED = {
    *SSL_PARAMETERS,
    *DRIVERS_OWN,
    *KEEPALIVES,
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

_KNOWN_PLACES = ("host", "hostaddr", "port", "user", "password", "dbname", "database")

_NO_MEANS = "the driver (asyncpg) has no means for it; leave it out"
_OFF = ("", "0", "off", "false", "no", "disable")
REFUSED_BUT_FOR: dict[str, tuple[tuple[str, ...], str]] = {
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
    "require_auth": (
        ("",),
        (
            "the driver (asyncpg) answers as the server asks, also with the password itself; leave "
            "it out, and say sslmode=verify-full, so that only the right server asks"
        ),
    ),
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
"""Parameters that the driver does not support: the values that have no effect, and the reason."""

_POOL = "a setting of other drivers; the size of a pool is an argument of Database.connect"
FOREIGN = {
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
"""Parameters of other drivers, which the server would refuse with a puzzling message."""

KNOWN = frozenset({*_KNOWN_PLACES, "service", "servicefile", *HANDLED, *REFUSED_BUT_FOR, *FOREIGN})

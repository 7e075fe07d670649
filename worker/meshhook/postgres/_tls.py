"""TLS to a database as libpq's parameters request it: parsed, checked and passed to the driver.

What the driver (asyncpg) cannot do is refused. Files are read again for each connection, so that
certificates can be rotated while a program runs.
"""

from __future__ import annotations

import os
import ssl
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from meshhook.errors import InvalidSettingError

SSL_PARAMETERS = (
    "sslcert",
    "sslkey",
    "sslpassword",
    "sslrootcert",
    "sslcrl",
    "sslnegotiation",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
)
"""The parameters passed to the driver in addition to `sslmode`."""

_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_WITHOUT_PROOF = ("allow", "prefer")
_VERSIONS = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
_CHOICES = {
    "ssl_min_protocol_version": _VERSIONS,
    "ssl_max_protocol_version": _VERSIONS,
    "sslnegotiation": ("postgres", "direct"),
    "channel_binding": ("disable", "prefer", "require"),
    "gsslib": ("gssapi", "sspi"),
}
_ALPN_PROTOCOL = "postgresql"
_DEFAULT_CERTIFICATE = ".postgresql/postgresql.crt"
_DEFAULT_KEY = ".postgresql/postgresql.key"

_ENVIRONMENT = {
    "PGSSLMODE": "sslmode",
    "PGREQUIRESSL": "requiressl",
    "PGSSLNEGOTIATION": "sslnegotiation",
    "PGSSLCERT": "sslcert",
    "PGSSLKEY": "sslkey",
    "PGSSLCERTMODE": "sslcertmode",
    "PGSSLROOTCERT": "sslrootcert",
    "PGSSLCRL": "sslcrl",
    "PGSSLCRLDIR": "sslcrldir",
    "PGSSLSNI": "sslsni",
    "PGSSLMINPROTOCOLVERSION": "ssl_min_protocol_version",
    "PGSSLMAXPROTOCOLVERSION": "ssl_max_protocol_version",
    "PGCHANNELBINDING": "channel_binding",
    "PGREQUIREAUTH": "require_auth",
    "PGREQUIREPEER": "requirepeer",
    "PGGSSENCMODE": "gssencmode",
    "PGGSSDELEGATION": "gssdelegation",
}
"""libpq's environment variables about the security of a connection, and their parameters."""
_MODE_NAMES = ("sslmode", "ssl", "requiressl")


def refused(name: str, reason: str) -> InvalidSettingError:
    """Return the error for a parameter; it also names the libpq variable that set it."""
    variable = next((each for each, stands_for in _ENVIRONMENT.items() if stands_for == name), None)
    beside = f" (or {variable})" if variable is not None and os.environ.get(variable) else ""
    return InvalidSettingError(f"the parameter {name}{beside} of the database URL: {reason}")


def with_environment(parameters: Mapping[str, str]) -> dict[str, str]:
    """Return the parameters, with security settings missing in the URL taken from the environment.

    Every libpq program honours `PGSSLMODE` and similar variables. One that ignored them would
    connect less securely than all others.
    """
    found = dict(parameters)
    says_mode = any(parameters.get(each) for each in _MODE_NAMES)
    for variable, name in _ENVIRONMENT.items():
        value = os.environ.get(variable)
        if value and name not in parameters and not (says_mode and name in _MODE_NAMES):
            found[name] = value
    return found


def ssl_parameters(parameters: Mapping[str, str], *, in_url: Mapping[str, str]) -> dict[str, str]:
    """Return the TLS settings for the driver, by libpq's names.

    Args:
        parameters: all that are set.
        in_url: those among them that the URL names itself.

    Raises:
        InvalidSettingError: naming the parameter that is wrong, or that would have no effect.
    """
    found = {name: parameters[name] for name in SSL_PARAMETERS if parameters.get(name)}
    mode = _mode(parameters)
    if mode:
        found["sslmode"] = mode
    for name, values in _CHOICES.items():
        if parameters.get(name) and parameters[name] not in values:
            raise refused(name, f"one of {', '.join(values)}")
    if parameters.get("channel_binding") == "require":
        found = _proving_server(found)
    uses_system_roots = found.get("sslrootcert") == "system"
    mode = found.get("sslmode", "verify-full" if uses_system_roots else "prefer")
    if uses_system_roots and mode != "verify-full":
        raise refused("sslrootcert", "system goes with sslmode=verify-full only")
    if found.get("sslnegotiation") == "direct" and mode in {"disable", *_WITHOUT_PROOF}:
        raise refused("sslnegotiation", f"direct needs sslmode=require or more, and it is {mode}")
    if mode in _WITHOUT_PROOF:
        for name in ("sslrootcert", "sslcrl"):
            if in_url.get(name):
                raise refused(
                    name,
                    f"nothing is verified with sslmode={mode}; say sslmode=verify-full",
                )
            found.pop(name, None)
    return found


def _mode(parameters: Mapping[str, str]) -> str | None:
    mode = parameters.get("sslmode")
    if mode is None and (text := parameters.get("ssl")) is not None:
        # As node-postgres and JDBC write it.
        modes = dict.fromkeys(("1", "true", "on", "require"), "require")
        mode = (modes | dict.fromkeys(("0", "false", "off"), "disable")).get(text.lower())
        if mode is None:
            raise refused("ssl", "true or false; sslmode says more")
    if mode is None and parameters.get("requiressl"):
        mode = "require" if parameters["requiressl"] == "1" else "prefer"
    if mode == "no-verify":
        mode = "require"  # what node-postgres calls it
    if mode and mode not in _MODES:
        raise refused("sslmode", f"one of {', '.join(_MODES)}")
    return mode


def _proving_server(found: dict[str, str]) -> dict[str, str]:
    """Return TLS parameters that prove the server's identity, as channel binding would.

    The driver (asyncpg) has no channel binding. A fully verified certificate proves as much:
    against the authority that the URL names, or else those that the system trusts.
    """
    sslmode = found.get("sslmode", "require")
    if sslmode not in {"require", "verify-ca", "verify-full"}:
        raise refused("channel_binding", f"require needs TLS, and sslmode is {sslmode}")
    roots = found.get("sslrootcert", "system")
    return found | {"sslmode": "verify-full", "sslrootcert": roots}


def check_files(parameters: Mapping[str, str]) -> None:
    """Check that the files can be read, and that others cannot read the key, as libpq does.

    Raises:
        OSError: naming the file, the parameter, and for the key what its permissions must be.
    """
    if parameters.get("sslmode") == "disable":
        return
    for name in ("sslrootcert", "sslcrl", "sslcert", "sslkey"):
        if file := parameters.get(name):
            try:
                Path(file).open("rb").close()
            except OSError as error:
                # The driver would not say which.
                raise OSError(
                    error.errno, f"the file {file!r} ({name}) cannot be read: {error.strerror}"
                ) from None
    if os.name != "nt":
        _check_key_file(parameters)


def _check_key_file(parameters: Mapping[str, str]) -> None:
    home = Path("~").expanduser()
    if not parameters.get("sslcert") and not (home / _DEFAULT_CERTIFICATE).exists():
        return  # no key is used
    name = parameters.get("sslkey")
    file = Path(name) if name else home / _DEFAULT_KEY
    try:
        found = file.stat()
    except OSError:
        return  # the driver says so, where it needs it
    others = stat.S_IRWXG | stat.S_IRWXO
    if found.st_uid == 0:
        others &= ~stat.S_IRGRP
    if found.st_mode & others:
        raise PermissionError(
            f"the private key {str(file)!r} (sslkey) can be read by others, mode "
            f"{stat.S_IMODE(found.st_mode):04o}: it must be 0600 or less, or 0640 where it belongs "
            f"to root (chmod 600 {str(file)!r}; for a Secret of Kubernetes, defaultMode: 0440)"
        )


def system_roots_context(query: dict[str, str]) -> ssl.SSLContext:
    """Return a context that checks against the system's authorities.

    Args:
        query: parameters; those that go into the context are taken out.

    Raises:
        OSError: if a file with certificates cannot be read.
    """
    context = ssl.create_default_context()
    context.set_alpn_protocols([_ALPN_PROTOCOL])
    steps: tuple[tuple[str, Callable[[str], Any]], ...] = (
        ("ssl_min_protocol_version", lambda text: _set(context, "minimum_version", text)),
        ("ssl_max_protocol_version", lambda text: _set(context, "maximum_version", text)),
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


def _set(context: ssl.SSLContext, attribute: str, version: str) -> None:
    setattr(context, attribute, ssl.TLSVersion[version.replace(".", "_")])


def _load_revoked(context: ssl.SSLContext, file: str) -> None:
    context.load_verify_locations(cafile=file)
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN

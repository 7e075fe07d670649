"""Whether a request that changes something comes from the console's own pages."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meshhook.console.settings import ConsoleSettings

_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_HOST = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[\w.-]+))(?::[0-9]{0,5})?", re.ASCII)
_DEFAULT_PORTS = {"http": 80, "https": 443}


def is_allowed_host(host: str, settings: ConsoleSettings) -> bool:
    """Return whether a request may have a `Host`.

    A website may give its own name the address of the loopback: to the browser, the console is then
    that website. Its name gives it away.
    """
    name = _host_name(host)
    if name is None:
        return False
    allowed = {each.lower() for each in settings.allowed_hosts}
    if settings.public_url is not None:
        allowed.add((urlsplit(settings.public_url).hostname or "").lower())
    # No website has these names; and a port may be forwarded to this machine for a while.
    names = allowed | _LOOPBACK_NAMES
    if settings.authentication == "none":
        return name in names or (settings.allow_unauthenticated and _is_of_no_website(name))
    return not allowed or name in names


def is_same_origin(headers: Mapping[str, str], settings: ConsoleSettings) -> bool:
    """Return whether the page that sent a request is one of the console's.

    Browsers say so in `Sec-Fetch-Site`, and name the page's origin. What says neither is refused.
    """
    if headers.get("sec-fetch-site", "same-origin") != "same-origin":
        return False
    origin = headers.get("origin") or headers.get("referer")
    if not origin:
        return False
    sent = _origin_of(origin)
    if sent is None:
        return False
    host = headers.get("host", "")
    own = [f"{scheme}://{host}" for scheme in _DEFAULT_PORTS]
    if settings.public_url is not None:
        own = [settings.public_url]
        # A port that is forwarded to this machine for a while.
        own += [f"http://{host}"] if _host_name(host) in _LOOPBACK_NAMES else []
    return sent in {_origin_of(each) for each in own}


def _origin_of(url: str) -> tuple[str, str, int] | None:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        return None
    return parts.scheme, parts.hostname, port or _DEFAULT_PORTS[parts.scheme]


def _is_of_no_website(name: str) -> bool:
    """Return whether a name is an address, or one without a domain, as of a machine nearby."""
    try:
        ip_address(name)
    except ValueError:
        return "." not in name
    return True


def _host_name(host: str) -> str | None:
    # Not by urlsplit, to which "[::1].evil.example" is "::1".
    found = _HOST.fullmatch(host)
    return None if found is None else (found["v6"] or found["name"]).lower()

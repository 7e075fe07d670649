"""How often logins may fail: per address, and per address and name."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from ipaddress import IPv6Address, IPv6Network, ip_address

PERIOD_SECONDS = 60.0
MAX_FAILURES_OF_NAME = 5
"""How many logins of a name may fail from one address in a minute."""
MAX_FAILURES_OF_ADDRESS = 20
"""How many logins may fail from one address in a minute."""
NETWORK_BITS = 64
"""How much of an IPv6 address counts: whoever has one has all that begin so."""
_MAX_KEPT = 10_000


class LoginLimits:
    """Counts failed logins of the last minute."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Take the clock."""
        self._clock = clock
        self._failures: OrderedDict[Hashable, list[float]] = OrderedDict()

    def wait_seconds(self, address: str, name: str) -> int:
        """Return for how long no login of a name from an address is tried; 0 if it may be."""
        now = self._clock()
        waits = [0.0]
        for key, most in _limits(address, name):
            recent = [at for at in self._failures.get(key, ()) if at > now - PERIOD_SECONDS]
            if len(recent) >= most:
                waits.append(recent[-most] + PERIOD_SECONDS - now)
        return math.ceil(max(waits))

    def note_failure(self, address: str, name: str) -> None:
        """Count a failed login."""
        now = self._clock()
        for key, most in _limits(address, name):
            kept = self._failures.setdefault(key, [])
            kept.append(now)
            del kept[:-most]
            self._failures.move_to_end(key)
        while len(self._failures) > _MAX_KEPT:
            self._failures.popitem(last=False)

    def forget_one(self, address: str, name: str) -> None:
        """Take the newest failed login back: it has not failed."""
        for key, _ in _limits(address, name):
            if kept := self._failures.get(key):
                kept.pop()


def _limits(address: str, name: str) -> tuple[tuple[Hashable, int], ...]:
    place = _place(address)
    return (
        (place, MAX_FAILURES_OF_ADDRESS),
        ((place, name), MAX_FAILURES_OF_NAME),
    )


def _place(address: str) -> str:
    try:
        found = ip_address(address)
    except ValueError:
        return address
    if not isinstance(found, IPv6Address):
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(IPv6Network((int(found), NETWORK_BITS), strict=False))

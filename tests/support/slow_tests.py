"""The tests that take long, which `make test-fast` leaves out: tests/slow_tests.txt."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Generator, Iterable, Mapping
from pathlib import Path

import pytest

FILE = Path(__file__).parents[1] / "slow_tests.txt"
LIMIT_SECONDS = 1.0
"""A test function is slow if one of its cases takes longer."""
LIMIT_OF_ALL_SECONDS = 1.0
"""So it is if all its cases together take longer."""


def function_of(nodeid: str) -> str:
    """Return the function of a test, without the values of its parameters."""
    return nodeid.partition("[")[0]


def read() -> frozenset[str]:
    """Return the functions that are known to be slow."""
    return frozenset(FILE.read_text().split())


def is_slow(seconds: Iterable[float]) -> bool:
    """Say whether a function is slow whose cases took these times."""
    taken = list(seconds)
    return max(taken) > LIMIT_SECONDS or sum(taken) > LIMIT_OF_ALL_SECONDS


def updated(known: Iterable[str], measured: Mapping[str, Iterable[float]]) -> list[str]:
    """Return the slow functions in order: as measured, and as known where nothing was."""
    rest = {function for function in known if function not in measured}
    return sorted(rest | {function for function, taken in measured.items() if is_slow(taken)})


class Recorder:
    """Measures every test with its fixtures, and writes the file.

    A fixture of a module counts for each test that uses it: whichever runs alone has to wait for
    it. One of the session does not count.
    """

    def __init__(self) -> None:
        self._measured: dict[str, list[float]] = defaultdict(list)
        self._own_seconds = 0.0
        self._shared_seconds = 0.0
        self._module_seconds: dict[tuple[str, str], float] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[object], request: pytest.FixtureRequest
    ) -> Generator[None, object, object]:
        """Count a fixture, without those that it asks for and others share."""
        shared_before, started_at = self._shared_seconds, time.perf_counter()
        try:
            return (yield)
        finally:
            shared = self._shared_seconds - shared_before
            own = time.perf_counter() - started_at - shared
            if fixturedef.scope == "function":
                self._own_seconds += own
            else:
                self._shared_seconds += own
            if fixturedef.scope == "module":
                self._module_seconds[request.node.nodeid, fixturedef.argname] = own

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Count the test itself."""
        started_at = time.perf_counter()
        try:
            return (yield)
        finally:
            taken = self._own_seconds + time.perf_counter() - started_at
            module = item.nodeid.partition("::")[0]
            for name in getattr(item, "fixturenames", ()):
                taken += self._module_seconds.get((module, name), 0.0)
            self._measured[function_of(item.nodeid)].append(taken)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        """Begin anew."""
        self._own_seconds = 0.0

    def pytest_sessionfinish(self) -> None:
        """Write what was measured; what did not run stays as it is."""
        FILE.write_text("".join(f"{name}\n" for name in updated(read(), self._measured)))

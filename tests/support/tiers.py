"""What a test needs, as a marker that every test gets by itself, such as `unit` or `database`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

from support import slow_tests

TIERS = {
    "unit": "needs nothing but this process",
    "process": "starts programs, such as psql, promtool or another Python",
    "database": "uses a PostgreSQL of the fixtures",
    "cluster": "needs programs of Kubernetes, which are built once: the chart, the control plane",
    "e2e": "builds an image, or runs on a node",
    "chaos": "a storm of faults over processes; `make chaos` runs them",
}
"""The markers of which every test has exactly one, from the least need to the largest."""

SLOW = "slow"
"""The marker of tests that `make test-fast` leaves out although they need no cluster."""

_FOLDERS = {
    "tests/chart/": "cluster",
    "tests/e2e/": "e2e",
    "tests/image/": "e2e",
}
_FIXTURES = {
    "control_plane": "cluster",
    "postgres": "database",
    "server_template": "database",
}
_STARTERS = re.compile(r"subprocess|multiprocessing|EmbeddedPostgres|os\.fork\b")
_STARTS = frozenset(
    {"os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.system", "subprocess.Popen"}
)


def mark(items: Iterable[pytest.Item]) -> None:
    """Give each test the marker of what it needs, unless it or its module has one; and `slow`."""
    slow = slow_tests.read()
    for item in items:
        if slow_tests.function_of(item.nodeid) in slow:
            item.add_marker(SLOW)
        if tiers_of(item):
            continue
        fixtures = getattr(item, "fixturenames", ())
        module = getattr(item, "module", None)
        item.add_marker(tier(item.nodeid, fixtures, is_starter=starts_programs(module)))


def tiers_of(item: pytest.Item) -> list[str]:
    """Return which of the markers a test has."""
    return [name for name in TIERS if item.get_closest_marker(name) is not None]


def tier(nodeid: str, fixtures: Iterable[str], *, is_starter: bool) -> str:
    """Return what a test needs.

    Args:
        nodeid: its path and name.
        fixtures: the names of all fixtures that it uses, also through others.
        is_starter: whether its module may start programs.
    """
    for folder, name in _FOLDERS.items():
        if nodeid.startswith(folder):
            return name
    needs = {_FIXTURES[fixture] for fixture in fixtures if fixture in _FIXTURES}
    needs.add("process" if is_starter else "unit")
    return max(needs, key=list(TIERS).index)


@cache
def starts_programs(module: ModuleType | None) -> bool:
    """Say whether the text of a module, or of what it takes from `support`, starts programs."""
    if module is None or module.__file__ is None:
        return False
    if _STARTERS.search(Path(module.__file__).read_text()):
        return True
    names = {_module_of(value) for value in vars(module).values()} - {module.__name__}
    return any(
        starts_programs(sys.modules.get(name)) for name in names if name.startswith("support.")
    )


def _module_of(value: object) -> str:
    name = getattr(value, "__name__" if isinstance(value, ModuleType) else "__module__", "")
    return name if isinstance(name, str) else ""


class ProcessGuard:
    """Fails a test that is marked `unit` and starts a program, while it is on."""

    def __init__(self) -> None:
        self.is_on = False
        sys.addaudithook(self._hear)

    def _hear(self, event: str, _: tuple[object, ...]) -> None:
        if self.is_on and event in _STARTS:
            self.is_on = False
            pytest.fail(
                "a test marked `unit` starts a program: mark its module or it with "
                "`pytest.mark.process`"
            )

"""The markers that say what a test needs: every test has one of them, and it is true."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from support import slow_tests, tiers

ROOT = Path(__file__).parent.parent


def test_every_test_has_exactly_one_tier(request: pytest.FixtureRequest) -> None:
    """Whatever is collected has one of the markers, so `-m` selects it once."""
    found = {item.nodeid: tiers.tiers_of(item) for item in request.session.items}
    assert {nodeid: names for nodeid, names in found.items() if len(names) != 1} == {}


def test_the_markers_are_registered_with_what_they_mean() -> None:
    """`pytest --markers` says of each tier what it needs."""
    pytest_settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]
    registered = dict(line.split(": ", 1) for line in pytest_settings["markers"])
    assert registered.pop(tiers.SLOW)
    assert registered == tiers.TIERS


@pytest.mark.parametrize(
    ("nodeid", "fixtures", "is_starter", "name"),
    [
        ("tests/test_names.py::test_it", [], False, "unit"),
        ("tests/test_names.py::test_it", ["tmp_path"], True, "process"),
        ("tests/test_queues.py::test_it", ["pool", "database_url", "postgres"], True, "database"),
        (
            "tests/chaos/test_windows.py::test_it",
            ["make_server", "server_template"],
            True,
            "database",
        ),
        ("tests/cluster/test_scaling.py::test_it", ["postgres", "control_plane"], True, "cluster"),
        ("tests/cluster/test_programs.py::test_it", [], True, "process"),
        ("tests/chart/test_values.py::test_it", [], True, "cluster"),
        ("tests/e2e/test_deliveries.py::test_it", ["postgres"], True, "e2e"),
        ("tests/image/test_image.py::test_it", [], True, "e2e"),
    ],
)
def test_the_largest_need_decides(
    nodeid: str, fixtures: list[str], is_starter: bool, name: str
) -> None:
    """A test is of the tier of its folder, or of the largest thing that it uses."""
    assert tiers.tier(nodeid, fixtures, is_starter=is_starter) == name


def test_a_unit_test_may_not_start_a_program() -> None:
    """A marker that promises too much is a failure of the test."""
    guard = tiers.ProcessGuard()
    guard.is_on = True
    with pytest.raises(pytest.fail.Exception, match=r"pytest\.mark\.process"):
        subprocess.run(["true"], check=True)
    subprocess.run(["true"], check=True)


def test_every_slow_test_is_there() -> None:
    """A test that was renamed or removed leaves tests/slow_tests.txt: run it with --record-slow."""
    gone = []
    for function in slow_tests.read():
        path, name, *_ = function.split("::")
        file = ROOT / path
        if not file.is_file() or not re.search(rf"\b(def|class) {name}\b", file.read_text()):
            gone.append(function)
    assert sorted(gone) == []


def test_what_is_measured_replaces_what_was_known() -> None:
    """Only what ran changes: a slow case makes its function slow, and so do many cases."""
    known = ["a::gone", "a::quick_now", "b::did_not_run"]
    measured = {
        "a::quick_now": [0.9],
        "a::one_slow_case": [0.1, 1.1],
        "a::many_cases": [0.5] * 11,
        "a::gone": [0.1],
    }
    assert slow_tests.updated(known, measured) == [
        "a::many_cases",
        "a::one_slow_case",
        "b::did_not_run",
    ]

"""Recording what storms find, for docs/reliability.md: `make chaos ARGS=--record`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import pytest

from support.chaos import page
from support.chaos.fleet import Fleet

FOUND = pytest.StashKey[list[dict[str, Any]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that records."""
    parser.addoption(
        "--record",
        action="store_true",
        help="write what the storms find into docs/reliability.json and docs/reliability.md",
    )


@pytest.fixture(autouse=True)
def recorded(request: pytest.FixtureRequest, fleets: list[Fleet]) -> Iterator[None]:
    """Keep what the books of a storm say."""
    yield
    for fleet in fleets:
        if fleet.facts is not None and fleet.counts is not None:
            found = {
                "module": request.node.path.stem,
                "name": request.node.name,
                "title": title(request),
                "facts": asdict(fleet.facts),
                "wrong": {name: n for name, n in asdict(fleet.counts).items() if n},
            }
            request.config.stash.setdefault(FOUND, []).append(found)


def title(request: pytest.FixtureRequest) -> str:
    """Return the name of a storm in words."""
    words = request.node.originalname.removeprefix("test_").replace("_", " ")
    case = request.node.name.partition("[")[2].rstrip("]")
    return f"{words}: {case}" if case else str(words)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write what was found, if asked to; what other storms have found before stays."""
    found = session.config.stash.get(FOUND, [])
    if session.config.getoption("record") and found:
        recorded = page.read_results().get("storms", {"storms": []})["storms"]
        storms = {(storm["module"], storm["name"]): storm for storm in recorded + found}
        page.record(
            "storms", {"date": f"{datetime.now(UTC):%Y-%m-%d}", "storms": [*storms.values()]}
        )

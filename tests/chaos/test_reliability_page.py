"""docs/reliability.md says what docs/reliability.json has."""

from __future__ import annotations

from dataclasses import fields

import pytest

from support.chaos import page
from support.chaos.counts import Counts


@pytest.mark.parametrize("part", page.PARTS)
def test_the_page_agrees_with_the_results(part: str) -> None:
    """Each part between the markers is what was recorded; nobody edits it by hand."""
    results = page.read_results()
    assert page.written(page.PAGE.read_text(), part) == page.render(results, part)


def test_nothing_that_was_recorded_is_wrong() -> None:
    """The results that are published are those of runs in which everything was right."""
    results = page.read_results()
    assert [storm["name"] for storm in results["storms"]["storms"] if storm["wrong"]] == []
    assert results["soak"]["wrong"] == {}


UNFELT = ("clocks", "ten_workers")
"""Parts of names of storms that do nobody any harm if all is well."""


def test_the_faults_were_felt() -> None:
    """A storm over servers, networks or workers cost somebody an answer, a lease or his life."""
    unfelt = []
    for storm in page.read_results()["storms"]["storms"]:
        harm = ("uncertain", "refused", "lost_attempts", "died", "forgiven")
        is_harmless = storm["module"] == "test_upkeep" or any(n in storm["name"] for n in UNFELT)
        if not is_harmless and not any(storm["facts"][name] for name in harm):
            unfelt.append(storm["name"])
    assert unfelt == []


def test_every_subject_brings_its_jobs_to_their_end() -> None:
    """As the page says below the tables of the peers."""
    runs = page.read_results()["peers"]["runs"]
    assert [run for run in runs if run["unfinished"]] == []
    assert len(runs) == 4 * len(page.FAULTS)


def test_every_count_stands_for_a_promise() -> None:
    """The page names each count beside what it counts against."""
    promises = page.PAGE.read_text().partition("## How it is checked")[0]
    assert [field.name for field in fields(Counts) if f"`{field.name}`" not in promises] == []

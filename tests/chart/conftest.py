"""Fixtures for tests of the chart: the programs that they run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from support.cluster.building import build_if_needed
from support.helm import CHART
from support.skipping import skip

HERE = Path(__file__).parent
_PROGRAMS = ("helm", "kubeconform", "kube-score")
_MISSING = pytest.StashKey[str | None]()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build the programs before the first test."""
    session.config.stash[_MISSING] = build_if_needed(
        session, _PROGRAMS, lambda item: HERE in item.path.parents
    )


@pytest.fixture(autouse=True)
def _programs(pytestconfig: pytest.Config) -> None:
    """Skip tests that lack their programs; in CI, fail them."""
    if reason := pytestconfig.stash[_MISSING]:
        skip(reason)


@pytest.fixture(scope="session")
def notes_chart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart with its notes as a template like any other: without a cluster helm shows none."""
    copy = tmp_path_factory.mktemp("chart") / "meshhook"
    shutil.copytree(CHART, copy)
    notes = (copy / "templates" / "NOTES.txt").read_text()
    (copy / "templates" / "_notes.tpl").write_text(f'{{{{ define "notes" }}}}{notes}{{{{ end }}}}')
    (copy / "templates" / "notes.yaml").write_text('notes: {{ include "notes" . | toJson }}')
    return copy

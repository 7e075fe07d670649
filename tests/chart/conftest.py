"""Fixtures for tests of the chart: the programs that they run."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from support.cluster.programs import ProgramsMissingError, build, missing
from support.helm import CHART
from support.skipping import skip

_PROGRAMS = ("helm", "kubeconform", "kube-score")
_MISSING = pytest.StashKey[str]()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build the programs before the first test, whose time is limited; the build may take long."""
    here = os.path.dirname(__file__)  # noqa: PTH120 - a prefix of a string
    if session.config.option.collectonly or not any(
        str(item.path).startswith(here) for item in session.items
    ):
        return
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    say: Any = terminal.write_line if terminal is not None else print
    try:
        if missing(_PROGRAMS):
            build(_PROGRAMS, say=say)
    except ProgramsMissingError as error:
        session.config.stash[_MISSING] = str(error)


@pytest.fixture(autouse=True)
def _programs(request: pytest.FixtureRequest, pytestconfig: pytest.Config) -> None:
    """Skip tests that lack their programs; in CI, fail them."""
    reason = pytestconfig.stash.get(_MISSING, None)
    if reason is not None:
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

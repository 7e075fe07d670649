"""What helm prints after an install works as it is printed."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from support.cluster.programs import program_path
from support.e2e import RELEASE
from support.note_commands import script

pytestmark = pytest.mark.timeout(1200)


def test_the_commands_of_the_notes_work_as_printed(installed, tmp_path):
    """Pasted into a shell, they run a job, show what it printed and the story of its queue."""
    pasted = script(installed.helm("get", "notes", RELEASE))
    said = run_in_shell(installed, pasted, tmp_path)
    assert "Phase:          Succeeded" in said
    assert re.search(r"^enqueued job 1 in hello$", said, re.MULTILINE)
    assert re.search(r"^hello, world$", said, re.MULTILINE)
    assert re.search(r"^hello +True +1 ", said, re.MULTILINE)
    assert "Scaled from 0 to 1 replica. 1 message is ready" in said
    assert 'jobqueue.meshhook.io "hello" deleted' in said


def run_in_shell(cluster, pasted: str, directory: Path) -> str:
    """Run commands in a shell that knows kubectl and helm, and stops at the first that fails."""
    programs = directory / "bin"
    programs.mkdir()
    for name in ("kubectl", "helm"):
        (programs / name).symlink_to(program_path(name))
    path = f"{programs}:{os.environ['PATH']}"
    text = f"export PATH='{path}'\nset -euo pipefail\n{pasted}\n"
    file = directory / "notes.sh"
    file.write_text(text)
    try:
        return str(cluster.run("bash", file))
    except Exception as error:
        raise AssertionError(f"{error}\n---\n{text}") from error

"""The last release, for tests of rolling upgrades: its package from git, with today's Python."""

from __future__ import annotations

import contextlib
import io
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from support.chaos.processes import TESTS, Forks
from support.skipping import skip

LAST_RELEASE = "237e2cc"
"""The commit; the release after this one replaces it."""


@contextlib.contextmanager
def last_release() -> Iterator[Forks]:
    """Yield what starts processes of the last release; skipped where git does not have it."""
    archive = ["git", "-C", str(TESTS.parent), "archive", LAST_RELEASE, "worker", "migrations"]
    done = subprocess.run(archive, check=False, capture_output=True)
    if done.returncode:
        skip(f"git does not have the commit {LAST_RELEASE}: {done.stderr.decode().strip()}")
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as files:
            files.extractall(folder, filter="data")
        forks = Forks(python_path=[Path(folder, "worker")])
        try:
            yield forks
        finally:
            forks.close()

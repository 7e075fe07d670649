"""The checksums of the migrations that were released: tests/released_migrations.json."""

from __future__ import annotations

import json
from pathlib import Path

from meshhook.schema import available_migrations

FILE = Path(__file__).parents[1] / "released_migrations.json"


def read_released() -> dict[str, str]:
    """Return the checksums by version, four digits each."""
    released: dict[str, str] = json.loads(FILE.read_text()) if FILE.exists() else {}
    return released


def available() -> dict[str, str]:
    """Return the same of the files that are there."""
    return {f"{each.version:04}": each.checksum for each in available_migrations()}


def add_new() -> None:
    """Add the migrations that are not in the file yet; those that are stay as they are."""
    FILE.write_text(json.dumps({**available(), **read_released()}, indent=2) + "\n")

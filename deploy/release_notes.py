"""Prints what CHANGELOG.md says about a version, once all files agree that it is this version.

release_notes.py VERSION
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Do what the command line says."""
    if len(sys.argv) != 2:  # noqa: PLR2004 - the program and one argument
        sys.exit("usage: release_notes.py VERSION")
    version = sys.argv[1]
    wrong = [
        f"{file} has version {found}" for file, found in versions(ROOT).items() if found != version
    ]
    notes = section((ROOT / "CHANGELOG.md").read_text(), version)
    if notes is None:
        wrong.append(f"CHANGELOG.md has no section [{version}] with a date")
    if wrong:
        sys.exit(f"This is not version {version}: {'; '.join(wrong)}.")
    print(notes)


def versions(root: Path) -> dict[str, str]:
    """Return the version that each file of a checkout names."""
    pyproject = tomllib.loads((root / "pyproject.toml").read_text())
    found: dict[str, str] = {"pyproject.toml": pyproject["project"]["version"]}
    chart = (root / "deploy/helm/meshhook/Chart.yaml").read_text()
    for key in ("version", "appVersion"):
        match = re.search(rf'^{key}: "?([^"\s]+)"?$', chart, re.MULTILINE)
        found[f"Chart.yaml ({key})"] = match[1] if match else "nowhere"
    return found


def section(changelog: str, version: str) -> str | None:
    """Return the part of a changelog about a version, without its heading, if there is one."""
    heading = rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d\n"
    pattern = heading + r"(.*?)(?=^## |^\[[^\]]+\]: |\Z)"
    match = re.search(pattern, changelog, re.MULTILINE | re.DOTALL)
    return match[1].strip() if match else None


if __name__ == "__main__":
    main()

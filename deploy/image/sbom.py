"""Writes what is in the image as a CycloneDX document.

    sbom.py ROOT FILE    the packages of Debian in ROOT, the virtual environment, Python

It runs in a stage of the Containerfile.
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ENVIRONMENT = Path("/opt/meshhook")


def main() -> None:
    """Do what the command line says."""
    root, target = map(Path, sys.argv[1:])
    command = ["/opt/tools/bin/cyclonedx-py", "environment", "--output-reproducible"]
    command += ["--pyproject", "pyproject.toml", str(ENVIRONMENT / "bin/python")]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    document: dict[str, Any] = json.loads(found)
    document["components"] += [*debian_packages(root), *python(root)]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")


def debian_packages(root: Path) -> list[dict[str, Any]]:
    """Return the installed packages, which are in one file, or in one each."""
    database = root / "var/lib/dpkg"
    files = sorted(database.glob("status.d/*")) or [database / "status"]
    stanzas = [each for file in files for each in file.read_text().strip().split("\n\n")]
    return [_debian_package(each) for each in stanzas if "\nStatus: install ok installed" in each]


def _debian_package(stanza: str) -> dict[str, Any]:
    fields = dict(re.findall(r"^(Package|Version|Architecture): (\S+)$", stanza, re.MULTILINE))
    name, version = fields["Package"], fields["Version"]
    escaped = version.replace("+", "%2B").replace(":", "%3A").replace("~", "%7E")
    purl = f"pkg:deb/debian/{name}@{escaped}?arch={fields['Architecture']}"
    return {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "purl": purl,
    }


def python(root: Path) -> list[dict[str, Any]]:
    """Return Python itself, unless it is one of the packages of Debian."""
    if (root / "usr/bin/python3").exists() or list(root.glob("usr/bin/python3.*")):
        return []
    version = platform.python_version()
    purl = f"pkg:generic/python@{version}"
    return [
        {
            "type": "application",
            "bom-ref": purl,
            "name": "python",
            "version": version,
            "purl": purl,
            "cpe": f"cpe:2.3:a:python:python:{version}:*:*:*:*:*:*:*",
        }
    ]


if __name__ == "__main__":
    main()

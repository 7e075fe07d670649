"""The commands in what helm prints after an install, as a reader would copy them."""

from __future__ import annotations

import re
from typing import Any

import yaml

Object = dict[str, Any]

_STEP = re.compile(r"# \d+\. ")


def script(notes: str) -> str:
    """Return the numbered steps as they stand, comments included, for somebody who pastes them.

    They end where a sentence begins that is no comment and no input of a command.
    """
    found: list[str] = []
    is_input = False
    for line in notes.splitlines():
        if not found and not _STEP.match(line):
            continue
        if line[:1].isupper() and not is_input and line != "END":
            break
        is_input = line.endswith("<<'END'") or (is_input and line != "END")
        found.append(line)
    return "\n".join(found)


def manifests(notes: str) -> list[Object]:
    """Return the objects that the steps give to `kubectl apply`."""
    inputs = re.findall(r"<<'END'\n(.*?)\nEND\n", script(notes), re.DOTALL)
    return [each for text in inputs for each in yaml.load_all(text, Loader=yaml.CSafeLoader)]

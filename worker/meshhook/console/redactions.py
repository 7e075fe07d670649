"""Hiding places of bodies and headers from those who look, also while they edit."""

from __future__ import annotations

import copy
from typing import Any

from meshhook.errors import InvalidJobError

REDACTED = "[redacted]"


class Redactions:
    """Paths of what is not shown, such as `body.payload.card.number` or `headers.authorization`."""

    def __init__(self, paths: tuple[str, ...]) -> None:
        """Take the paths; `*` stands for every field or item."""
        parts = [path.split(".") for path in paths]
        self._paths = {
            part: [rest for first, *rest in parts if first == part] for part in ("body", "headers")
        }

    @property
    def hide_bodies(self) -> bool:
        """Whether anything in bodies is hidden: text that cannot be parsed is then not shown."""
        return bool(self._paths["body"])

    def hidden(self, part: str, value: Any) -> Any:
        """Return a body or headers with `[redacted]` in the places that are not shown."""
        result = copy.deepcopy(value)
        for path in self._paths[part]:
            _replace(result, path, lambda _: REDACTED)
        return result

    def restored(self, edited: Any, original: Any) -> Any:
        """Return an edited body with what was hidden from the one who edited it.

        Raises:
            InvalidJobError: if `[redacted]` stands in another place than before.
        """
        result = copy.deepcopy(edited)
        for path in self._paths["body"]:
            _copy_hidden(result, original, path)
        if self.hide_bodies and _holds_mark(result):
            raise InvalidJobError(
                f"the body says {REDACTED} where nothing was hidden before; leave such places as "
                "and where they are, or write a new value"
            )
        return result


def _places(value: Any, name: str) -> list[Any]:
    if isinstance(value, dict):
        return list(value) if name == "*" else [name] * (name in value)
    if isinstance(value, list):
        if name == "*":
            return list(range(len(value)))
        return [int(name)] * (name.isdecimal() and len(name) < 7 and int(name) < len(value))  # noqa: PLR2004
    return []


def _replace(value: Any, path: list[str], make: Any) -> None:
    first, *rest = path
    for place in _places(value, first):
        if rest:
            _replace(value[place], rest, make)
        else:
            value[place] = make(value[place])


def _copy_hidden(edited: Any, original: Any, path: list[str]) -> None:
    first, *rest = path
    if type(edited) is not type(original):
        return
    there = set(_places(original, first))
    for place in _places(edited, first):
        if place not in there:
            continue
        if rest:
            _copy_hidden(edited[place], original[place], rest)
        elif edited[place] == REDACTED:
            edited[place] = copy.deepcopy(original[place])


def _holds_mark(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_holds_mark(each) for each in value.values())
    if isinstance(value, list):
        return any(_holds_mark(each) for each in value)
    return bool(value == REDACTED)

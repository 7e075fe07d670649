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
        if not self._paths[part]:
            return value
        result = copy.deepcopy(value)
        for path in self._paths[part]:
            _replace(result, path, lambda _: REDACTED)
        return result

    def restored(self, edited: Any, original: Any) -> Any:
        """Return an edited body with what was hidden from the one who edited it.

        Raises:
            InvalidJobError: if `[redacted]` stands in another place than before, or may do so,
                since items of a list were moved.
        """
        if not self.hide_bodies:
            return edited
        if _may_have_moved(edited, self.hidden("body", original)):
            raise InvalidJobError(
                f"items of a list in which places are {REDACTED} were added, removed or moved, so "
                "that it is not known what is hidden where: leave them where they are, or write "
                "the hidden values anew"
            )
        result = copy.deepcopy(edited)
        for path in self._paths["body"]:
            _copy_hidden(result, original, path)
        if _holds_mark(result):
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
        is_place = name.isascii() and name.isdecimal() and len(name) < 7  # noqa: PLR2004
        return [int(name)] if is_place and int(name) < len(value) else []
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


def _may_have_moved(edited: Any, masked: Any) -> bool:
    """Return whether an item of a list may have hidden places of another one than before."""
    if isinstance(edited, dict) and isinstance(masked, dict):
        return any(_may_have_moved(edited[name], masked[name]) for name in edited.keys() & masked)
    if not isinstance(edited, list) or not isinstance(masked, list):
        return False
    marked = [place for place, item in enumerate(edited) if _holds_mark(item)]
    return any(
        place >= len(masked)
        or not _is_certain(edited, masked, place)
        or _may_have_moved(edited[place], masked[place])
        for place in marked
    )


def _is_certain(edited: list[Any], masked: list[Any], place: int) -> bool:
    """Return whether an item is the one that was there before, perhaps edited."""
    item = edited[place]
    if len(edited) == len(masked):
        return item == masked[place] or item not in masked
    return item == masked[place] and masked.count(item) == 1


def _holds_mark(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_holds_mark(each) for each in value.values())
    if isinstance(value, list):
        return any(_holds_mark(each) for each in value)
    return bool(value == REDACTED)

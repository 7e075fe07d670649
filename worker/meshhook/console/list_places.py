"""Where a page of a list begins, and the links from there to newer, older and first ones.

A page begins below an id, or behind a key, which an index finds as fast on the last page as on the
first. What it cannot tell is where the page before it began: the links carry that along.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from meshhook.console import parameters

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from starlette.datastructures import QueryParams

PASSED = "passed"
PAGE = "page"
MAX_PASSED_CHARACTERS = 2_000
"""How long what links carry of the pages before may be: some 120 pages of seven-digit ids."""


@dataclass(frozen=True, slots=True)
class ListLinks:
    """The links of a page of a list, within the console; None for those that lead nowhere."""

    first_url: str | None
    """The first page; None on it."""
    previous_url: str | None
    """The page before; None on the first one, or if it is not known where that begins."""
    next_url: str | None
    """The page after; None on the last one."""
    number: int | None
    """Which page it is, from 1 on; None if that is not known."""


@dataclass(frozen=True, slots=True)
class ListPlace:
    """Where a page of a list begins."""

    name: str
    """The field of the address that says so."""
    begin: str | None
    """The id or key; None for the first page."""
    number: int | None
    """Which page it is, from 1 on; None if the address does not say."""
    passed: tuple[str, ...]
    """Where the pages before it begin, but for the first one; the oldest are left out of many."""

    @property
    def id(self) -> int | None:
        """The id below which it begins; None for the first page."""
        return None if self.begin is None else int(self.begin)

    def links(
        self, path: str, fields: Mapping[str, object], next_begin: int | str | None
    ) -> ListLinks:
        """Return the links of the page.

        Args:
            path: the list, within the console.
            fields: what else its address says, such as a filter.
            next_begin: where the next page begins; None on the last one.
        """
        next_url = previous_url = None
        if next_begin is not None:
            known = self.passed if self.begin is None else (*self.passed, self.begin)
            number = None if self.number is None else self.number + 1
            next_url = self._url(path, fields, str(next_begin), number, _kept(known))
        # The first page has no beginning that could be carried along.
        if self.passed:
            number = None if self.number is None else self.number - 1
            previous_url = self._url(path, fields, self.passed[-1], number, self.passed[:-1])
        elif self.number == 2:  # noqa: PLR2004 - the page after the first
            previous_url = path + parameters.query(fields)
        return ListLinks(
            None if self.begin is None else path + parameters.query(fields),
            previous_url,
            next_url,
            self.number,
        )

    def _url(
        self,
        path: str,
        fields: Mapping[str, object],
        begin: str,
        number: int | None,
        passed: Sequence[str],
    ) -> str:
        own = {self.name: begin, PAGE: number, PASSED: list(passed)}
        return path + parameters.query({**fields, **own})


def place_by_id(values: QueryParams) -> ListPlace:
    """Return where a page of a list begins that is sorted by id, the newest first.

    Raises:
        InvalidSettingError: if the address says something else than ids.
    """
    begin = parameters.optional_number(values, "before")
    passed = [str(parameters.number(each, PASSED)) for each in values.getlist(PASSED)]
    return _place(values, "before", None if begin is None else str(begin), passed)


def place_by_key(values: QueryParams) -> ListPlace:
    """Return where a page of a list begins that is sorted by key.

    Raises:
        InvalidSettingError: if the address says what no key can be.
    """
    passed = [parameters.checked_text(each, PASSED) for each in values.getlist(PASSED)]
    return _place(values, "after", parameters.exact_text(values, "after"), passed)


def _place(values: QueryParams, name: str, begin: str | None, passed: Sequence[str]) -> ListPlace:
    if begin is None:
        return ListPlace(name, None, 1, ())
    number = parameters.optional_number(values, PAGE)
    return ListPlace(name, begin, number, tuple(passed))


def _kept(passed: tuple[str, ...]) -> tuple[str, ...]:
    """Return the last ones of what was passed, as many as an address may carry."""
    length = 0
    for number, each in enumerate(reversed(passed)):
        length += len(urlencode({PASSED: each})) + 1
        if length > MAX_PASSED_CHARACTERS:
            return passed[len(passed) - number :]
    return passed

"""The audit log: who changed what, shown and exported."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

from starlette.responses import StreamingResponse

from meshhook.audit import (
    MAX_ENTRIES,
    AuditEntry,
    find_audit_entries,
    list_audit_entries,
    sum_operations,
)
from meshhook.console import parameters
from meshhook.console.context import console_of
from meshhook.console.list_places import place_by_id
from meshhook.escaping import spreadsheet_json, spreadsheet_text

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from starlette.requests import Request
    from starlette.responses import Response

PAGE_ROWS = 50
_NAMES = ("queue", "actor", "action", "since", "until")
_COLUMNS = tuple(AuditEntry.__slots__)


async def show(request: Request) -> Response:
    """Show changes, the newest first."""
    console = console_of(request)
    fields, wanted = _asked_for(request)
    place = place_by_id(request.query_params)
    found = await find_audit_entries(console.database, before=place.id, limit=PAGE_ROWS, **wanted)
    return console.page(
        request,
        "audit.html",
        fields=fields,
        entries=[(each, _said(each)) for each in sum_operations(found.entries)],
        is_complete=found.is_complete,
        links=place.links("/audit", fields, found.next_before),
        export_url="/audit.csv" + parameters.query(fields),
    )


async def export(request: Request) -> Response:
    """Return all changes that fit as CSV, the newest first, however many; `before` leaves out."""
    database = console_of(request).database
    _, wanted = _asked_for(request)
    before = parameters.optional_number(request.query_params, "before")
    # What cannot be read is said on a page; later the download breaks off, which browsers tell.
    first = await list_audit_entries(database, before=before, limit=MAX_ENTRIES, **wanted)

    async def lines() -> AsyncIterator[str]:
        entries = first
        yield _as_csv([_COLUMNS])
        while entries:
            yield _as_csv([map(_cell, _values(each)) for each in entries])
            if len(entries) < MAX_ENTRIES:
                return
            entries = await list_audit_entries(
                database, before=entries[-1].id, limit=MAX_ENTRIES, **wanted
            )

    headers = {"content-disposition": 'attachment; filename="audit.csv"'}
    return StreamingResponse(lines(), headers=headers, media_type="text/csv")


def _as_csv(rows: Iterable[Iterable[object]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def _values(entry: AuditEntry) -> tuple[object, ...]:
    return tuple(getattr(entry, name) for name in _COLUMNS)


def _asked_for(request: Request) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the fields of the filter as they were written, and what they ask for."""
    values = request.query_params
    fields = {name: value for name in _NAMES if (value := parameters.text(values, name))}
    wanted: dict[str, Any] = {
        name: parameters.moment(value, name) if name in ("since", "until") else value
        for name, value in fields.items()
    }
    return fields, wanted


def _said(entry: AuditEntry) -> str:
    """Return what was asked for and what was changed, in one line."""
    parts = []
    for name, value in (entry.filter or {}).items():
        parts.append(f"{name}: {_short(value)}")
    for name, value in (entry.details or {}).items():
        if isinstance(value, dict) and value.keys() == {"old", "new"}:
            parts.append(f"{name}: {_short(value['old'])} → {_short(value['new'])}")
        else:
            parts.append(f"{name}: {_short(value)}")
    return " · ".join(parts)


def _short(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_short(each) for each in value[:10]) + (" …" if len(value) > 10 else "")  # noqa: PLR2004
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _cell(value: object) -> object:
    if isinstance(value, dict):
        return spreadsheet_json(value)
    return spreadsheet_text(value) if isinstance(value, str) else value

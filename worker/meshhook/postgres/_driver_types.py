"""The types of arrays that our statements use, told to the driver before it asks the server."""

from __future__ import annotations

from typing import Any

import asyncpg

_ELEMENTS = {
    "_bool": (1000, 16),
    "_int4": (1007, 23),
    "_int8": (1016, 20),
    "_float8": (1022, 701),
    "_timestamptz": (1185, 1184),
}
"""PostgreSQL's own types never change their numbers."""

_INT8_ARRAY = 1016

_ARRAYS = [
    {
        "oid": oid,
        "ns": "pg_catalog",
        "name": name,
        "kind": b"b",
        "basetype": None,
        "elemtype": element,
        "elemdelim": ",",
        "range_subtype": None,
        "attrtypoids": None,
        "attrnames": None,
    }
    for name, (oid, element) in _ELEMENTS.items()
]


def tell_array_types(connection: Any) -> None:
    """Let a connection of asyncpg's know the types of arrays without asking the server.

    asyncpg asks at the first array that is not of text, by a statement that finds functions and
    operators along the session's path. On a session whose path is not ours, behind a pooler or of
    a caller, others' could run. It also saves the time of asking.

    Args:
        connection: of asyncpg's, or of one of its pools; anything else is left alone.
    """
    get_settings = getattr(connection, "get_settings", None)
    if get_settings is None:
        return
    try:
        settings = get_settings()
    except asyncpg.InterfaceError:
        # Closed, or given back to its pool: the statement will say so.
        return
    if hasattr(settings, "get_data_codec") and settings.get_data_codec(_INT8_ARRAY) is None:
        settings.register_data_types(_ARRAYS)

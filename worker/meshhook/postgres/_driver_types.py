"""The array types that our statements use, registered with the driver in advance."""

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
"""The OIDs of PostgreSQL's built-in types never change."""

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
    """Register array types with an asyncpg connection, so that it does not ask the server.

    asyncpg asks at the first array that is not of text, with a statement that resolves functions
    and operators along the session's search path. If that path is not ours (behind a pooler, or on
    a caller's connection), functions of others could run. It also saves a round trip.

    Args:
        connection: an asyncpg connection, or one of its pools'; anything else is left alone.
    """
    get_settings = getattr(connection, "get_settings", None)
    if get_settings is None:
        return
    try:
        settings = get_settings()
    except asyncpg.InterfaceError:
        # Closed, or returned to its pool: the statement itself will fail.
        return
    if hasattr(settings, "get_data_codec") and settings.get_data_codec(_INT8_ARRAY) is None:
        settings.register_data_types(_ARRAYS)

"""The JSON of pydantic models, in a form that the same model can decode; others are refused."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import to_json

from meshhook.errors import InvalidJobError
from meshhook.escaping import quoted

_STARS = b"**********"
"""What pydantic writes for a SecretStr or SecretBytes."""
_SHOWN_FAULTS = 5
_SHOWN_CHARACTERS = 40
_SECRET_NAME = re.compile(
    r"pass|pwd|secret|token|key|auth|cred|cookie|session|bearer|signature|pin\b|iban|card|cvv|ssn",
    re.IGNORECASE,
)


class _Form(NamedTuple):
    """One form in which a model can be written."""

    by_alias: bool
    round_trip: bool


_FORMS = (_Form(True, False), _Form(True, True), _Form(False, False), _Form(False, True))  # noqa: FBT003 - a table
"""The usual form, then those without computed fields or with field names instead of aliases."""


class UnreadableModelError(InvalidJobError):
    """A model that cannot be decoded from its own JSON."""


def model_json(model: BaseModel) -> bytes:
    """Return the JSON of a model, in the first form that the model can decode.

    That is pydantic's usual form. If the model does not accept it, computed fields are left out
    and fields of type `Json` stay text (`round_trip=True`), or field names replace aliases.

    Raises:
        UnreadableModelError: if there is no such form, naming the model and what it rejects.
        ValueError: if pydantic cannot write it at all.
    """
    fault = ""
    for form in _FORMS:
        text = to_json(model, by_alias=form.by_alias, round_trip=form.round_trip)
        found = _fault_when_read(model, text)
        if found is None:
            return text
        fault = fault or found
    raise UnreadableModelError(
        f"the model {type(model).__name__} cannot be read back as it is written: {fault}"
    )


def _fault_when_read(model: BaseModel, text: bytes) -> str | None:
    """Return why a model cannot be decoded from its JSON; None if it can."""
    try:
        read = type(model).__pydantic_validator__.validate_json(text)
    except ValidationError as error:
        return ", ".join(
            f"{_place(fault)}: {fault['msg']}"
            for fault in error.errors(include_url=False, include_input=False)[:_SHOWN_FAULTS]
        )
    config = model.model_config
    may_differ = _STARS in text or (
        config.get("ser_json_bytes", "utf8") != config.get("val_json_bytes", "utf8")
    )
    if may_differ and (name := _first_difference(model, read)):
        return (
            f"{name}: its value is written in another way than it is read, as a secret that "
            "becomes stars. Enqueue a reference to it, or write it with a field_serializer"
        )
    return None


def _first_difference(model: BaseModel, read: object) -> str | None:
    written = model.model_dump(round_trip=True, warnings=False)
    found = read.model_dump(round_trip=True, warnings=False) if isinstance(read, BaseModel) else {}
    if not isinstance(written, dict) or not isinstance(found, dict):
        return None if written == found else "root"
    return next((name for name in written if written[name] != found.get(name)), None)


def describe_faults(error: ValidationError, model: TypeAdapter[Any]) -> str:
    """Return what a payload model rejects, with values that are short and not secret."""
    faults = error.errors(include_url=False)
    secret_names = set(_secret_names(_schema_of(model)))
    shown = [
        f"{_place(fault)}: {fault['msg']}{_shown_value(fault, secret_names)}"
        for fault in faults[:_SHOWN_FAULTS]
    ]
    more = len(faults) - len(shown)
    return "; ".join(shown) + (f"; and {more} more" if more else "")


def _place(fault: Mapping[str, Any]) -> str:
    return ".".join(str(part) for part in fault["loc"]) or "payload"


def _shown_value(fault: Mapping[str, Any], secret_names: set[str]) -> str:
    value = fault["input"]
    names = [part for part in fault["loc"] if isinstance(part, str)]
    is_secret = any(name in secret_names or _SECRET_NAME.search(name) for name in names)
    if is_secret or fault["type"] == "missing":
        return ""
    if value is None or isinstance(value, bool | int | float):
        return f", got {quoted(value)}"
    # A value without a field name could be a secret.
    is_short = isinstance(value, str) and len(value) <= _SHOWN_CHARACTERS and names
    return f", got {quoted(value)}" if is_short else f", got {type(value).__name__}"


def _schema_of(model: TypeAdapter[Any]) -> object:
    try:
        return model.json_schema()
    except Exception:  # noqa: BLE001 - of types that have none, names alone tell what is secret
        return {}


def _secret_names(schema: object) -> Iterator[str]:
    """Yield the names of all properties that a schema marks as write-only, as secrets are."""
    if isinstance(schema, list):
        for item in schema:
            yield from _secret_names(item)
    elif isinstance(schema, dict):
        properties = schema.get("properties")
        if isinstance(properties, dict):
            for name, value in properties.items():
                if '"writeOnly": True' in str(value).replace("'", '"'):
                    yield name
        for value in schema.values():
            yield from _secret_names(value)

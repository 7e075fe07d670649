"""The tables of fields in docs/operator.md, generated from the CRD.

`python -m meshhook_operator.api.reference FILE` writes them into a file.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from meshhook_operator.api.crd import structural_schema
from meshhook_operator.api.schedule_spec import JobScheduleSpec, JobScheduleStatus
from meshhook_operator.api.spec import JobQueueSpec
from meshhook_operator.api.status import JobQueueStatus

if TYPE_CHECKING:
    from collections.abc import Iterator

_TABLES: dict[str, type[BaseModel]] = {
    "spec": JobQueueSpec,
    "status": JobQueueStatus,
    "schedule spec": JobScheduleSpec,
    "schedule status": JobScheduleStatus,
}


def with_tables(document: str) -> str:
    """Return a document with freshly generated tables between its markers.

    The markers are `<!-- table: spec -->` and `<!-- end of table -->`, and likewise for status.
    """
    for name, model in _TABLES.items():
        table = "\n".join(_lines(structural_schema(model)))
        document = re.sub(
            rf"(<!-- table: {name} -->).*?(<!-- end of table -->)",
            lambda found, table=table: f"{found[1]}\n\n{table}\n\n{found[2]}",  # type: ignore[misc]
            document,
            flags=re.DOTALL,
        )
    return document


def _lines(schema: dict[str, Any]) -> Iterator[str]:
    yield "| field | type | |"
    yield "|---|---|---|"
    for path, part in _fields(schema, ""):
        yield f"| `{path}` | {_type(part)} | {_description(part)} |"


def _fields(schema: dict[str, Any], prefix: str) -> Iterator[tuple[str, dict[str, Any]]]:
    required = schema.get("required", ())
    for name, part in schema.get("properties", {}).items():
        path = f"{prefix}{name}"
        yield path, part | {"is_required": name in required}
        if part["type"] == "array":
            yield from _fields(part["items"], f"{path}[].")
        else:
            yield from _fields(part, f"{path}.")


def _type(part: dict[str, Any]) -> str:
    kind: str = part["type"]
    if "enum" in part:
        kind = " or ".join(f"`{value}`" for value in part["enum"])
    elif kind == "array":
        kind = f"list of {part['items']['type']}s"
    elif isinstance(part.get("additionalProperties"), dict):
        kind = "map"
    low, high = part.get("minimum"), part.get("maximum")
    if low is not None and high is not None:
        kind += f", {low:,} to {high:,}"
    if part["is_required"]:
        kind += ", **required**"
    return kind


def _description(part: dict[str, Any]) -> str:
    text: str = part["description"].replace("|", "\\|")
    rules = [rule["message"] for rule in part.get("x-kubernetes-validations", ())]
    if rules:
        text += " Refused: " + "; ".join(rules) + "."
    default = part.get("default")
    if default is not None and not isinstance(default, dict) and "Default" not in text:
        text += f" Default {json.dumps(default)}."
    return text


if __name__ == "__main__":
    file = Path(sys.argv[1])
    file.write_text(with_tables(file.read_text()))

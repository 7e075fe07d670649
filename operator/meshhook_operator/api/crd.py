"""The CustomResourceDefinition of `JobQueue`, generated from the models of spec and status.

`python -m meshhook_operator.api.crd` prints it; `operator/crds/` holds what it printed.
"""

from __future__ import annotations

import sys
from typing import Any

import yaml
from pydantic import BaseModel

from meshhook_operator.api.kind import GROUP, KIND, MAX_NAME_LENGTH, PLURAL, VERSION
from meshhook_operator.api.spec import JobQueueSpec
from meshhook_operator.api.status import JobQueueStatus

_DROPPED = frozenset({"title", "additionalProperties", "$defs", "default"})
_VERBATIM = frozenset({"anyOf"})
"""Of an integer or a string: the API server accepts this form only."""


def structural_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return a model's schema as the API server takes it: without alternatives and null.

    It says nothing about unknown fields. The API server drops them, or refuses them if the client
    asks for strict validation, as kubectl does.
    """
    schema = model.model_json_schema(by_alias=True)
    found: dict[str, Any] = _structural(schema, schema.get("$defs", {}))
    return found


def _structural(node: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(node, list):
        return [_structural(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    node = _without_reference(_without_alternatives(node), definitions)
    result: dict[str, Any] = {}
    for key, value in node.items():
        if key == "properties":
            result[key] = {name: _structural(part, definitions) for name, part in value.items()}
        elif key == "description":
            result[key] = " ".join(value.split())
        elif key in _VERBATIM:
            result[key] = value
        elif key not in _DROPPED or (key == "additionalProperties" and isinstance(value, dict)):
            result[key] = _structural(value, definitions)
    if result.get("type") == "integer":
        result["format"] = "int64"
    default = _default(node, result.get("properties"))
    return result if default is None else result | {"default": default}


def _default(node: dict[str, Any], properties: dict[str, Any] | None) -> Any:
    """Return a node's default; None if it has none, or if an absent field means the same."""
    default = node.get("default")
    if isinstance(default, dict):
        if properties is None:
            return None
        # The API server validates a default before it fills in the defaults inside it.
        return {name: part["default"] for name, part in properties.items() if "default" in part}
    return None if default in ([], "") else default


def _without_reference(node: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in node:
        return node
    target: dict[str, Any] = definitions[node["$ref"].removeprefix("#/$defs/")]
    more = {key: value for key, value in node.items() if key != "$ref"}
    return target | more


def _without_alternatives(node: dict[str, Any]) -> dict[str, Any]:
    """Take the one alternative that is not null: an optional field may be absent instead."""
    if "anyOf" not in node or "x-kubernetes-int-or-string" in node:
        return node
    only: dict[str, Any]
    (only,) = [option for option in node["anyOf"] if option != {"type": "null"}]
    return only | {key: value for key, value in node.items() if key != "anyOf"}


def column(
    name: str, path: str, kind: str = "integer", *, wide: bool = False, text: str = ""
) -> dict[str, Any]:
    """Return a printer column."""
    column: dict[str, Any] = {"name": name, "type": kind, "jsonPath": path}
    if text:
        column["description"] = text
    if wide:
        column["priority"] = 1
    return column


_READY = '.status.conditions[?(@.type=="Ready")]'

PRINTER_COLUMNS = [
    column("Ready", f"{_READY}.status", "string", text="The condition Ready."),
    column("Replicas", ".status.replicas", text="The current number of workers."),
    column("Desired", ".status.desiredReplicas", text="The number of workers that was decided on."),
    column("Waiting", ".status.queue.ready", text="Messages that are ready and wait for a worker."),
    column(
        "Oldest(s)",
        ".status.queue.oldestReadySeconds",
        text="How long the oldest ready message has waited, in seconds.",
    ),
    column(
        "Target(s)",
        ".spec.scaling.targetAgeSeconds",
        text="How long a job may wait, in seconds.",
    ),
    column("Dead", ".status.queue.deadLetters", text="Dead letters."),
    column(
        "State",
        ".status.state",
        "string",
        text="The reason of the condition that matters most; Operating if all is well.",
    ),
    column("Age", ".metadata.creationTimestamp", "date"),
    column("Queue", ".spec.queueName", "string", wide=True),
    column("Min", ".spec.scaling.minReplicas", wide=True),
    column("Max", ".spec.scaling.maxReplicas", wide=True),
    column("Available", ".status.readyReplicas", wide=True, text="Workers that are ready."),
    column("Running", ".status.queue.running", wide=True, text="Messages whose job is running."),
    column("Scheduled", ".status.queue.scheduled", wide=True),
    column("Retrying", ".status.queue.retrying", wide=True),
    column(
        "Message",
        ".status.scaling.message",
        "string",
        wide=True,
        text="Why there are as many replicas as there are.",
    ),
]


def custom_resource_definition() -> dict[str, Any]:
    """Return the whole CustomResourceDefinition."""
    return definition_of(
        KIND, PLURAL, short_name="jobq", columns=PRINTER_COLUMNS, root=_root_schema()
    )


def definition_of(
    kind: str,
    plural: str,
    *,
    short_name: str,
    columns: list[dict[str, Any]],
    root: dict[str, Any],
) -> dict[str, Any]:
    """Return the CustomResourceDefinition of a kind.

    Args:
        kind: its name.
        plural: its name in URLs.
        short_name: what one may type instead.
        columns: what `kubectl get` shows.
        root: the schema of the whole object.
    """
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": kind.lower(),
                "shortNames": [short_name],
                "categories": ["meshhook"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    # No scale subresource: an HPA could then fight the operator.
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": columns,
                    "schema": {"openAPIV3Schema": root},
                }
            ],
        },
    }


def _root_schema() -> dict[str, Any]:
    return {
        "type": "object",
        "description": (
            "A job queue in PostgreSQL with PGMQ, its settings, and workers scaled to its load."
        ),
        "required": ["spec"],
        "x-kubernetes-validations": [
            {
                "rule": f"size(self.metadata.name) <= {MAX_NAME_LENGTH}",
                "message": f"the name may have at most {MAX_NAME_LENGTH} characters",
            }
        ],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": structural_schema(JobQueueSpec),
            "status": structural_schema(JobQueueStatus),
        },
    }


def crd_yaml() -> str:
    """Return the CustomResourceDefinition as YAML."""
    return yaml_of(custom_resource_definition())


def yaml_of(definition: dict[str, Any]) -> str:
    """Return a CustomResourceDefinition as YAML."""
    head = "# Generated from the models in operator/meshhook_operator/api; do not edit.\n"
    return head + yaml.safe_dump(definition, sort_keys=False, width=100, allow_unicode=True)


if __name__ == "__main__":
    sys.stdout.write(crd_yaml())

"""The CustomResourceDefinition equals the models, and the API server accepts it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from meshhook_operator.api.crd import crd_yaml, custom_resource_definition
from meshhook_operator.api.spec import JobQueueSpec

FILE = Path(__file__).parents[2] / "operator" / "crds" / "jobqueues.meshhook.io.yaml"

MINIMAL = {
    "queueName": "emails",
    "database": {"secretRef": {"name": "emails-db"}},
    "worker": {"image": "emails:1", "handler": "emails:send"},
    "scaling": {"maxReplicas": 20},
}


def spec_schema() -> dict[str, Any]:
    """Return the schema of the spec."""
    (version,) = custom_resource_definition()["spec"]["versions"]
    schema: dict[str, Any] = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return schema


def nodes(schema: dict[str, Any], path: str = "spec") -> list[tuple[str, dict[str, Any]]]:
    """Return every schema in a schema, with its path."""
    found = [(path, schema)]
    for name, part in schema.get("properties", {}).items():
        found += nodes(part, f"{path}.{name}")
    if "items" in schema:
        found += nodes(schema["items"], f"{path}[]")
    if isinstance(schema.get("additionalProperties"), dict):
        found += nodes(schema["additionalProperties"], f"{path}.*")
    return found


def test_the_file_is_what_the_models_say():
    """The file that is installed is generated: python -m meshhook_operator.api.crd."""
    assert FILE.read_text() == crd_yaml()


def test_the_schema_is_structural():
    """Every node has a type, and nothing that is not allowed in a structural schema."""
    for path, schema in nodes(spec_schema()):
        assert "type" in schema or "x-kubernetes-int-or-string" in schema, path
        assert not {"$ref", "title", "const", "$defs"} & set(schema), path
        assert "null" not in str(schema.get("type")), path


def test_every_field_is_described():
    """`kubectl explain` describes every field."""
    for path, schema in nodes(spec_schema()):
        if not path.endswith(("[]", ".*")):
            assert schema.get("description"), path


def test_there_is_no_scale_subresource():
    """An HPA must not be able to target a JobQueue."""
    (version,) = custom_resource_definition()["spec"]["versions"]
    assert set(version["subresources"]) == {"status"}


def test_defaults_of_the_schema_are_those_of_the_models():
    """The API server fills in the same defaults as the operator."""

    def filled(schema: dict[str, Any], value: dict[str, Any]) -> dict[str, Any]:
        value = dict(value)
        for name, part in schema.get("properties", {}).items():
            if name not in value and "default" in part:
                value[name] = part["default"]
            if isinstance(value.get(name), dict) and "properties" in part:
                value[name] = filled(part, value[name])
        return value

    assert JobQueueSpec.model_validate(filled(spec_schema(), MINIMAL)) == (
        JobQueueSpec.model_validate(MINIMAL)
    )


def test_the_yaml_can_be_read_back():
    """Nothing is lost in writing it."""
    assert yaml.safe_load(FILE.read_text()) == custom_resource_definition()

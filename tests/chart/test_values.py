"""The values of the chart, their comments, their schema and their table in the README."""

from __future__ import annotations

import importlib.util
import json
import sys
import tomllib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import yaml

from support.helm import CHART, ROOT, HelmError, render

VALUES_TEXT = (CHART / "values.yaml").read_text()
VALUES = yaml.safe_load(VALUES_TEXT)
SCHEMA = json.loads((CHART / "values.schema.json").read_text())


def load_values_table() -> ModuleType:
    """Return the program that makes the table of values."""
    spec = importlib.util.spec_from_file_location("values_table", CHART.parent / "values_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look it up
    spec.loader.exec_module(module)
    return module


values_table = load_values_table()


def object_schemas(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each part of a schema that lists properties, with where it is."""
    if isinstance(schema, dict):
        if "properties" in schema:
            yield path or "(root)", schema
        for key, value in schema.items():
            yield from object_schemas(value, f"{path}/{key}")


def known_keys(schema: dict[str, Any], path: str = "") -> set[str]:
    """Return the paths that a schema knows, down to what it leaves open."""
    found = set()
    for key, part in schema.get("properties", {}).items():
        found |= {f"{path}{key}"} | known_keys(part, f"{path}{key}.")
    return found


def test_every_value_has_a_comment():
    """Each value, or the part that is set as a whole with it, says what it is for."""
    found = list(values_table.values(VALUES_TEXT))
    parts = {value.key.rpartition(".")[0] for value in found}
    undocumented = [
        value.key
        for value in found
        if value.key not in parts and not values_table.is_documented(value, found)
    ]
    assert undocumented == []


def test_the_readme_has_the_table_of_values():
    """The README is what deploy/helm/values_table.py writes."""
    readme = (CHART / "README.md").read_text()
    assert readme == values_table.with_table(readme, VALUES_TEXT)


def test_the_schema_knows_the_values_and_no_others():
    """A key in one of values.yaml and values.schema.json is in both."""
    known = known_keys(SCHEMA) - {"global"}
    # What a list holds, and what is open (labels), stands in the schema alone.
    written = {value.key for value in values_table.values(VALUES_TEXT)}
    open_ended = ("embedded.settings.", ".podSecurityContext.", ".securityContext.")
    assert {key for key in known if ".resources." not in key} == {
        key
        for key in written
        if ".resources." not in key and not any(part in key for part in open_ended)
    }


def test_every_part_of_the_schema_refuses_unknown_keys():
    """`additionalProperties` is false wherever properties are listed."""
    found = dict(object_schemas(SCHEMA))
    assert len(found) > 20
    assert [
        path for path, part in found.items() if part.get("additionalProperties") is not False
    ] == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"databse": {}}, "databse"),
        ({"database": {"existingsecret": "x"}}, "existingsecret"),
        ({"operator": {"resources": {"limit": {}}}}, "limit"),
        ({"queues": [{"name": "orders"}]}, "spec"),
        ({"queues": [{"name": "Orders", "spec": {"scaling": {}}}]}, "pattern"),
        ({"queues": [{"name": "orders", "spec": {"scaling": {}}, "image": "x"}]}, "image"),
        ({"image": {"digest": "sha256:short"}}, "digest"),
        ({"embedded": {"password": "short"}}, "password"),
        ({"operator": {"logLevel": "verbose"}}, "logLevel"),
        ({"workers": {"podDisruptionBudget": {"maxUnavailable": "some"}}}, "maxUnavailable"),
    ],
)
def test_a_wrong_value_is_refused_by_name(values, message):
    """Helm refuses what the schema does not know, and names it."""
    with pytest.raises(HelmError, match=message):
        render(values)


def test_chart_and_project_have_one_version():
    """The chart's appVersion, which is the image's tag, is the project's version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == project["version"]
    dockerfile = (ROOT / "deploy/image/Containerfile").read_text()
    assert f"ARG VERSION={project['version']}\n" in dockerfile


def test_image_and_make_use_one_version_of_uv():
    """What resolves the lock and what installs it in the image are the same."""
    make = (ROOT / "Makefile").read_text()
    (version,) = (
        line.split(":=")[1].strip() for line in make.splitlines() if line.startswith("UV_VERSION")
    )
    assert f"ARG UV_VERSION={version}\n" in (ROOT / "deploy/image/Containerfile").read_text()

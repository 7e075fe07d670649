"""JSON schemas of the objects of Kubernetes, made from its OpenAPI document, without a network.

The document is part of the source of Kubernetes, which Go has in its cache once its programs were
built from it. Schemas are strict: a field that is not known is an error, as it is not for the
schemas as they come.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from support.cluster.programs import TOOLS, ProgramsMissingError

LOCATION = "{{ .ResourceKind }}{{ .KindSuffix }}.json"
"""The name of an object's schema, as kubeconform has it."""

_DOCUMENT = Path("api/openapi-spec/swagger.json")
# Types that OpenAPI cannot say: they are texts there, and numbers too in truth.
_TEXT_OR_NUMBER = {"oneOf": [{"type": "string"}, {"type": "number"}]}
_LOOSE = {
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": _TEXT_OR_NUMBER,
    "io.k8s.apimachinery.pkg.api.resource.Quantity": _TEXT_OR_NUMBER,
}


def write_schemas(directory: Path, *definitions: Mapping[str, Any]) -> None:
    """Write the schemas of Kubernetes' own objects, and of custom resources.

    Args:
        directory: where to; it exists.
        definitions: CustomResourceDefinitions.

    Raises:
        ProgramsMissingError: there is no Go, or it cannot get the source of Kubernetes.
    """
    found = json.loads((_source() / _DOCUMENT).read_text())["definitions"]
    shared = {name: _LOOSE.get(name) or _strict(schema) for name, schema in found.items()}
    (directory / "_definitions.json").write_text(json.dumps({"definitions": shared}))
    for name, schema in found.items():
        for kind in schema.get("x-kubernetes-group-version-kind", ()):
            reference = {"$ref": f"_definitions.json#/definitions/{name}"}
            _write(directory, kind["kind"], kind["group"], kind["version"], reference)
    for definition in definitions:
        spec = definition["spec"]
        for version in spec["versions"]:
            schema = _strict(version["schema"]["openAPIV3Schema"])
            _write(directory, spec["names"]["kind"], spec["group"], version["name"], schema)


def _write(directory: Path, kind: str, group: str, version: str, schema: Any) -> None:
    # kubeconform's suffix: the first part of the group, if there is one, and the version.
    parts = [kind.lower(), group.partition(".")[0], version]
    name = "-".join(part for part in parts if part)
    (directory / f"{name}.json").write_text(json.dumps(schema))


def _source() -> Path:
    program = shutil.which("go") or shutil.which("/usr/local/go/bin/go")
    if program is None:
        raise ProgramsMissingError("There is no `go`, which has the source of Kubernetes.")
    done = subprocess.run(
        [program, "mod", "download", "-json", "k8s.io/kubernetes"],
        cwd=TOOLS / "kubernetes",
        env=os.environ | {"GOWORK": "off"},
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise ProgramsMissingError(f"`go mod download k8s.io/kubernetes` failed: {done.stderr}")
    return Path(json.loads(done.stdout)["Dir"])


def _strict(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found: dict[str, Any] = {}
    for key, value in schema.items():
        # The names in a table of properties may be words of JSON schemas too.
        is_table = key in {"properties", "definitions"} and isinstance(value, dict)
        found[key] = (
            {name: _strict(part) for name, part in value.items()} if is_table else _strict(value)
        )
    is_open = found.pop("x-kubernetes-preserve-unknown-fields", False)
    if "properties" in found:
        found.setdefault("additionalProperties", bool(is_open))
    if found.pop("x-kubernetes-int-or-string", False):
        found.pop("type", None)
    if isinstance(found.get("$ref"), str):
        found["$ref"] = found["$ref"].replace("#/definitions/", "_definitions.json#/definitions/")
    return found

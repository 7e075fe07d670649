"""A password that is given to the chart stands in the Secret made for it, and nowhere else.

One that stands in Secrets of your own is never given to the chart: nothing it makes asks for more
than their names. All is searched for six characters of a marked password in a row, as they are or
escaped, percent-encoded, in base64.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import pytest

from support.helm import RELEASE, HelmError, Object, notes, one, pods, render
from support.marked import ENCODED, LEAST, PASSWORD, leaks

NAME = f"{RELEASE}-meshhook"
GIVEN = "".join(each for each in PASSWORD if each.isascii() and each != " ")
"""All of the password that embedded.password takes."""
URL = f"postgresql://me:{ENCODED}@db.example.com/shop"
QUEUE = {"name": "orders", "spec": {"worker": {"handler": "shop:handle"}, "scaling": {}}}
WITH_ALL: dict[str, Any] = {
    "queues": [QUEUE],
    "operator": {"watchNamespaces": ["jobs", "shop"]},
    "monitoring": {"enabled": True, "prometheusConfig": {"enabled": True}},
}
EMBEDDED: dict[str, dict[str, Any]] = {
    "embedded": {"embedded": {"password": GIVEN}},
    "without a volume": {"embedded": {"password": GIVEN, "persistence": {"enabled": False}}},
    "with all there is": WITH_ALL | {"embedded": {"password": GIVEN}},
}
OWN: dict[str, dict[str, Any]] = {
    "one Secret": {"database": {"existingSecret": "pg"}},
    "with all there is": WITH_ALL | {"database": {"existingSecret": "pg"}},
    "a Secret for each": {
        "database": {"existingSecret": "workers", "operatorExistingSecret": "operator"},
        "migrations": {"existingSecret": "owner"},
        "test": {"existingSecret": "tester"},
    },
}


def holders(objects: list[Object]) -> list[str]:
    """Return the objects that the password is found in."""
    return [
        f"{each['kind']}/{each['metadata']['name']}"
        for each in objects
        if leaks(json.dumps(each, ensure_ascii=False))
    ]


def test_the_search_finds_every_part_of_what_is_given() -> None:
    """It lacks characters of the whole, and is found in any object, in all forms, nonetheless."""
    wide = 2 * LEAST
    for i in range(len(GIVEN) - wide + 1):
        part = GIVEN[i : i + wide]
        for form in (part, quote(part, safe=""), json.dumps(part)):
            assert leaks(form), form
    planted = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "a"}}
    objects = render({"extraObjects": [planted | {"data": {"url": URL}}]})
    assert holders(objects) == ["ConfigMap/a"]


@pytest.mark.parametrize("is_upgrade", [False, True], ids=["install", "upgrade"])
@pytest.mark.parametrize("mode", EMBEDDED)
def test_what_is_set_for_the_embedded_database_is_in_one_secret(
    mode: str, is_upgrade: bool
) -> None:
    """It is the owner's; no label or annotation has it, nor the Secrets of the others."""
    objects = render(EMBEDDED[mode], is_upgrade=is_upgrade)
    assert holders(objects) == [f"Secret/{NAME}-database"]
    secret = one(objects, "Secret", f"{NAME}-database")
    values = secret.pop("stringData")
    assert values["password"] == GIVEN
    assert unquote(str(urlsplit(values["uri"]).password)) == GIVEN
    assert holders([secret]) == []


@pytest.mark.parametrize("mode", OWN)
def test_what_is_set_beside_a_database_of_your_own_is_in_no_object(mode: str) -> None:
    """Whoever moves on from the embedded database may leave its password among the values."""
    assert holders(render(OWN[mode] | {"embedded": {"password": GIVEN}})) == []


@pytest.mark.parametrize("mode", OWN)
def test_urls_are_named_and_never_held(mode: str) -> None:
    """No Secret is made; each variable for a URL is a reference, and no argument has one."""
    objects = render(OWN[mode])
    assert not [each for each in objects if each["kind"] == "Secret"]
    found = 0
    for name, pod in pods(objects).items():
        for container in [*pod.get("initContainers", ()), *pod["containers"]]:
            assert "://" not in str([*container.get("command", ()), *container.get("args", ())])
            for variable in container.get("env", ()):
                if variable["name"].endswith(("_URL", "PASSWORD")):
                    found += 1
                    assert set(variable.get("valueFrom", ())) == {"secretKeyRef"}, name
    assert found > 1


@pytest.mark.parametrize("values", [*EMBEDDED.values(), *OWN.values()])
def test_the_notes_have_no_password(notes_chart: Path, values: dict[str, Any]) -> None:
    """What helm says after an install is kept in logs of pipelines."""
    given = values if values in EMBEDDED.values() else values | {"embedded": {"password": GIVEN}}
    assert leaks(notes(notes_chart, given)) == []


@pytest.mark.parametrize(
    ("value", "given"),
    [
        ("embedded.password", PASSWORD),
        ("embedded.password", PASSWORD[: LEAST + 1]),
        *(
            (f"{part}.{name}", URL)
            for part in ("database", "migrations", "test")
            for name in ("existingSecret", "key")
        ),
        ("database.operatorExistingSecret", URL),
        ("database.operatorKey", URL),
    ],
)
def test_what_is_refused_is_not_shown(value: str, given: str) -> None:
    """A password that is too odd or short, or a URL in place of a Secret's name or key."""
    part, _, name = value.partition(".")
    with pytest.raises(HelmError, match=f"{value}: expected .* not shown") as caught:
        render({part: {name: given}})
    assert leaks(str(caught.value)) == []

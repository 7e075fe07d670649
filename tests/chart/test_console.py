"""The console in the chart: off by default, never open to everybody, and kept apart."""

from __future__ import annotations

import re
import tomllib
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from meshhook.console.environment import console_settings
from support.helm import RELEASE, ROOT, HelmError, Object, one, pods, render, select

CONSOLE = f"{RELEASE}-meshhook-console"
PROXY: Object = {
    "enabled": True,
    "authentication": "proxy",
    "existingSecret": "oncall",
    "publicUrl": "https://console.example.com",
    "redact": ["body.payload.card", "headers.authorization"],
    "runbookUrl": "https://wiki/{error_type}",
    "proxy": {
        "addresses": ["10.0.0.0/8", "fd00::/8"],
        "operatorGroups": ["on call", "admins"],
    },
}
BASIC: Object = {"enabled": True, "authentication": "basic", "settingsSecret": "console"}


def container(console: Object, **values: Any) -> Object:
    """Return the container of the console."""
    (found,) = pods(render({"console": console, **values}))[f"Deployment/{CONSOLE}"]["containers"]
    return dict(found)


def environment(console: Object, **values: Any) -> dict[str, Any]:
    """Return its environment variables, with the sources of those that come from Secrets."""
    return {
        each["name"]: each.get("value", each.get("valueFrom", {}).get("secretKeyRef"))
        for each in container(console, **values)["env"]
    }


def test_it_is_off_by_default():
    """Nothing of it is rendered."""
    assert not [each for each in render({}) if "console" in each["metadata"]["name"]]


@pytest.mark.parametrize(
    ("console", "said"),
    [
        ({"enabled": True}, "console.authentication: expected basic or proxy"),
        ({"enabled": True, "authentication": "none"}, "console"),
        ({"enabled": True, "authentication": "basic"}, "console.settingsSecret"),
        ({"enabled": True, "authentication": "proxy"}, "console.proxy.addresses"),
        (BASIC | {"existingSecret": "postgresql://ada:secret@db"}, "the name of a Secret"),
    ],
)
def test_it_is_not_rendered_open_to_everybody(console: Object, said: str):
    """Without authentication, or with half of it, rendering fails and says what is missing."""
    with pytest.raises(HelmError) as caught:
        render({"console": console})
    assert said in str(caught.value)
    assert "ada:secret" not in str(caught.value)


def test_the_console_takes_what_the_chart_gives_it():
    """The values become settings that it accepts."""
    found = environment(PROXY)
    settings = console_settings({k: v for k, v in found.items() if isinstance(v, str)})
    assert settings.authentication == "proxy"
    assert [str(each) for each in settings.proxy_addresses] == ["10.0.0.0/8", "fd00::/8"]
    assert settings.operator_groups == ("on call", "admins")
    assert settings.viewer_groups == ()
    assert settings.is_secure
    assert settings.redact == ("body.payload.card", "headers.authorization")
    assert settings.runbook_url == "https://wiki/{error_type}"
    assert not settings.read_only
    assert found["MESHHOOK_DATABASE_URL"] == {"name": "oncall", "key": "uri"}


def test_users_come_from_a_secret():
    """Neither their hashes nor the secret of the tokens stands in the Deployment."""
    found = environment(BASIC, database={"existingSecret": "pg"})
    assert found["MESHHOOK_CONSOLE_USERS"] == {"name": "console", "key": "users", "optional": True}
    assert found["MESHHOOK_CONSOLE_SECRET"]["key"] == "secret"
    assert found["MESHHOOK_DATABASE_URL"] == {"name": "pg", "key": "uri"}


@pytest.mark.parametrize(("is_read_only", "kind"), [(False, "oncall"), (True, "reader")])
def test_on_the_embedded_database_it_has_a_role_of_its_own(is_read_only: bool, kind: str):
    """Not the owner's: one that may replay, or one that may only read."""
    console = BASIC | {"readOnly": is_read_only}
    name = f"{RELEASE}-meshhook-database"
    found = environment(console)
    assert found["MESHHOOK_DATABASE_URL"] == {"name": f"{name}-{kind}", "key": "uri"}
    objects = render({"console": console})
    assert f"//meshhook_{kind}:" in one(objects, "Secret", f"{name}-{kind}")["stringData"]["uri"]
    (database,) = pods(objects)[f"StatefulSet/{name}"]["containers"]
    passwords = {each["name"]: each for each in database["env"] if "PASSWORD" in each["name"]}
    given = passwords[f"MESHHOOK_POSTGRES_{kind.upper()}_PASSWORD"]["valueFrom"]["secretKeyRef"]
    assert given == {"name": f"{name}-{kind}", "key": "password"}
    assert len(passwords) == 4
    # With a Secret of its own, the database makes none.
    others = render({"console": console | {"existingSecret": "mine"}})
    assert len(select(others, "Secret")) == 3


def test_it_does_not_take_the_role_of_the_workers():
    """That role may not replay: with roles of their own for others, the console needs one, too."""
    database = {"existingSecret": "workers", "operatorExistingSecret": "operator"}
    values: Object = {"database": database, "migrations": {"existingSecret": "owner"}}
    with pytest.raises(HelmError, match=r"console\.existingSecret") as caught:
        render({"console": BASIC, **values})
    assert "meshhook roles create oncall" in str(caught.value)
    render({"console": BASIC | {"existingSecret": "oncall"}, **values})


def test_the_examples_of_the_documentation_fit_each_other():
    """The values render, and the proxy's lead to the Service, from pods that are let in."""
    text = (ROOT / "docs/console.md").read_text()
    blocks = [yaml.safe_load(each) for each in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    own, proxy = (next(each for each in blocks if name in each) for name in ("console", "config"))
    objects = render(own, release="meshhook", namespace="meshhook")
    service = one(objects, "Service", "meshhook-console")
    settings = tomllib.loads(proxy["config"]["configFile"])
    (upstream,) = map(urlsplit, settings["upstreams"])
    assert upstream.hostname == f"{service['metadata']['name']}.meshhook.svc"
    assert (upstream.port or 80) == service["spec"]["ports"][0]["port"]
    assert settings["pass_user_headers"] is True
    assert own["console"]["publicUrl"] == f"https://{proxy['ingress']['hosts'][0]}"
    policy = one(objects, "NetworkPolicy", "meshhook-console")["spec"]
    assert policy["ingress"][0]["from"] == own["networkPolicy"]["consoleFrom"]


def test_the_service_leads_to_it():
    """The port of the Service is that on which the console listens."""
    objects = render({"console": PROXY})
    service = one(objects, "Service", CONSOLE)["spec"]
    deployment = one(objects, "Deployment", CONSOLE)
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["selector"].items() <= labels.items()
    (port,) = service["ports"]
    (own,) = container(PROXY)["ports"]
    assert (port["port"], port["targetPort"], own["containerPort"]) == (80, own["name"], 8080)
    command = container(PROXY)["command"]
    assert command == ["meshhook", "console", "--port", "8080", "--address", "0.0.0.0"]  # noqa: S104


def test_only_its_proxy_reaches_it():
    """Its policy lets in whom `consoleFrom` names, and out to databases and name servers."""
    proxy = [{"podSelector": {"matchLabels": {"app": "oauth2-proxy"}}}]
    objects = render({"console": PROXY, "networkPolicy": {"consoleFrom": proxy}})
    policy = one(objects, "NetworkPolicy", CONSOLE)["spec"]
    assert policy["ingress"] == [{"ports": [{"port": "http", "protocol": "TCP"}], "from": proxy}]
    ports = {port["port"] for rule in policy["egress"] for port in rule["ports"]}
    assert ports == {53, 5353, 5432, 6432, 6543}
    assert not select(
        render({"console": PROXY, "networkPolicy": {"enabled": False}}), "NetworkPolicy"
    )

"""The console behind a proxy: below a path of its address, and with names that are not ASCII."""

from __future__ import annotations

import html
from typing import Any

import pytest

from meshhook.audit import list_audit_entries
from meshhook.console.settings import ConsoleSettings
from meshhook.errors import InvalidSettingError
from support.console import visiting

PROXY: dict[str, Any] = {
    "authentication": "proxy",
    "proxy_addresses": "127.0.0.1",
    "operator_groups": "Bereitschaft Köln,当番",
    "viewer_groups": "staff",
}


@pytest.mark.parametrize("is_taken_off", [False, True], ids=["passed on", "taken off"])
async def test_the_public_address_may_have_a_path(is_taken_off: bool, pool: Any, queue_name: str):
    """Links, forms, files and redirects have it, whether the proxy passes it on or takes it off."""
    root = "/tools/queue"
    async with visiting(pool, public_url=f"https://tools.example{root}/") as visitor:
        visitor.client.headers["host"] = "tools.example"
        # As behind TLS, over which the cookie goes.
        visitor.client.base_url = "https://tools.example"

        def seen(path: str) -> str:
            assert path.startswith(f"{root}/")
            return path.removeprefix(root) if is_taken_off else path

        page = (await visitor.get(seen(f"{root}/"))).text
        links = [each.split('"')[0] for each in page.split('href="')[1:]]
        assert f"{root}/workers" in links
        for link in links:
            assert link == "#main" or (await visitor.get(seen(link))).status_code == 200, link
        assert f'data-events="{root}/events"' in page
        token = await visitor.token(seen(f"{root}/queues/jobs"))
        answer = await visitor.post(
            seen(f"{root}/queues/jobs/pause"),
            token=token,
            headers={"origin": "https://tools.example"},
        )
        assert answer.headers["location"].startswith(f"{root}/queues/jobs?notice=")
        answer = await visitor.get(seen(f"{root}/search"), params={"queue": "jobs", "id": "7"})
        assert answer.headers["location"] == f"{root}/queues/jobs/jobs/7"
        assert (await visitor.get(root)).status_code == 200
        assert (await visitor.get("/healthz")).status_code == 200


async def test_a_port_that_is_forwarded_here_is_the_console_too(pool: Any, queue_name: str):
    """With a public address, and whether it is reached just now or not; other names are refused."""
    async with visiting(pool, public_url="https://console.example", **PROXY) as visitor:
        visitor.client.headers.update(named("ada", "staff", "ascii"))
        for host, status in (
            ("console.example", 200),
            ("localhost:8080", 200),
            ("127.0.0.1:8080", 200),
            ("rebound.example", 421),
        ):
            assert (await visitor.get("/workers", headers={"host": host})).status_code == status


@pytest.mark.parametrize("path", ["/a%20b", "/a//b", "/ä"])
def test_a_path_that_is_no_plain_one_is_refused(path: str):
    """It would be written in one way in links, and in another one in requests."""
    with pytest.raises(InvalidSettingError, match="public_url: the path in it"):
        ConsoleSettings.of(public_url=f"https://tools.example{path}")


@pytest.mark.parametrize("host", ["console.example:8443", "https://console.example", "a b"])
def test_a_host_that_no_request_has_is_refused(host: str):
    """Requests are compared by name alone, so that nobody would be let in."""
    with pytest.raises(InvalidSettingError, match="allowed_hosts: a host is a name"):
        ConsoleSettings.of(allowed_hosts=host)
    assert ConsoleSettings.of(allowed_hosts="[2001:DB8::1]").allowed_hosts == ("2001:db8::1",)


def named(user: str, groups: str, encoding: str) -> list[tuple[bytes, bytes]]:
    """Return the headers of a proxy, in an encoding."""
    return [
        (b"x-forwarded-user", user.encode(encoding)),
        (b"x-forwarded-groups", groups.encode(encoding)),
    ]


@pytest.mark.parametrize(
    ("groups", "encoding"),
    [("Bereitschaft Köln", "utf-8"), ("staff,当番", "utf-8"), ("Bereitschaft Köln", "latin-1")],
)
async def test_names_and_groups_are_read_as_they_are_written(
    groups: str, encoding: str, pool: Any, queue_name: str
):
    """Whoever is in a group is known to be, and the audit log names them."""
    async with visiting(pool, **PROXY) as visitor:
        visitor.client.headers.update(named("Jürgen@example.com", groups, encoding))
        page = html.unescape((await visitor.get("/")).text)
        assert '"name">Jürgen@example.com<' in page
        assert "May change things" in page
        await visitor.post("/queues/jobs/pause")
    assert [each.actor for each in await list_audit_entries(pool, action="queue.paused")] == [
        "Jürgen@example.com"
    ]

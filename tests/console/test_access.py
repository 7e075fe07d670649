"""Who may reach the console, and change something in it."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from argon2 import PasswordHasher

from meshhook.console.app import CHANGES, PAGES
from meshhook.console.passwords import hash_password
from meshhook.console.settings import ConsoleSettings
from meshhook.errors import InvalidSettingError
from support.console import ORIGIN, add_dead_letters, visiting

NO_DATABASE = "postgresql://nobody@127.0.0.1:1/none"
PROXY: dict[str, Any] = {
    "authentication": "proxy",
    "proxy_addresses": "10.0.0.0/8",
    "operator_groups": "oncall",
    "viewer_groups": "staff",
}


def path_of(route: Any) -> str:
    """Return an address for a route."""
    values = {"queue": "jobs", "id": "1", "name": "nightly"}
    return str(route.path.format(**values))


def basic(name: str, password: str) -> dict[str, str]:
    """Return the header of a login."""
    return {"authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


def identity(groups: str, name: str = "ada@example.com") -> dict[str, str]:
    """Return the headers of the proxy."""
    return {"x-forwarded-user": name, "x-forwarded-groups": groups}


@pytest.fixture(scope="module")
def users() -> str:
    """Two users with passwords."""
    # Of little work, which the hash itself says.
    hashed = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("correct horse battery")
    return f"ada:operator:{hashed}\nvic:viewer:{hashed}\n"


async def test_a_viewer_can_change_nothing(pool: Any, queue_name: str):
    """Every change is refused to a viewer, even with a token and the right origin."""
    async with visiting(pool, address="10.1.2.3", headers=identity("oncall"), **PROXY) as visitor:
        operators = await visitor.token()
        for route in CHANGES:
            answer = await visitor.post(
                path_of(route), {"action": "delete"}, token=operators, headers=identity("staff")
            )
            assert answer.status_code == 403, route.path
            assert "you are a viewer" in answer.text


async def test_every_route_is_a_page_or_a_change(pool: Any, queue_name: str):
    """A route that changes something takes POST only, so that the guard sees to it."""
    async with visiting(pool) as visitor:
        app = visitor.client._transport.app  # type: ignore[attr-defined]
        methods = {route.path: set(route.methods) for route in app.routes}
        changes = {route.path for route in CHANGES}
        assert {path for path, found in methods.items() if found - {"GET", "HEAD"}} == changes
        assert all(methods[path] == {"POST"} for path in changes)
        assert not changes & {route.path for route in PAGES}


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": ""},
        {"origin": ORIGIN, "sec-fetch-site": "cross-site"},
        {"origin": ORIGIN, "sec-fetch-site": "same-site"},
        {"origin": ORIGIN.replace("8080", "8081")},
    ],
    ids=["other", "null", "none", "cross-site", "same-site", "other port"],
)
async def test_a_forged_origin_changes_nothing(headers: dict[str, str]):
    """A form of another site is refused, whatever token it has; the database is not asked."""
    async with visiting(NO_DATABASE) as visitor:
        for route in CHANGES:
            answer = await visitor.post(path_of(route), token="any", headers=headers)
            assert answer.status_code == 403, route.path
            assert "another site" in answer.text


async def test_a_form_needs_the_token_of_its_session(pool: Any, queue_name: str):
    """A token that is missing, wrong, or of another session or user changes nothing."""
    async with visiting(pool) as ada, visiting(pool) as eve:
        foreign = await eve.token()
        own = await ada.token()
        for token in ("", "wrong", foreign, own[:-1]):
            answer = await ada.post("/queues/jobs/pause", token=token)
            assert answer.status_code == 403
            assert "too old, or was made for somebody else" in answer.text
        assert (await ada.post("/queues/jobs/pause", token=own)).status_code == 303


async def test_a_token_is_of_one_user(pool: Any, queue_name: str):
    """A token of the same browser for another user is refused."""
    options = {"address": "10.1.2.3", **PROXY}
    async with visiting(pool, headers=identity("oncall"), **options) as visitor:
        token = await visitor.token()
        answer = await visitor.post(
            "/queues/jobs/pause", token=token, headers=identity("oncall", "bob@example.com")
        )
    assert answer.status_code == 403


async def test_only_forms_are_taken(pool: Any, queue_name: str):
    """JSON, or a form that is too long, is refused before it is read."""
    async with visiting(pool) as visitor:
        post = visitor.client.post
        answer = await post("/queues/jobs/pause", json={}, headers={"origin": ORIGIN})
        assert answer.status_code == 415
        answer = await visitor.post("/queues/jobs/pause", {"body": "x" * 1_100_000})
        assert answer.status_code == 413


@pytest.mark.parametrize(
    ("address", "host", "status"),
    [
        ("127.0.0.1", "127.0.0.1:8080", 404),
        ("::1", "[::1]:8080", 404),
        ("127.0.0.1", "localhost", 404),
        ("10.1.2.3", "127.0.0.1:8080", 403),
        ("127.0.0.1", "rebound.example", 421),
        ("127.0.0.1", "rebound.example:8080", 421),
    ],
)
async def test_without_authentication_it_is_for_this_machine(address: str, host: str, status: int):
    """Other machines are refused, and so are names that a website has given to the loopback."""
    async with visiting(NO_DATABASE, address=address) as visitor:
        assert (await visitor.get("/missing", headers={"host": host})).status_code == status


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("10.1.2.3:8080", 404),
        ("[2001:db8::1]:8080", 404),
        ("build-machine", 404),
        ("localhost:8080", 404),
        ("console.example", 404),
        ("rebound.example", 421),
        ("10.1.2.3.rebound.example:8080", 421),
    ],
)
async def test_a_website_gets_nothing_from_a_console_without_authentication(host: str, status: int):
    """Whoever reaches it may do everything, but not the websites that they look at."""
    settings: dict[str, Any] = {"allow_unauthenticated": True, "allowed_hosts": "console.example"}
    async with visiting(NO_DATABASE, address="10.9.9.9", **settings) as visitor:
        assert (await visitor.get("/missing", headers={"host": host})).status_code == status
    if host != "console.example":
        async with visiting(NO_DATABASE, address="10.9.9.9", allow_unauthenticated=True) as visitor:
            assert (await visitor.get("/missing", headers={"host": host})).status_code == status


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "10.1.2.3", "example.com"])  # noqa: S104
def test_it_does_not_listen_elsewhere_unless_told(address: str):
    """Without authentication, an address beyond the loopback is refused with the way out."""
    with pytest.raises(InvalidSettingError, match="--allow-unauthenticated"):
        ConsoleSettings().check_address(address)
    ConsoleSettings(allow_unauthenticated=True).check_address(address)
    for loopback in ("127.0.0.1", "::1", "localhost", "127.0.0.9"):
        ConsoleSettings().check_address(loopback)


@pytest.mark.parametrize(
    ("address", "headers", "status"),
    [
        ("10.1.2.3", identity("staff"), 404),
        ("10.1.2.3", identity("other, oncall"), 404),
        ("10.1.2.3", identity("other"), 403),
        ("10.1.2.3", identity(""), 403),
        ("10.1.2.3", {}, 401),
        ("10.1.2.3", {"x-forwarded-user": "", "x-forwarded-groups": "oncall"}, 401),
        ("192.0.2.1", identity("oncall"), 403),
        ("::ffff:10.1.2.3", identity("staff"), 404),
    ],
)
async def test_headers_of_the_proxy_are_believed_from_its_addresses(
    address: str, headers: dict[str, str], status: int
):
    """Whoever comes past the proxy, or is in no group, is refused."""
    async with visiting(NO_DATABASE, address=address, headers=headers, **PROXY) as visitor:
        assert (await visitor.get("/missing")).status_code == status


async def test_a_password_lets_in(users: str, pool: Any, queue_name: str):
    """The right name and password show the page; others are asked to log in."""
    async with visiting(pool, authentication="basic", users=users) as visitor:
        answer = await visitor.get("/")
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Basic")
        right = basic("ada", "correct horse battery")
        assert (await visitor.get("/", headers=right)).status_code == 200
        for name, password in (("ada", "wrong"), ("eve", "correct horse battery"), ("", "")):
            assert (await visitor.get("/", headers=basic(name, password))).status_code == 401


async def test_failed_logins_are_limited(users: str, pool: Any, queue_name: str):
    """After five wrong passwords of a name, even the right one is not tried for a while."""
    async with visiting(pool, authentication="basic", users=users) as visitor:
        for _ in range(5):
            answer = await visitor.get("/", headers=basic("ada", "wrong"))
            assert answer.status_code == 401
        answer = await visitor.get("/", headers=basic("ada", "correct horse battery"))
        assert answer.status_code == 429
        assert 0 < int(answer.headers["retry-after"]) <= 60
        # Somebody else is let in.
        other = basic("vic", "correct horse battery")
        assert (await visitor.get("/", headers=other)).status_code == 200


async def test_read_only_makes_everybody_a_viewer(pool: Any, queue_name: str):
    """With `read_only`, pages have no forms that change anything."""
    async with visiting(pool, read_only=True) as visitor:
        page = await visitor.get("/queues/jobs")
        assert "viewer" in page.text
        assert 'method="post"' not in page.text


async def test_each_response_has_the_security_headers(pool: Any, queue_name: str):
    """Pages, static files, refusals and errors say what the browser may do with them."""
    async with visiting(pool) as visitor:
        for path in ("/", "/static/x/console.js", "/missing", "/queues/none", "/healthz"):
            headers = (await visitor.get(path)).headers
            assert "default-src 'none'" in headers["content-security-policy"]
            assert "unsafe" not in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-frame-options"] == "DENY"
            assert headers["referrer-policy"] == "same-origin"


async def test_files_of_another_version_are_not_kept():
    """While an application is upgraded, an old instance may answer for a page of a new one."""
    async with visiting(NO_DATABASE) as visitor:
        page = (await visitor.get("/missing")).text
        path = page.split('rel="stylesheet" href="')[1].split('"')[0]
        assert "immutable" in (await visitor.get(path)).headers["cache-control"]
        other = await visitor.get("/static/0123456789ab/console.css")
        assert other.headers["cache-control"] == "no-store"


async def test_the_cookie_is_for_the_console_alone(pool: Any, queue_name: str):
    """It is HttpOnly and SameSite, and over TLS also Secure and bound to its host."""
    async with visiting(pool) as visitor:
        cookie = (await visitor.get("/")).headers["set-cookie"]
        assert cookie.endswith("; Path=/; HttpOnly; SameSite=Lax")
        assert "set-cookie" not in (await visitor.get("/")).headers
    async with visiting(pool, public_url="https://console.example") as visitor:
        answer = await visitor.get("/", headers={"host": "console.example"})
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith("__Host-meshhook-console=")
        assert cookie.endswith("; Secure")


async def test_a_public_address_is_the_only_origin(pool: Any, queue_name: str):
    """With `public_url`, a form of the same host over http is refused."""
    async with visiting(pool, public_url="https://console.example") as visitor:
        visitor.client.headers["host"] = "console.example"
        visitor.client.base_url = "https://console.example"
        token = await visitor.token()
        for origin, status in (
            ("http://console.example", 403),
            (ORIGIN, 403),
            ("https://console.example", 303),
        ):
            answer = await visitor.post(
                "/queues/jobs/pause", token=token, headers={"origin": origin}
            )
            assert answer.status_code == status


async def test_a_get_changes_nothing(pool: Any, connection: Any, queue_name: str):
    """The address of a change, opened in the browser, is no page."""
    await add_dead_letters(connection, 1)
    async with visiting(pool) as visitor:
        for route in CHANGES:
            answer = await visitor.get(path_of(route))
            assert answer.status_code in {404, 405, 400}
    assert await connection.fetchval("select count(*) from pgmq.q_jobs_dlq") == 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"authentication": "basic"}, "users"),
        ({"authentication": "proxy"}, "proxy_addresses"),
        ({"authentication": "ldap"}, "authentication"),
        ({"proxy_addresses": "10.0.0.300"}, "proxy_addresses"),
        ({"secret": "short"}, "16 characters"),
        ({"redact": "payload.card"}, "body. or headers."),
        ({"trace_url": "javascript:alert({trace_id})"}, "https://"),
        ({"runbook_url": "https://wiki/{error}"}, "{error}"),
        ({"public_url": "console.example"}, "https://host/path"),
        ({"refresh_seconds": "0.1"}, "refresh_seconds"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], said: str):
    """The message names the setting, and what is wrong with it."""
    with pytest.raises(InvalidSettingError) as caught:
        ConsoleSettings.of(**settings)
    assert said in str(caught.value)


async def test_wrong_users_are_named_without_their_hash():
    """A line that is no user is named by its number; its hash is not shown."""
    hashed = hash_password("correct horse battery")
    for users, said in (
        ("ada", "got ''"),
        (f"ada:admin:{hashed}", "'admin'"),
        ("ada:viewer:secret-not-hashed", "no Argon2 hash"),
        (f"ada:viewer:{hashed}\nada:operator:{hashed}", "twice"),
        ("# none\n", "there is none"),
    ):
        with pytest.raises(InvalidSettingError) as caught:
            async with visiting(NO_DATABASE, authentication="basic", users=users):
                pass
        assert said in str(caught.value)
        assert "secret-not-hashed" not in str(caught.value)
        assert hashed not in str(caught.value)

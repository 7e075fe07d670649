"""The console as an attacker sees it: requests that no browser sends, byte by byte."""

from __future__ import annotations

import asyncio
import csv
import io
from typing import Any

import pytest
from argon2 import PasswordHasher

from meshhook.actors import Source, acting_as
from meshhook.administration import set_queue_config
from meshhook.console import guard, server
from meshhook.console.pages import workers
from meshhook.keys import hold_key
from support.console import add_dead_letters, served, visiting

NO_DATABASE = "postgresql://nobody@127.0.0.1:1/none"


async def send(url: str, request: str | bytes, *, is_ended: bool = True) -> str:
    """Send bytes to the console, and return all that it answers until it closes."""
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    data = request if isinstance(request, bytes) else request.encode()
    writer.write(data.replace(b"\n", b"\r\n") if is_ended else data)
    try:
        async with asyncio.timeout(60):
            return (await reader.read()).decode(errors="replace")
    finally:
        writer.close()
        await writer.wait_closed()


def get(path: str, *headers: str) -> str:
    """Return a request that closes its connection."""
    return "\n".join((f"GET {path} HTTP/1.1", *headers, "Connection: close", "", ""))


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1@evil.example",
        "evil.example#127.0.0.1",
        "127.0.0.1.evil.example",
        "[::1].evil.example",
        "",
    ],
)
async def test_names_that_only_look_like_the_loopback_are_refused(host: str):
    """A website that has given its own name the loopback's address gets nothing."""
    async with served(NO_DATABASE) as url:
        said = await send(url, get("/workers", f"Host: {host}"))
    assert said.startswith(("HTTP/1.1 421 ", "HTTP/1.1 400 ")), said
    assert "set-cookie" not in said.lower()


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/x/../../app.py",
        "/static/x/%2e%2e%2fapp.py",
        "/static/x/..%2f..%2fapp.py",
        "/static/x/....//app.py",
        "/static/x/console.css%00",
        "/static//etc/passwd",
        "/static/x/%5c..%5capp.py",
    ],
)
async def test_static_files_are_those_of_a_list(path: str):
    """No path leads out of the folder."""
    async with served(NO_DATABASE) as url:
        said = await send(url, get(path, f"Host: {url.removeprefix('http://')}"))
    assert said.startswith("HTTP/1.1 404 "), said
    assert "import" not in said


@pytest.mark.parametrize("path", ["/workers/", "//evil.example/", "/queues/jobs/", "//"])
async def test_no_redirect_goes_where_a_host_header_says(path: str):
    """An address with a slash too many has no page, and no redirect."""
    async with served(NO_DATABASE, authentication="proxy", proxy_addresses="127.0.0.1") as url:
        said = await send(url, get(path, "Host: evil.example", "X-Forwarded-User: ada"))
        assert said.startswith("HTTP/1.1 404 "), said
        assert "location:" not in said.lower()


@pytest.mark.parametrize(
    "headers",
    [
        ("X-Forwarded-User: ada", "X-Forwarded-User: eve"),
        ("X-Forwarded-User: ada", "X-Forwarded-Groups: oncall", "X-Forwarded-Groups: staff"),
        ("X_Forwarded_User: ada",),
        ("X-Forwarded-User : ada",),
        ("X-Forwarded-User:",),
        (f"X-Forwarded-User: {'a' * 201}",),
        ("X-Forwarded-For: 127.0.0.1", "Forwarded: for=127.0.0.1;by=ada"),
    ],
)
async def test_headers_that_only_look_like_the_proxys_name_nobody(headers: tuple[str, ...]):
    """Two names, other spellings, and headers of other proxies are not believed."""
    settings: dict[str, Any] = {"authentication": "proxy", "proxy_addresses": "127.0.0.1"}
    async with served(NO_DATABASE, **settings) as url:
        said = await send(url, get("/workers", "Host: c", *headers))
        assert said.startswith(("HTTP/1.1 401 ", "HTTP/1.1 400 ")), said


async def test_from_elsewhere_no_header_helps():
    """Neither the proxy's, nor one that claims its address."""
    settings: dict[str, Any] = {"authentication": "proxy", "proxy_addresses": "192.0.2.1"}
    headers = ("X-Forwarded-User: ada", "X-Forwarded-For: 192.0.2.1", "X-Real-IP: 192.0.2.1")
    async with served(NO_DATABASE, **settings) as url:
        said = await send(url, get("/workers", "Host: c", *headers))
        assert said.startswith("HTTP/1.1 403 "), said


async def test_any_number_of_guesses_at_once_is_limited_too(
    pool: Any, queue_name: str, monkeypatch: pytest.MonkeyPatch
):
    """Guesses count when they come, not when they are found to be wrong."""
    users = "ada:operator:" + PasswordHasher(1, 8, 1).hash("correct horse battery")
    async with visiting(pool, authentication="basic", users=users) as visitor:
        answers = await asyncio.gather(
            *(visitor.get("/workers", auth=("ada", f"guess {n}")) for n in range(40))
        )
        statuses = [each.status_code for each in answers]
    assert statuses.count(401) == 5
    assert statuses.count(429) == 35


async def test_a_browser_that_asks_for_much_at_once_is_let_in(pool: Any, queue_name: str):
    """The right password counts once, however many requests bring it, and not as a failure."""
    users = "ada:operator:" + PasswordHasher(1, 8, 1).hash("correct horse battery")
    async with visiting(pool, authentication="basic", users=users) as visitor:
        for _ in range(3):
            answers = await asyncio.gather(
                *(visitor.get("/workers", auth=("ada", "correct horse battery")) for _ in range(20))
            )
            assert {each.status_code for each in answers} == {200}


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"GET / HT",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ",
        # Refused before its body; the rest of it never comes.
        b"POST /queues/jobs/pause HTTP/1.1\r\nHost: evil\r\nContent-Length: 9999\r\n\r\nform",
    ],
    ids=["nothing", "line", "header", "refused"],
)
async def test_a_request_that_never_ends_is_given_up(start: bytes, monkeypatch: pytest.MonkeyPatch):
    """Its connection is closed: whoever opens many keeps nobody out for long."""
    # What is to be answered must arrive before.
    monkeypatch.setattr(server, "REQUEST_SECONDS", 3 if b"POST" in start else 0.2)
    async with served(NO_DATABASE) as url:
        said = await send(url, start, is_ended=False)
    assert said.startswith("HTTP/1.1 421 ") if b"POST" in start else said == ""


async def test_a_form_that_never_ends_is_given_up(
    database_url: str, pool: Any, queue_name: str, monkeypatch: pytest.MonkeyPatch
):
    """It changes nothing."""
    monkeypatch.setattr(guard, "FORM_SECONDS", 0.2)
    monkeypatch.setattr(server, "REQUEST_SECONDS", 60)
    async with served(database_url) as url:
        head = (
            "POST /queues/jobs/pause HTTP/1.1\r\n"
            f"Host: {url.removeprefix('http://')}\r\nOrigin: {url}\r\n"
            "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 500\r\n\r\na=b"
        )
        said = await send(url, head.encode(), is_ended=False)
    assert said.startswith("HTTP/1.1 408 ")
    assert "Nothing was changed" in said


@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "multipart/form-data; boundary=x",
        "application/json",
        "text/plain; application/x-www-form-urlencoded",
        "",
    ],
)
async def test_what_a_foreign_form_can_send_is_refused(kind: str, pool: Any, queue_name: str):
    """Whatever type it says it has."""
    async with visiting(pool) as visitor:
        token = await visitor.token()
        answer = await visitor.post(
            "/queues/jobs/pause", token=token, headers={"content-type": kind}
        )
    assert answer.status_code == 415


async def test_a_session_that_somebody_else_chose_is_worth_nothing(pool: Any, queue_name: str):
    """A token is of a user as well: one that eve has for a session does not work for ada."""
    proxy: dict[str, Any] = {
        "authentication": "proxy",
        "proxy_addresses": "10.0.0.0/8",
        "operator_groups": "oncall",
    }
    cookie = {"cookie": "meshhook-console=" + "A" * 43, "x-forwarded-groups": "oncall"}
    async with visiting(pool, address="10.0.0.1", headers=cookie, **proxy) as visitor:
        visitor.client.headers["x-forwarded-user"] = "eve"
        token = await visitor.token()
        visitor.client.headers["x-forwarded-user"] = "ada"
        answer = await visitor.post("/queues/jobs/pause", token=token)
    assert answer.status_code == 403


@pytest.mark.parametrize(
    ("public_url", "name", "is_secure"),
    [
        ("https://console.example", "__Host-meshhook-console", True),
        ("http://127.0.0.1:8080", "meshhook-console", False),
        (None, "meshhook-console", False),
    ],
)
async def test_cookies_are_as_safe_as_the_address(
    public_url: str | None, name: str, is_secure: bool, pool: Any, queue_name: str
):
    """Over TLS they go nowhere else; scripts and other sites never get them."""
    async with visiting(pool, public_url=public_url) as visitor:
        answer = await visitor.get("/workers")
    parts = answer.headers["set-cookie"].split("; ")
    assert parts[0].startswith(name + "=")
    assert {"Path=/", "HttpOnly", "SameSite=Lax"} <= set(parts)
    assert ("Secure" in parts) is is_secure


async def test_pages_are_not_kept_anywhere(pool: Any, connection: Any, queue_name: str):
    """Neither pages, nor exports, nor errors."""
    await add_dead_letters(connection, 1)
    async with visiting(pool) as visitor:
        for path in ("/", "/queues/jobs/dead-letters/1", "/audit.csv", "/missing", "/queues/none"):
            answer = await visitor.get(path)
            assert answer.headers["cache-control"] == "no-store", path
            assert answer.headers["x-content-type-options"] == "nosniff", path


HOSTILE = (
    "=1+1",
    "+1",
    "-1",
    "@x",
    "\t=1",
    "\r=1",
    "\n=1",
    "  =1",
    "\uff1d1",
    "\x1b[31m",
    "\u202e",
)


@pytest.mark.parametrize("text", HOSTILE)
async def test_no_cell_of_the_export_is_a_formula(
    text: str, pool: Any, connection: Any, queue_name: str
):
    """A spreadsheet shows it; a terminal is not moved by it."""
    with acting_as(f"{text}|cmd", source=Source.LIBRARY):
        await set_queue_config(connection, "jobs", max_retry_attempts=7)
    async with visiting(pool) as visitor:
        rows = list(csv.DictReader(io.StringIO((await visitor.get("/audit.csv")).text)))
    actors = [each["actor"] for each in rows if "|cmd" in each["actor"]]
    assert len(actors) == 1
    assert actors[0].isprintable()
    assert actors[0].strip()[0] not in "=+-@\uff1d\uff0b\uff0d\uff20"


@pytest.mark.parametrize("text", ["a;=1+1", "a; =1", "a;+1", "a;-1", "a;@x", "a;\uff1d1"])
async def test_no_cell_is_a_formula_where_semicolons_part_them(
    text: str, pool: Any, connection: Any, queue_name: str
):
    """As in the spreadsheets of countries that write numbers with a comma."""
    with acting_as(text, source=Source.LIBRARY):
        await set_queue_config(connection, "jobs", keyed=True)
        await hold_key(connection, "jobs", text, reason=text)
    async with visiting(pool) as visitor:
        lines = (await visitor.get("/audit.csv")).text.splitlines()
    cells = [each.strip(' "') for line in lines for each in line.split(";")]
    assert len(cells) > len(lines)
    assert not [each for each in cells if each.startswith(tuple("=+-@\uff1d\uff0b\uff0d\uff20"))]


async def test_errors_leak_nothing(pool: Any, queue_name: str, monkeypatch: pytest.MonkeyPatch):
    """A fault of the console says so, without its stack or the database's address."""

    async def fail(_: Any) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(workers, "read_workers", fail)
    async with visiting(pool) as visitor:
        answer = await visitor.get("/workers")
    assert answer.status_code == 500
    assert "secret detail" not in answer.text
    assert "Traceback" not in answer.text

"""Which hosts the operator connects to."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
from prometheus_client import CollectorRegistry

from meshhook.errors import InvalidSettingError
from meshhook_operator.databases import name_lookups
from meshhook_operator.databases.database import DatabaseAddress, QueueDatabase
from meshhook_operator.databases.demand import DemandRequest
from meshhook_operator.databases.hosts import DatabaseHosts
from meshhook_operator.databases.urls import check_url
from meshhook_operator.errors import HostNotAllowedError
from meshhook_operator.problems import problem_of
from meshhook_operator.settings import load_operator_settings
from support import hostile_server as hostile
from support.hostile_server import hostile_server
from support.waiting import eventually

REQUEST = DemandRequest("jobs", 5)


def make(url: str, hosts: str) -> QueueDatabase:
    """Return the operator's view of a database."""
    return QueueDatabase(
        DatabaseAddress(url, pooled=False),
        on_wake=lambda _: None,
        on_identity=lambda: None,
        registry=CollectorRegistry(),
        hosts=DatabaseHosts(hosts),
    )


@pytest.mark.parametrize(
    ("pattern", "host", "port"),
    [
        ("db.example.com", "DB.Example.com", 5432),
        ("db.example.com", "db.example.com.", 1),
        ("db.example.com:5432", "db.example.com", 5432),
        ("*.db.svc.cluster.local", "pg-rw.db.svc.cluster.local", 5432),
        ("*.db.svc.cluster.local:6432", "a.b.db.svc.cluster.local", 6432),
        ("other, db_1.example.com", "db_1.example.com", 5432),
        ("bücher.example", "xn--bcher-kva.example", 5432),
    ],
)
def test_a_name_is_allowed(pattern, host, port):
    """A name is allowed by itself or by its suffix; case and a trailing dot do not matter."""
    assert DatabaseHosts(pattern).allows_name(host, port)


@pytest.mark.parametrize(
    ("pattern", "host", "port"),
    [
        ("db.example.com", "evil-db.example.com", 5432),
        ("db.example.com", "db.example.com.evil.org", 5432),
        ("db.example.com:5432", "db.example.com", 22),
        ("*.db.svc.cluster.local", "db.svc.cluster.local", 5432),
        ("*.db.svc.cluster.local", "evildb.svc.cluster.local", 5432),
        ("*.db.local", "fe80::1%.db.local", 5432),
        ("*.db.local", "evil.org\0.db.local", 5432),
        ("10.0.0.0/8", "10.1.2.3", 5432),  # by its address only
    ],
)
def test_another_name_is_not_allowed(pattern, host, port):
    """Whatever it looks like."""
    assert not DatabaseHosts(pattern).allows_name(host, port)


@pytest.mark.parametrize(
    ("pattern", "address", "port", "is_allowed"),
    [
        ("10.0.0.0/8", "10.1.2.3", 5432, True),
        ("10.0.0.0/8", "::ffff:10.1.2.3", 5432, True),
        ("10.0.0.0/8:5432", "10.1.2.3", 6432, False),
        ("10.0.0.0/8", "11.1.2.3", 5432, False),
        ("10.0.0.0/8", "169.254.169.254", 80, False),
        ("10.0.0.7", "10.0.0.7", 1, True),
        ("[fd00::/8]:5432", "fd00::1", 5432, True),
        ("fd00::/8", "fe80::1%eth0", 5432, False),
        ("", "169.254.169.254", 80, True),
    ],
)
def test_an_address_is_allowed_by_its_network(pattern, address, port, is_allowed):
    """IPv4 addresses match in IPv6 notation too; an empty list allows everything."""
    assert DatabaseHosts(pattern).allows_address(address, port) is is_allowed


@pytest.mark.parametrize(
    "pattern",
    ["10.0.0.1/8", "db.example.com:0", "db.example.com:x", "*", "a b", "[::1", "postgresql://db"],
)
def test_a_pattern_that_is_none_ends_the_operator_at_start(pattern, monkeypatch):
    """The message names the variable, the pattern and the rule."""
    monkeypatch.setenv("MESHHOOK_OPERATOR_ALLOWED_DATABASE_HOSTS", f"db.example.com,{pattern}")
    with pytest.raises(InvalidSettingError, match=r"ALLOWED_DATABASE_HOSTS.*separated by commas"):
        load_operator_settings()


def test_the_setting_is_read(monkeypatch):
    """The list comes from the environment; without it, every host is allowed."""
    assert load_operator_settings().database_hosts.allows_all
    monkeypatch.setenv("MESHHOOK_OPERATOR_ALLOWED_DATABASE_HOSTS", "*.db.local:5432, 10.0.0.0/8")
    assert load_operator_settings().database_hosts.allows_name("pg.db.local", 5432)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:secret@evil.org/app",
        "postgresql://me:secret@good.db.local,evil.org/app",
        "postgresql://me:secret@good.db.local:22/app",
        "postgresql://me:secret@/app?host=evil.org",
        "postgresql://me:secret@/app?hostaddr=169.254.169.254",
        "postgresql://me:secret@/app?host=/var/run/postgresql",
        "postgresql://me:secret@%2Fvar%2Frun%2Fpostgresql/app",
        "postgresql://me:secret@/app",
        "postgresql://me:secret@2130706433/app",
        "postgresql://me:secret@[::1]/app",
    ],
)
def test_a_url_that_leads_elsewhere_is_refused(url):
    """One host that is not allowed is enough; the message names it, and not the password."""
    with pytest.raises(HostNotAllowedError) as caught:
        check_url(url, DatabaseHosts("*.db.local:5432"))
    problem = problem_of(caught.value)
    assert problem.reason == "DatabaseHostNotAllowed"
    assert "MESHHOOK_OPERATOR_ALLOWED_DATABASE_HOSTS" in problem.message
    assert "secret" not in problem.message


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.1", "0x7f000001", "2130706433", "localhost", "[::ffff:127.0.0.1]"]
)
async def test_no_connection_is_made_to_an_address_that_is_not_allowed(host):
    """An address is refused in any notation, and by any name that resolves to it."""
    with hostile_server(hostile.silence) as server:
        database = make(f"postgresql://me:secret@{host}:{server.port}/app", "10.0.0.0/8")
        with pytest.raises(HostNotAllowedError):
            await database.read_demand([REQUEST], waiting_seconds=5)
        await database.close()
        assert server.connections == 0


async def test_what_is_checked_is_what_is_connected_to(monkeypatch):
    """A name that resolves to another address at the second lookup is not connected to."""
    answers = ["127.0.0.1", "10.0.0.1"]
    real: Callable[..., Any] = socket.getaddrinfo

    def look_up(host: str, *arguments: Any, flags: int = 0, **options: Any) -> Any:
        if host != "rebound.example":
            return real(host, *arguments, flags=flags, **options)
        if flags & socket.AI_NUMERICHOST:
            raise socket.gaierror
        return real(answers.pop(), *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with hostile_server(hostile.silence) as server:
        url = f"postgresql://me:secret@rebound.example:{server.port}/app?connect_timeout=1"
        database = make(url, "127.0.0.0/8")
        with pytest.raises(HostNotAllowedError):
            await database.read_demand([REQUEST], waiting_seconds=5)
        await database.close()
        assert server.connections == 0
    assert answers == ["127.0.0.1"]


async def test_an_allowed_database_is_read(database_url):
    """By its address."""
    database = make(database_url, f"127.0.0.0/8:{urlsplit(database_url).port}")
    await database.ensure_queue("jobs", {})
    assert await database.read_demand([REQUEST], waiting_seconds=5)
    await database.close()


async def test_names_that_hang_hold_no_other_up(monkeypatch):
    """The number of parallel lookups is limited; beyond it, an earlier result is used."""
    real: Callable[..., Any] = socket.getaddrinfo

    def look_up(host: str, *arguments: Any, flags: int = 0, **options: Any) -> Any:
        if flags & socket.AI_NUMERICHOST:
            raise socket.gaierror
        return real("127.0.0.1", *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    lookups = name_lookups.NameLookups()
    found = await lookups.look_up("good.example", 5432)
    monkeypatch.setattr(name_lookups, "MAX_AT_ONCE", 0)
    assert await lookups.look_up("good.example", 5432) == found
    with pytest.raises(OSError, match="other names"):
        await lookups.look_up("new.example", 5432)


async def test_names_that_were_not_found_leave_room_for_others(monkeypatch):
    """Hundreds of names that hang at each try do not keep a new one from being looked up."""
    hangs, may_end = threading.Event(), threading.Event()

    def look_up(host: str, *_: Any, flags: int = 0, **__: Any) -> Any:
        if flags & socket.AI_NUMERICHOST:
            raise socket.gaierror
        if host == "good.example":
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 5432))]
        if hangs.is_set():
            assert may_end.wait(60)
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    lookups = name_lookups.NameLookups()
    bad = [f"bad-{index}.example" for index in range(name_lookups.MAX_AT_ONCE)]

    async def ask_for_all() -> list[Any]:
        return await asyncio.gather(
            *(lookups.look_up(each, 5432) for each in bad), return_exceptions=True
        )

    assert all(isinstance(each, socket.gaierror) for each in await ask_for_all())
    hangs.set()
    asking = asyncio.create_task(ask_for_all())
    try:
        await eventually(lambda: len(lookups._running) == name_lookups.MAX_DOUBTFUL_AT_ONCE)
        assert await lookups.look_up("good.example", 5432)
        assert not asking.done()
    finally:
        may_end.set()
    turned_away = [each for each in await asking if "other names" in str(each)]
    assert len(turned_away) == name_lookups.MAX_AT_ONCE - name_lookups.MAX_DOUBTFUL_AT_ONCE

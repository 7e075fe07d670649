"""No delivery reaches an address that is not public, whatever a name server says, and when."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from ipaddress import ip_network
from typing import Any

import pytest

from meshhook.errors import AddressRefusedError
from meshhook.http import WebhookHandler
from meshhook.http.addresses import AddressGuard
from meshhook.http.resolving import GuardedResolver, SystemLookup
from meshhook.testing import run_job
from support.receivers import SECRET, Receiver, delivery_to, make_handler, running_receiver

OPEN = "127.0.0.1"
"""The address that stands for a public one: it is allowed."""
INSIDE = "127.0.0.2"
"""The address that stands for one inside: it is not allowed."""


@pytest.fixture
async def victim(receiver: Receiver) -> AsyncIterator[Receiver]:
    """A service inside, on the same port as the receiver."""
    async with running_receiver(INSIDE, port=receiver.port) as victim:
        yield victim


class Names:
    """A name server that gives other addresses each time, and counts how often it is asked."""

    def __init__(self, *answers: list[str]) -> None:
        self._answers = list(answers)
        self.asked = 0

    async def __call__(self, _: str, __: int) -> list[str]:
        """Return the next answer; the last one again and again."""
        self.asked += 1
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


def guarded(names: Names, **options: Any) -> WebhookHandler:
    """Return a handler for which only one address of the loopback is public."""
    return make_handler(
        allowed_networks=[f"{OPEN}/32"], lookup=names, max_idle_connections=0, **options
    )


async def test_the_loopback_is_refused_by_default(receiver: Receiver) -> None:
    """By address and by name: nothing arrives."""
    for url in (receiver.url, f"http://localhost:{receiver.port}/"):
        result = await run_job(WebhookHandler(secret=SECRET, allow_http=True), delivery_to(url))
        assert result.outcome == "dead_lettered"
        assert "loopback" in (result.error_message or "")
    assert receiver.requests == []


async def test_a_name_that_changes_its_mind_reaches_nothing(
    receiver: Receiver, victim: Receiver
) -> None:
    """DNS rebinding: the address that was checked is the one connected to, without asking again."""
    names = Names([OPEN], [INSIDE], [OPEN])
    handler = guarded(names)
    url = f"http://receiver.example:{receiver.port}/hook"
    results = []
    for _ in range(3):
        results.append(await run_job(handler, delivery_to(url)))
        await handler.close()  # with what it remembers of the name
    assert [each.outcome for each in results] == ["succeeded", "dead_lettered", "succeeded"]
    assert results[1].error_type == "AddressRefused"
    assert INSIDE in (results[1].error_message or "")
    assert names.asked == 3
    assert len(receiver.requests) == 2
    assert victim.requests == []


async def test_a_name_is_looked_up_once_for_a_delivery(
    receiver: Receiver, victim: Receiver
) -> None:
    """Also if a second answer would be another; and what was checked is remembered for a while."""
    names = Names([OPEN], [INSIDE])
    handler = guarded(names)
    for _ in range(2):
        result = await run_job(
            handler, delivery_to(f"http://receiver.example:{receiver.port}/hook")
        )
        assert result.outcome == "succeeded"
    assert names.asked == 1
    assert receiver.requests[0][0]["host"] == f"receiver.example:{receiver.port}"
    assert victim.requests == []


@pytest.mark.parametrize("answer", [[INSIDE, OPEN], [OPEN, INSIDE], ["::1", OPEN, "10.0.0.1"]])
async def test_of_several_addresses_only_public_ones_are_tried(
    receiver: Receiver, victim: Receiver, answer: list[str]
) -> None:
    """Also if the public one does not answer."""
    handler = guarded(Names(answer))
    result = await run_job(handler, delivery_to(f"http://receiver.example:{receiver.port}/hook"))
    assert result.outcome == "succeeded"
    with socket.socket() as closed:
        closed.bind((OPEN, 0))
        async with running_receiver(INSIDE, port=closed.getsockname()[1]) as other:
            result = await run_job(
                handler, delivery_to(f"http://receiver.example:{other.port}/hook")
            )
    assert (result.outcome, result.error_type) == ("retried", "ReceiverUnreachableError")
    assert victim.requests == other.requests == []


@pytest.mark.parametrize(
    "address",
    ["10.0.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "fe80::1%lo"],
)
async def test_a_name_of_a_special_address_is_refused(address: str) -> None:
    """With the address and its kind."""
    handler = WebhookHandler(secret=SECRET, lookup=Names([address]))
    result = await run_job(handler, delivery_to("https://receiver.example/"))
    assert (result.outcome, result.error_type) == ("dead_lettered", "AddressRefused")
    assert address in (result.error_message or "")


async def test_a_lookup_that_returns_no_address_is_retried() -> None:
    """It is a fault of the lookup."""
    for answer in ([], ["receiver"]):
        handler = WebhookHandler(secret=SECRET, lookup=Names(answer))
        result = await run_job(handler, delivery_to("https://receiver.example/"))
        assert (result.outcome, result.error_type) == ("retried", "ReceiverUnreachableError")


async def test_a_socket_is_made_for_checked_addresses_only() -> None:
    """The last gate, should an address come another way than through the resolver."""
    resolver = GuardedResolver(AddressGuard(allowed=[ip_network("127.0.0.1")]), Names([]))
    tcp = socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, ""
    resolver.socket_for((*tcp, (OPEN, 80))).close()
    for where in ((INSIDE, 80), ("localhost", 80), ("169.254.169.254", 80)):
        with pytest.raises(AddressRefusedError):
            resolver.socket_for((*tcp, where))


async def test_the_last_gate_is_in_use(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """With every check before it taken away, still nothing arrives."""
    monkeypatch.setattr("meshhook.http.urls.literal_address", lambda _: None)
    handler = WebhookHandler(secret=SECRET, allow_http=True)
    result = await run_job(handler, delivery_to(receiver.url))
    assert (result.outcome, result.error_type) == ("dead_lettered", "AddressRefused")
    assert receiver.requests == []


async def test_proxies_of_the_environment_are_not_used(receiver: Receiver) -> None:
    """They would look names up themselves; the fixture sets one that fails."""
    assert (await run_job(make_handler(), delivery_to(receiver.url))).outcome == "succeeded"


async def test_the_system_looks_names_up() -> None:
    """In threads of its own, so that a slow name delays no other."""
    lookup = SystemLookup()
    assert set(await lookup("localhost", 80)) <= {"127.0.0.1", "::1"}
    with pytest.raises(OSError, match=r"."):
        await lookup("receiver.invalid", 80)
    with pytest.raises(OSError, match="not a name"):
        await lookup("a" * 64 + ".com", 80)


async def test_a_lookup_that_was_given_up_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its thread ends later, and nobody hears of it."""
    loop = asyncio.get_running_loop()
    asked, release = asyncio.Event(), threading.Event()
    threads: list[threading.Thread] = []

    def slow(*_: Any, **__: Any) -> list[Any]:
        threads.append(threading.current_thread())
        loop.call_soon_threadsafe(asked.set)
        release.wait(30)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    task = asyncio.create_task(SystemLookup()("receiver.example", 80))
    await asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    release.set()
    await asyncio.to_thread(threads[0].join, 30)
    await asyncio.sleep(0)  # what the thread has asked the loop for is done

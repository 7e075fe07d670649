"""Receivers with TLS: the name is verified, whatever address it has."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme

from meshhook.http import WebhookHandler
from meshhook.testing import run_job
from support.receivers import (
    LOOPBACK,
    SECRET,
    Receiver,
    delivery_to,
    make_handler,
    running_receiver,
)

NAME = "receiver.example"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """An authority that tests trust."""
    return trustme.CA()


@pytest.fixture
def handler(authority: trustme.CA, tmp_path: Path) -> WebhookHandler:
    """A handler that trusts it, and for which every name is on the loopback."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))

    async def lookup(_: str, __: int) -> list[str]:
        return ["127.0.0.1"]

    return WebhookHandler(
        secret=SECRET, allowed_networks=LOOPBACK, ca_file=tmp_path / "ca.pem", lookup=lookup
    )


@asynccontextmanager
async def tls_receiver(
    authority: trustme.CA, *identities: str, names: list[str] | None = None
) -> AsyncIterator[Receiver]:
    """Run a receiver with a certificate; `names` gets the server names that clients ask for."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(*identities).configure_cert(context)
    if names is not None:
        context.sni_callback = lambda _, name, __: names.append(name)
    async with running_receiver(tls=context) as receiver:
        yield receiver


async def test_the_server_name_and_the_host_stay_the_name(
    authority: trustme.CA, handler: WebhookHandler
) -> None:
    """Though the connection goes to the address that was checked."""
    names: list[str] = []
    async with tls_receiver(authority, NAME, names=names) as receiver:
        url = f"https://{NAME}:{receiver.port}/hook"
        assert (await run_job(handler, delivery_to(url))).outcome == "succeeded"
        assert receiver.requests[0][0]["host"] == f"{NAME}:{receiver.port}"
        assert names == [NAME]


async def test_an_address_may_have_a_certificate(
    authority: trustme.CA, handler: WebhookHandler
) -> None:
    """For a URL without a name."""
    async with tls_receiver(authority, "127.0.0.1") as receiver:
        assert (await run_job(handler, delivery_to(receiver.url))).outcome == "succeeded"


async def test_a_certificate_for_another_name_is_refused(
    authority: trustme.CA, handler: WebhookHandler
) -> None:
    """Nothing is sent; it is retried, since a certificate can be mended."""
    async with tls_receiver(authority, "other.example") as receiver:
        result = await run_job(handler, delivery_to(f"https://{NAME}:{receiver.port}/hook"))
        assert (result.outcome, result.error_type) == ("retried", "ReceiverTlsError")
        assert "a certificate that is not valid: " in (result.error_message or "")
        assert "hook" not in (result.error_message or "")
        assert receiver.requests == []


async def test_an_unknown_authority_is_refused(handler: WebhookHandler) -> None:
    """By default those of the system are trusted."""
    async with tls_receiver(trustme.CA(), NAME, "127.0.0.1") as receiver:
        url = f"https://{NAME}:{receiver.port}/hook"
        for each, where in ((handler, url), (make_handler(), receiver.url)):
            result = await run_job(each, delivery_to(where))
            assert (result.outcome, result.error_type) == ("retried", "ReceiverTlsError")
        assert receiver.requests == []


async def test_a_receiver_that_speaks_no_tls_is_retried(
    handler: WebhookHandler, receiver: Receiver
) -> None:
    """The signature does not leave the machine in the clear."""
    result = await run_job(handler, delivery_to(f"https://{NAME}:{receiver.port}/hook"))
    assert (result.outcome, result.error_type) == ("retried", "ReceiverTlsError")
    assert receiver.requests == []


async def test_no_redirect_leads_from_https_to_http(
    authority: trustme.CA, tmp_path: Path, receiver: Receiver
) -> None:
    """Unless http is allowed at all."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    async with tls_receiver(authority, "127.0.0.1") as secure:
        secure.status, secure.headers = 307, {"Location": receiver.url}
        handler = WebhookHandler(
            secret=SECRET,
            allowed_networks=LOOPBACK,
            ca_file=tmp_path / "ca.pem",
            follow_redirects=1,
        )
        result = await run_job(handler, delivery_to(secure.url))
    assert (result.outcome, result.error_type) == ("dead_lettered", "UrlRefused")
    assert receiver.requests == []

"""The HTTP client of webhooks: one POST at a time, to checked addresses, within its limits."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, suppress
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from aiohttp.payload import TOO_LARGE_BYTES_BODY
from yarl import URL

from meshhook.errors import (
    AddressRefusedError,
    InvalidAnswerError,
    InvalidSettingError,
    ReceiverTimeoutError,
    ReceiverTlsError,
    ReceiverUnreachableError,
    UrlRefusedError,
)
from meshhook.escaping import quoted, shown, shown_sentence
from meshhook.http.answers import Answer
from meshhook.http.connections import DestinationSlots, KeptConnections
from meshhook.http.resolving import GuardedResolver, Lookup, SystemLookup
from meshhook.http.urls import UrlPolicy, destination

if TYPE_CHECKING:
    from meshhook.http.settings import WebhookSettings

BODY_SECONDS: Final = 2.0
"""How long is waited for the body of an answer, whose status is known by then."""
_REPEATED = frozenset({307, 308})
"""Redirects that ask for the same request again; others ask for a GET, which is no delivery."""
_TRAVELS = re.compile(r"content-type\Z|webhook-")
"""The headers that go along to another destination."""


class WebhookClient:
    """Posts deliveries, and keeps connections open between them. It belongs to one event loop."""

    def __init__(
        self,
        settings: WebhookSettings,
        policy: UrlPolicy,
        *,
        tls: ssl.SSLContext,
        lookup: Lookup | None = None,
    ) -> None:
        """Open no connection yet.

        Args:
            settings: its limits.
            policy: which URLs and addresses are taken.
            tls: verifies receivers.
            lookup: looks up names. Default: as the system does.
        """
        self._settings = settings
        self._policy = policy
        self._slots = DestinationSlots(settings.max_connections_per_destination)
        self._kept = KeptConnections(settings.max_idle_connections, settings.idle_seconds)
        self._tls = tls
        self._resolver = GuardedResolver(policy.guard, lookup or SystemLookup())
        self._keeping = self._session(keepalive_timeout=settings.idle_seconds)
        self._closing = self._session(force_close=True)

    def _session(self, **connections: Any) -> aiohttp.ClientSession:
        settings = self._settings
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                resolver=self._resolver,
                socket_factory=self._resolver.socket_for,
                ssl=self._tls,
                limit=0,  # the worker's slots and those of the destination are the limits
                **connections,
            ),
            timeout=aiohttp.ClientTimeout(
                total=None,  # measured here, over all redirects
                connect=settings.connect_timeout_seconds,
                sock_read=settings.read_timeout_seconds,
            ),
            headers={"User-Agent": settings.user_agent, "Accept-Encoding": "identity"},
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,  # no proxies and no passwords from the environment
            auto_decompress=False,  # a few bytes could become gigabytes
        )

    def slot(self, url: URL) -> AbstractAsyncContextManager[None]:
        """Wait until one more delivery to a URL's destination may run, and hold its slot."""
        return self._slots.of(destination(url))

    async def post(self, url: URL, *, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Post a body to a URL, within a slot, and return what the receiver answered.

        Args:
            url: the URL, which the policy has taken.
            body: the body.
            headers: headers that come with it, under names in lower case.

        Raises:
            UrlRefusedError, AddressRefusedError: it is not sent there, or not to where the receiver
                redirects it.
            DeliveryError: there is no answer.
        """
        ends_at = asyncio.get_running_loop().time() + self._settings.total_timeout_seconds
        left = self._settings.follow_redirects
        while True:
            answer = await self._post_once(url, body, headers, ends_at)
            if answer.status not in _REPEATED or left == 0 or answer.location is None:
                return answer
            left -= 1
            redirected = self._redirected(url, answer.location)
            if redirected.origin() != url.origin():
                # The others may be a password, which was meant for the first destination alone.
                headers = {name: each for name, each in headers.items() if _TRAVELS.match(name)}
            url = redirected

    async def close(self) -> None:
        """Close all connections."""
        await self._keeping.close()
        await self._closing.close()

    def _redirected(self, url: URL, location: str) -> URL:
        try:
            return self._policy.checked(str(url.join(URL(location))))
        except ValueError as error:
            reason = error.reason if isinstance(error, UrlRefusedError) else "is not valid"
            raise UrlRefusedError(
                f"of a redirect from {destination(url)} {shown_sentence(reason, limit=300)}"
            ) from None

    async def _post_once(
        self, url: URL, body: bytes, headers: Mapping[str, str], ends_at: float
    ) -> Answer:
        where = destination(url)
        is_kept = self._kept.take(where)
        is_open = False
        try:
            session = self._keeping if is_kept else self._closing
            response = await self._sent(session, url, body, headers, ends_at)
            try:
                answer = await self._read(response)
            finally:
                # Does nothing where the body was read to its end: that connection is used again.
                response.close()
            is_open = not answer.is_cut
        finally:
            if is_kept:
                self._kept.give_back(where, is_open=is_open)
        return answer

    async def _sent(
        self,
        session: aiohttp.ClientSession,
        url: URL,
        body: bytes,
        headers: Mapping[str, str],
        ends_at: float,
    ) -> aiohttp.ClientResponse:
        where, settings = destination(url), self._settings
        # What is larger than the client writes at once, it writes in parts.
        data = body if len(body) <= TOO_LARGE_BYTES_BODY else BytesIO(body)
        try:
            async with asyncio.timeout_at(ends_at):
                return await session.post(url, data=data, headers=headers, allow_redirects=False)
        except aiohttp.ConnectionTimeoutError:
            failed, seconds = "could not be connected to within", settings.connect_timeout_seconds
        except aiohttp.SocketTimeoutError:
            failed, seconds = "was silent for", settings.read_timeout_seconds
        except TimeoutError:
            failed, seconds = "did not answer within", settings.total_timeout_seconds
        except (aiohttp.ClientError, OSError, RuntimeError) as error:
            raise _translated(error, where) from None
        raise ReceiverTimeoutError(f"{where} {failed} {seconds:g} seconds")

    async def _read(self, response: aiohttp.ClientResponse) -> Answer:
        most = self._settings.max_response_bytes
        found = bytearray()
        is_cut = True
        # The delivery was taken or not, whatever becomes of the body. OSError: also TimeoutError.
        with suppress(aiohttp.ClientError, OSError):
            async with asyncio.timeout(BODY_SECONDS):
                while len(found) <= most and (part := await response.content.readany()):
                    found += part
            is_cut = len(found) > most or not response.content.at_eof()
        return Answer(
            status=response.status,
            retry_after=response.headers.get("Retry-After"),
            location=response.headers.get("Location"),
            body=bytes(found[:most]),
            is_cut=is_cut,
        )


def tls_context(settings: WebhookSettings) -> ssl.SSLContext:
    """Return what verifies receivers: the system's authorities and those of `ca_file`.

    Reading them takes some 20 ms, so it is done before the first delivery.

    Raises:
        InvalidSettingError: if the certificates of `ca_file` cannot be read.
    """
    context = ssl.create_default_context()
    if settings.ca_file is not None:
        try:
            context.load_verify_locations(settings.ca_file)
        except OSError as error:  # SSLError is one
            raise InvalidSettingError(
                f"ca_file={quoted(str(settings.ca_file))}: no certificates can be read from it: "
                f"{shown(str(error), limit=200)}"
            ) from None
    return context


def _translated(error: Exception, where: str) -> Exception:
    """Return the error to raise for one of the HTTP client, whose texts contain the whole URL."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        reason = _reason(error.certificate_error)
        return ReceiverTlsError(f"{where} has a certificate that is not valid: {reason}")
    if isinstance(error, aiohttp.ClientConnectorError):
        return _not_connected(error, where)
    if isinstance(error, aiohttp.ClientResponseError | aiohttp.ClientPayloadError):
        message = error.message if isinstance(error, aiohttp.ClientResponseError) else str(error)
        said = " ".join(message.split())
        return InvalidAnswerError(
            f"{where} answered what cannot be read as HTTP: {shown(said, limit=200)}"
        )
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return ReceiverUnreachableError(f"{where} closed the connection without an answer")
    return ReceiverUnreachableError(f"the connection to {where} broke: {_reason(error)}")


def _not_connected(error: aiohttp.ClientConnectorError, where: str) -> Exception:
    if isinstance(error.os_error, AddressRefusedError):
        return error.os_error
    reason = _reason(error.os_error)
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return ReceiverUnreachableError(f"the name of {where} cannot be looked up: {reason}")
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return ReceiverTlsError(f"{where} does not speak TLS as it should: {reason}")
    return ReceiverUnreachableError(f"{where} cannot be connected to: {reason}")


def _reason(error: BaseException) -> str:
    """Return what the system says, without the address that it was said of."""
    text = getattr(error, "verify_message", None) or getattr(error, "strerror", None) or str(error)
    return shown(str(text) or type(error).__name__, limit=200)

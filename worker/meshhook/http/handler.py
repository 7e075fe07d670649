"""`WebhookHandler`: delivers webhooks as a job handler."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import Self, Unpack

from meshhook.errors import AddressRefusedError, InvalidHandlerError, UrlRefusedError
from meshhook.http.addresses import AddressGuard
from meshhook.http.answers import Answer, failure
from meshhook.http.client import WebhookClient, tls_context
from meshhook.http.client_life import LoopClients
from meshhook.http.deliveries import WebhookDelivery, body_of, id_of
from meshhook.http.resolving import Lookup
from meshhook.http.settings import WebhookOptions, webhook_settings
from meshhook.http.signatures import SecretLookup, Secrets, Signer, signed_headers
from meshhook.http.spans import note_answer, note_request
from meshhook.http.urls import UrlPolicy, destination
from meshhook.jobs import Job
from meshhook.outcomes import DeadLetter
from meshhook.worker.handlers import JobHandler

OnGone = Callable[[Job[WebhookDelivery]], Awaitable[None] | None]
"""Is told of a destination that answered 410 Gone."""


class WebhookHandler(JobHandler[WebhookDelivery]):
    """Delivers webhooks: posts the body of a `WebhookDelivery` with a Standard Webhooks signature.

    It is a handler like any other: `app.job("webhooks")(WebhookHandler(secret=...))`, an argument
    of `Worker`, or with settings from the environment `--handler meshhook.http:deliver`.

    | the receiver | the job |
    |---|---|
    | answers 2xx | is done |
    | answers 429 or 503 and says when to come back | is retried then |
    | answers 408, 425, 429 or 5xx | is retried with backoff |
    | cannot be reached, or takes too long | is retried with backoff |
    | answers 410 | becomes a dead letter; its key is held until resumed, and `on_gone` is told |
    | answers anything else, redirects included | becomes a dead letter |
    | has a URL or an address that is refused | becomes a dead letter |
    """

    def __init__(
        self,
        *,
        secret: Secrets | SecretLookup | None = None,
        on_gone: OnGone | None = None,
        lookup: Lookup | None = None,
        **settings: Unpack[WebhookOptions],
    ) -> None:
        """Take the secret and the settings, and open no connection yet.

        Args:
            secret: signs deliveries: `whsec_` and base64. Several while they are rotated, the
                newest first: the receiver accepts any. Or a function, plain or async, that takes
                the job and returns those of its destination; what it raises ends the attempt. A
                plain one runs in the event loop and must not block.
                Default: MESHHOOK_WEBHOOK_SECRET.
            on_gone: a function, plain or async, that is called with the job when the destination
                answers 410 Gone, before the job becomes a dead letter: to stop sending there. If it
                raises, the attempt fails and is tried again. Default: none.
            lookup: an async function that takes the name and the port of a receiver and returns
                its addresses, which are then checked. Default: as the system looks names up.
            **settings: see `WebhookSettings`. Default: the environment, MESHHOOK_WEBHOOK_...

        Raises:
            InvalidSettingError: naming the argument or the environment variable.
            InvalidHandlerError: if `on_gone` or `lookup` is not a function.
        """
        super().__init__(self.deliver, payload_model=WebhookDelivery)
        for name, function in (("on_gone", on_gone), ("lookup", lookup)):
            if function is not None and not callable(function):
                kind = type(function).__name__
                raise InvalidHandlerError(f"{name} is a function, got {kind}")
        self.settings = webhook_settings(settings)
        """The settings, with those of the environment."""
        self._signer = Signer(secret, self.settings)
        self._on_gone = on_gone
        self._policy = UrlPolicy(
            AddressGuard(
                allowed=self.settings.allowed_networks, refused=self.settings.refused_networks
            ),
            allows_http=self.settings.allow_http,
            ports=self.settings.allowed_ports,
        )
        tls = tls_context(self.settings)
        self._clients = LoopClients(
            lambda: WebhookClient(self.settings, self._policy, tls=tls, lookup=lookup)
        )

    def check_url(self, url: str) -> None:
        """Check a URL that a user enters, before anything is enqueued for it.

        Its name is not looked up: what that leads to is checked at each delivery.

        Raises:
            UrlRefusedError: with the reason.
        """
        self._policy.checked(url)

    async def deliver(self, job: Job[WebhookDelivery]) -> None:
        """Deliver one webhook; what is raised says how the attempt ended."""
        delivery = job.payload
        try:
            url = self._policy.checked(delivery.url)
            note_request(None if job.is_encrypted else url, job.attempt - 1)
            body = body_of(delivery)
            keys = await self._signer.keys(job)
            client = await self._clients.get()
            async with client.slot(url):
                # Not before: a delivery may have waited longer than receivers allow for.
                signature = signed_headers(
                    keys, webhook_id=id_of(job), body=body, sent_at=datetime.now(UTC)
                )
                own = {"content-type": "application/json", **_lower(delivery.headers)}
                answer = await client.post(url, body=body.encode(), headers=own | signature)
        except UrlRefusedError as error:
            raise DeadLetter(str(error), error_type="UrlRefused") from None
        except AddressRefusedError as error:
            raise DeadLetter(str(error), error_type="AddressRefused") from None
        note_answer(answer.status, len(answer.body))
        await self._end(job, answer, destination(url))

    async def close(self) -> None:
        """Close the connections of the running event loop; the next delivery opens new ones.

        An event loop that ends closes them by itself. Call it while no delivery is running.
        """
        await self._clients.close()

    async def __aenter__(self) -> Self:
        """Return the handler."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close its connections."""
        await self.close()

    async def _end(self, job: Job[WebhookDelivery], answer: Answer, where: str) -> None:
        failed = failure(
            answer,
            where,
            now=datetime.now(UTC),
            max_retry_after_seconds=self.settings.max_retry_after_seconds,
        )
        if failed is None:
            return
        if answer.is_gone and self._on_gone is not None:
            told = self._on_gone(job)
            if inspect.isawaitable(told):
                await told
        raise failed


def _lower(headers: dict[str, str]) -> dict[str, str]:
    """Return headers under names in lower case, so that each is sent once."""
    return {name.lower(): value for name, value in headers.items()}

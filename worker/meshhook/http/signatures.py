"""Signing deliveries as Standard Webhooks describes it, with one secret or several."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from standardwebhooks.webhooks import Webhook

from meshhook.errors import InvalidSettingError
from meshhook.http.deliveries import WebhookDelivery
from meshhook.jobs import Job
from meshhook.known_secrets import known_secrets
from meshhook.outcomes import DeadLetter

if TYPE_CHECKING:
    from meshhook.http.settings import WebhookSettings

Secrets = str | Sequence[str]
"""A secret, or several while they are rotated: the newest first."""
SecretLookup = Callable[[Job[WebhookDelivery]], Secrets | Awaitable[Secrets | None] | None]
"""Returns the secrets of the destination of a job."""

MAX_SECRETS: Final = 10
"""The most secrets for one destination."""
_SECRET = re.compile(r"whsec_(?=[A-Za-z0-9+/]{32})[A-Za-z0-9+/]+={0,2}")
_RULE = "a secret is whsec_ and the base64 of at least 24 random bytes"


class Signer:
    """Signs deliveries: with secrets that are given, or that are looked up for each."""

    def __init__(self, secret: Secrets | SecretLookup | None, settings: WebhookSettings) -> None:
        """Take the secrets.

        Args:
            secret: one, several, or a function that returns those of a destination. None: those of
                the environment.
            settings: the environment's.

        Raises:
            InvalidSettingError: if there is none, or if one is malformed; no message shows one.
        """
        self._lookup: SecretLookup | None = None
        self._signers: tuple[Webhook, ...] = ()
        if secret is not None and not isinstance(secret, str | Sequence):
            if not callable(secret):
                raise InvalidSettingError(
                    f"secret is text, a list of texts or a function, got {type(secret).__name__}"
                )
            self._lookup = secret
            return
        if secret is None:
            if settings.secret is None:
                raise InvalidSettingError(
                    "webhooks need a secret to be signed with: give WebhookHandler(secret=...), or "
                    f"set MESHHOOK_WEBHOOK_SECRET; {_RULE}"
                )
            place, secret = "MESHHOOK_WEBHOOK_SECRET", settings.secret.get_secret_value().split()
        else:
            place = "secret"
        try:
            self._signers = _signers(secret)
        except ValueError as error:
            raise InvalidSettingError(f"{place}: {error}") from None
        for each in [secret] if isinstance(secret, str) else secret:
            known_secrets.remember(each)

    async def keys(self, job: Job[WebhookDelivery]) -> tuple[Webhook, ...]:
        """Return what signs the delivery of a job.

        Raises:
            DeadLetter: if the lookup has no secret, or a malformed one.
            Exception: whatever the lookup raises.
        """
        if self._lookup is None:
            return self._signers
        found: Any = self._lookup(job)
        if inspect.isawaitable(found):
            found = await found
        try:
            return _signers(() if found is None else found)
        except ValueError as error:
            message = f"the function that looks up secrets returned what cannot be used: {error}"
            raise DeadLetter(message, error_type="InvalidSecret") from None


def signed_headers(
    keys: Sequence[Webhook], *, webhook_id: str, body: str, sent_at: datetime
) -> dict[str, str]:
    """Return the headers that sign a delivery.

    Args:
        keys: what signs it, each with a signature of its own.
        webhook_id: the delivery's id.
        body: what is sent.
        sent_at: the present moment in UTC; receivers refuse one that is some minutes off.
    """
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(int(sent_at.timestamp())),
        "webhook-signature": " ".join(each.sign(webhook_id, sent_at, body) for each in keys),
    }


def _signers(secrets: object) -> tuple[Webhook, ...]:
    """Return what signs with each secret.

    Raises:
        ValueError: if there is none, or if one is malformed. The message does not show it.
    """
    several = [secrets] if isinstance(secrets, str) else secrets
    if not isinstance(several, Sequence) or isinstance(several, bytes):
        raise ValueError(f"expected text or a list of texts, got {type(secrets).__name__}")  # noqa: TRY004
    if not 1 <= len(several) <= MAX_SECRETS:
        raise ValueError(f"1 to {MAX_SECRETS} secrets are taken, got {len(several)}")
    signers = []
    for position, each in enumerate(several, 1):
        which = "" if len(several) == 1 else f"number {position} is malformed: "
        if not isinstance(each, str) or not _SECRET.fullmatch(each):
            raise ValueError(which + _RULE)
        try:
            signers.append(Webhook(each))
        except Exception:  # noqa: BLE001 - whatever it was, its text must not show the secret
            raise ValueError(which + _RULE) from None
    return tuple(signers)

"""The payload of a webhook job: where it goes, and what is sent."""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from meshhook.escaping import quoted
from meshhook.http.urls import MAX_URL_LENGTH, parsed_url

if TYPE_CHECKING:
    from meshhook.jobs import Job

MAX_HEADERS: Final = 50
"""The most headers of a delivery's own."""
MAX_HEADER_LENGTH: Final = 4_096
"""The most characters of the value of one."""
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
_HEADER_VALUE = re.compile(rf"[ -~\t]{{0,{MAX_HEADER_LENGTH}}}")
_NOT_ITS_OWN = re.compile(
    r"host|content-length|content-encoding|transfer-encoding|connection|keep-alive|te|trailer"
    r"|upgrade|expect|accept-encoding|proxy-.*|webhook-.*",
    re.IGNORECASE,
)


def _readable_url(text: str) -> str:
    parsed_url(text)
    return text


def _sendable(headers: dict[str, str]) -> dict[str, str]:
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name):
            raise ValueError(f"header {quoted(name, limit=60)} is not a name of a header")
        if _NOT_ITS_OWN.fullmatch(name):
            raise ValueError(f"header {quoted(name, limit=60)} is set by the sender of webhooks")
        if not _HEADER_VALUE.fullmatch(value):
            raise ValueError(
                f"header {quoted(name, limit=60)} has a value that is longer than "
                f"{MAX_HEADER_LENGTH} characters, or not of printable ASCII"
            )
    return headers


class WebhookDelivery(BaseModel):
    """The payload of a job: one webhook for one receiver."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: Annotated[str, Field(max_length=MAX_URL_LENGTH), AfterValidator(_readable_url)]
    """Where it is sent to. Whether the URL is allowed is decided when it is sent."""
    body: Any
    """What is sent, as JSON: by Standard Webhooks an object with `type`, `timestamp` and `data`."""
    id: Annotated[str, Field(pattern=r"^[!-\-/-~]{1,200}$")] | None = None
    """The header webhook-id, by which the receiver recognizes a second delivery: 1 to 200
    characters of ASCII without spaces and dots. Give one if the same event may be enqueued twice,
    or replayed from the dead letters. Default: made from the job, the same in all its attempts."""
    headers: Annotated[dict[str, str], Field(max_length=MAX_HEADERS), AfterValidator(_sendable)] = (
        Field(default_factory=dict)
    )
    """More headers, at most 50. Default: none."""


def id_of(job: Job[WebhookDelivery]) -> str:
    """Return the id of a delivery: its own, or one made from the job."""
    if job.payload.id is not None:
        return job.payload.id
    identity = f"{job.queue}\0{job.msg_id}\0{job.enqueued_timestamp!r}"
    return "msg_" + hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()


def body_of(delivery: WebhookDelivery) -> str:
    """Return the text that is signed and sent."""
    return json.dumps(delivery.body, ensure_ascii=False, allow_nan=False, separators=(",", ":"))

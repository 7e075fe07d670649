"""What decodes texts of others, as functions of bytes that raise where a promise is broken.

`make fuzz` looks for such bytes with atheris, which follows the branches of the code.
"""

from __future__ import annotations

import io
import ipaddress
import json
import os
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

from pydantic import BaseModel

from meshhook.cli import json_lines
from meshhook.cli.failures import UsageError
from meshhook.cli.json_lines import JsonLines
from meshhook.environment import Settings, load_settings
from meshhook.errors import (
    InvalidJobError,
    InvalidPayloadError,
    InvalidSettingError,
    UrlRefusedError,
)
from meshhook.escaping import shown, shown_json
from meshhook.http.addresses import AddressGuard
from meshhook.http.retry_after import retry_after_seconds
from meshhook.http.urls import UrlPolicy
from meshhook.observability.tracing.trace_context import producer_of
from meshhook.postgres.url import parse_database_url
from meshhook.store._model_json import model_json
from meshhook.store.bodies import encode_body
from meshhook.store.body_decoder import BodyDecoder
from meshhook.store.message_headers import decode_headers, encode_headers
from support.claimed_jobs import claimed_job

SEEDS: dict[str, tuple[bytes, ...]] = {
    "body": (
        b'{"run_id": "r", "payload": {"n": 1e400}, "project_id": "p", "workflow_id": "w"}',
        b'{"payload": [1, -0.0, "\\ud83d\\ude00"], "run_id": 7}',
        b'{"run_id": ' + b"9" * 10_000 + b"}",
        b"[" * 2_000 + b"]" * 2_000,
    ),
    "headers": (
        b'{"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}',
        b"7",
    ),
    "traceparent": (b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\na=b,c=d", b"ff-"),
    "model_json": (b'{"name": "x", "parts": {"a": 1.5}}', b'{"name": "", "parts": {"b": NaN}}'),
    "database_url": (
        b"postgresql://user:p%40ss@host:5432,other/name?sslmode=require&connect_timeout=3",
        b"postgres://[::1]/?host=/tmp",
        b"https://user:secret@host/",
    ),
    "settings": (b"LOG_LEVEL=debug\nPOOLED=true", b"DATABASE_URL=\xff"),
    "json_lines": (b'{"a": 1}\n[2, 3.5]\n', b"\xef\xbb\xbf1\n", b'{"a": 1, "a": 1e-400}'),
    "webhook_url": (
        b"https://example.com:8443/hooks?x=1#y",
        b"https://127.0.0.1/",
        b"https://0x7f.1@[::ffff:7f00:1%25lo]:1/",
        "https://\uff11\uff12\uff17.0.0.1\u3002/".encode(),
    ),
    "retry_after": (b"120", b"Mon, 30 Nov 2026 12:01:30 GMT", b"Monday, 30-Nov-26 12:01:30 +9999"),
    "escaping": ("\x1b[31m\\x1b 👩\u200d👧 \u202e".encode(), b"\xed\xa0\x80"),
}
"""Where the search begins, for each target."""


class _Model(BaseModel):
    name: str
    parts: dict[str, float] = {}


_PLAIN, _OF_MODEL = BodyDecoder[Any](), BodyDecoder[Any](_Model)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass" if data.isascii() else "replace")


def _promise(holds: bool) -> None:
    assert holds


def body(data: bytes) -> None:
    """A body is read as `json` reads it, or refused as a payload; ids are short texts."""
    text = _text(data)
    for decoder in (_PLAIN, _OF_MODEL):
        job = claimed_job(text)
        try:
            decoder.decode(job)
            payload = job.payload
        except InvalidPayloadError:
            continue
        for each in (job.run_id, job.workflow_id, job.project_id):
            assert each is None or (isinstance(each, str) and len(each) <= 200)
        if decoder is _PLAIN:
            try:
                whole = json.loads(text)
            except (ValueError, RecursionError):
                continue  # the other reader takes longer numbers
            payload_is_whole = repr(payload) == repr(whole)
            assert payload_is_whole or repr(payload) == repr(whole["payload"])


def headers(data: bytes) -> None:
    """Headers are a dictionary whatever they were, and what we can send comes back the same."""
    found = decode_headers(_text(data))
    assert isinstance(found, dict)
    try:
        sent = encode_headers(found)
    except InvalidJobError:
        return
    assert decode_headers(sent) == found


def traceparent(data: bytes) -> None:
    """A trace is taken up or not; it fails no job."""
    parent, _, state = _text(data).partition("\n")
    producer_of(claimed_job(headers={"traceparent": parent, "tracestate": state}))
    assert len(claimed_job(headers={"traceparent": parent}).trace_id or "") in {0, 32}


def model_json_(data: bytes) -> None:
    """The JSON of a model is read back as the model that it was, or refused."""
    try:
        model = _Model.model_validate_json(data)
        sent = encode_body(model, 10**6)
    except ValueError:
        return
    job = claimed_job(sent)
    _OF_MODEL.decode(job)
    assert job.payload == model
    assert _Model.model_validate_json(model_json(model)) == model


def database_url(data: bytes) -> None:
    """A URL is read or refused, and a refusal shows no password."""
    text = _text(data)
    for url in (text, f"postgresql://user:s3cr3tmark{text}@host/name"):
        try:
            parse_database_url(url)
        except InvalidSettingError as error:
            _promise("s3cr3tmark" not in str(error))


def settings(data: bytes) -> None:
    """An environment is read or refused by the name of the variable."""
    names = [f"MESHHOOK_{name.upper()}" for name in Settings.model_fields]
    found: dict[str, str] = {}
    for number, line in enumerate(_text(data).replace("\0", "").split("\n")[:4]):
        name, equals, value = line.partition("=")
        key = f"MESHHOOK_{name}" if equals else names[number]
        if f"MESHHOOK_{name}" in names or not equals:
            found[key] = (value if equals else name).encode("utf-8", "replace").decode()
    with mock.patch.dict(os.environ, found):
        try:
            load_settings()
        except InvalidSettingError as error:
            _promise(any(name in str(error) for name in found))


def json_lines_(data: bytes) -> None:
    """Lines are read or refused with their number."""
    lines = JsonLines(json_lines._lines_of(io.BytesIO(data)), name="it")
    try:
        for line in lines:
            encode_body(line.value, 10**6)
    except (InvalidJobError, UsageError) as error:
        _promise(len(str(error)) > 0)


def webhook_url(data: bytes) -> None:
    """A URL is read or refused; what is read has one host, which is no address in disguise."""
    text = _text(data)
    try:
        url = UrlPolicy(AddressGuard()).checked(text)
    except UrlRefusedError as error:
        _promise(len(str(error)) < 1_000 and str(error).isprintable())
        return
    host = url.raw_host or ""
    assert host
    assert url.raw_user is None
    assert url.raw_password is None
    try:
        packed = socket.inet_aton(host)
    except OSError:
        packed = None
    if packed is not None:
        assert socket.inet_ntoa(packed) == host
        assert ipaddress.ip_address(host).is_global
    if text.isascii():
        assert urlsplit(text).hostname == host


def retry_after(data: bytes) -> None:
    """A wait is positive and bounded, or there is none."""
    now = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
    seconds = retry_after_seconds(_text(data), now, 3_600)
    assert seconds is None or 0 < seconds <= 3_600


def escaping(data: bytes) -> None:
    """Nothing that is shown acts, and JSON stays what it was."""
    text = data.decode("utf-8", "surrogateescape")
    assert len(shown(text).splitlines()) <= 1
    assert len(shown(text, limit=40)) <= 40
    document = json.dumps(text, ensure_ascii=False)
    assert json.loads(shown_json(document)) == json.loads(json.dumps(text))


TARGETS: dict[str, Callable[[bytes], None]] = {
    "body": body,
    "headers": headers,
    "traceparent": traceparent,
    "model_json": model_json_,
    "database_url": database_url,
    "settings": settings,
    "json_lines": json_lines_,
    "webhook_url": webhook_url,
    "retry_after": retry_after,
    "escaping": escaping,
}

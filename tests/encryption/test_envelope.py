"""The envelope of encrypted messages: its format, and that nothing in it can be changed."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshhook.encryption.encryption_key import EncryptionKey
from meshhook.encryption.envelope import (
    FIELD,
    Place,
    envelope_of,
    is_sealed,
    key_id_of,
    seal,
    sealed_with,
    unseal,
)
from meshhook.errors import DecryptionError, UnknownEncryptionKeyError

KEY = EncryptionKey("k1", bytes(range(32)))
QUEUE = Place("queue", "orders")
IDS = {"run_id": "run-1", "workflow_id": "w", "project_id": "p"}
TEXT = '{"run_id":"run-1","payload":{"card":"4111"}}'


def find(key_id: str) -> EncryptionKey | None:
    """Find the one key."""
    return KEY if key_id == "k1" else None


def opened(body: str, place: Place | None = QUEUE) -> str:
    """Decrypt a message."""
    return unseal(envelope_of(body), find, place)


def as_jsonb(body: str) -> str:
    """Return JSON as PostgreSQL writes jsonb: with spaces, the shortest names first."""

    def sorted_by_length(value: Any) -> Any:
        if isinstance(value, dict):
            names = sorted(value, key=lambda name: (len(name.encode()), name.encode()))
            return {name: sorted_by_length(value[name]) for name in names}
        return value

    return json.dumps(sorted_by_length(json.loads(body)), ensure_ascii=False)


def test_the_cipher_is_aes_256_gcm_of_the_standard() -> None:
    """It gives the answer of test case 16 in the specification of GCM (McGrew and Viega)."""
    key = EncryptionKey("nist", bytes.fromhex("feffe9928665731c6d6a8f9467308308" * 2))
    text = bytes.fromhex(
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
        "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
    )
    associated = bytes.fromhex("feedfacedeadbeeffeedfacedeadbeefabaddad2")
    found = key.cipher.encrypt(bytes.fromhex("cafebabefacedbaddecaf888"), text, associated)
    assert found.hex() == (
        "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
        "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662"
        "76fc6ece0f4e1768cddf8853bb2d551b"
    )


def test_the_format_stays_as_it_is() -> None:
    """A message that an earlier version encrypted is read, and the same bytes come out today."""
    body = sealed_with(bytes(12), TEXT, KEY, QUEUE, IDS)
    assert json.loads(body) == {
        "enc": {
            "v": 1,
            "key": "k1",
            "queue": "orders",
            "nonce": "AAAAAAAAAAAAAAAA",
            "data": DATA,
        },
        "run_id": "run-1",
        "workflow_id": "w",
        "project_id": "p",
    }
    assert opened(body) == TEXT


DATA = "dZ7Hq9tz6tkqkotHbUK8qPBvdCNJ+AxA4fqRub7dPjc8O8SGCMaJNwLhDIh6BkJfL0FbUpaWNa9Kj2+0"


@given(
    text=st.text(),
    ids=st.dictionaries(st.sampled_from(["run_id", "workflow_id", "project_id"]), st.text()),
    queue=st.text(min_size=1),
)
def test_what_is_encrypted_is_decrypted(text: str, ids: dict[str, str], queue: str) -> None:
    """Any text comes back, from the JSON as it is written and as PostgreSQL rewrites it."""
    text = text.encode("utf-8", "replace").decode()
    place = Place("queue", queue)
    body = seal(text, KEY, place, ids) if _is_text([*ids.values(), queue]) else None
    if body is None:
        return
    assert opened(body, place) == text
    stored = as_jsonb(body)
    assert is_sealed(stored)
    assert key_id_of(stored) == "k1"
    assert opened(stored, place) == text


def _is_text(texts: list[str]) -> bool:
    return all(each.encode("utf-8", "replace").decode() == each for each in texts)


@pytest.mark.parametrize("field", ["nonce", "data"])
def test_every_flipped_bit_is_refused(field: str) -> None:
    """No bit of the nonce, the ciphertext or the tag can be changed."""
    body = json.loads(seal(TEXT, KEY, QUEUE, IDS))
    raw = base64.b64decode(body[FIELD][field])
    for position in range(len(raw) * 8):
        changed = bytearray(raw)
        changed[position // 8] ^= 1 << position % 8
        body[FIELD][field] = base64.b64encode(changed).decode()
        with pytest.raises(DecryptionError):
            opened(json.dumps(body))


def test_every_changed_character_is_refused() -> None:
    """Nor can its base64 be written in another way, such as with bits that decoding ignores."""
    body = json.loads(seal(TEXT, KEY, QUEUE, IDS))
    text = body[FIELD]["data"]
    for position in range(len(text)):
        for other in "AB+/=\n":
            if other == text[position]:
                continue
            body[FIELD]["data"] = text[:position] + other + text[position + 1 :]
            with pytest.raises(DecryptionError):
                opened(json.dumps(body))


@pytest.mark.parametrize(
    "change",
    [
        {"run_id": "run-2"},
        {"run_id": None},
        {"workflow_id": "wp", "project_id": ""},
        {"tenant": "t"},
        {"payload": {}},
    ],
)
def test_what_is_readable_cannot_be_changed(change: dict[str, Any]) -> None:
    """No identifier can be changed, taken away or moved to another, and nothing can be added."""
    body = json.loads(seal(TEXT, KEY, QUEUE, IDS))
    body.update(change)
    with pytest.raises(DecryptionError):
        opened(json.dumps({name: value for name, value in body.items() if value is not None}))


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2},
        {"v": True},
        {"v": 1.5},
        {"queue": "others"},
        {"topic": "orders"},
        {"key": 1},
        {"nonce": ""},
        {"data": ""},
        {"data": None},
        {"more": 1},
    ],
)
def test_the_envelope_cannot_be_changed(change: dict[str, Any]) -> None:
    """Another version, queue, kind or shape is refused, with an error and not a crash."""
    body = json.loads(seal(TEXT, KEY, QUEUE, IDS))
    body[FIELD].update(change)
    with pytest.raises(DecryptionError):
        opened(json.dumps(body), None)


def test_a_message_of_another_queue_is_refused() -> None:
    """The error names both queues."""
    body = seal(TEXT, KEY, QUEUE, IDS)
    with pytest.raises(DecryptionError, match=r"for queue 'orders', and found in queue 'others'"):
        opened(body, Place("queue", "others"))


def test_a_topic_is_no_queue() -> None:
    """A message of a topic is not one of the queue of the same name."""
    body = json.loads(seal(TEXT, KEY, Place("topic", "orders"), IDS))
    body[FIELD]["queue"] = body[FIELD].pop("topic")
    with pytest.raises(DecryptionError):
        opened(json.dumps(body))


def test_another_key_of_the_same_id_is_refused() -> None:
    """The error says what may be wrong; it shows no key."""
    other = EncryptionKey("k1", bytes(32))
    body = seal(TEXT, other, QUEUE, IDS)
    with pytest.raises(DecryptionError, match="another key has this id here"):
        opened(body)


def test_an_unknown_key_is_named() -> None:
    """The error names the id, and says that nothing is lost."""
    body = seal(TEXT, EncryptionKey("k9", bytes(32)), QUEUE, IDS)
    with pytest.raises(UnknownEncryptionKeyError, match=r"key 'k9'.* nothing is lost"):
        opened(body)


@pytest.mark.parametrize(
    "body",
    [
        "null",
        "{}",
        '{"enc": "A256GCM"}',
        '{"enc": {"v": 1}}',
        '{"enc": {"v": 1, "key": "k", "data": "x"}}',
        '{"enc": {"v": 1, "key": "k", "data": "a\\"b", "nonc": "c"}}',
        '{"enc": {"v": 1, "key": "k", "data": 7, "nonc": "c"}}',
        '{"run_id": "r", "payload": {"enc": {"v": 1, "key": "k", "nonce": "", "data": ""}}}',
        '{"id": "7", "payload": "\\"enc\\": {\\"v\\": 1"}',
        '[{"enc": {"v": 1}}]',
        "{" * 2000,
    ],
)
def test_other_messages_are_not_taken_for_encrypted(body: str) -> None:
    """Neither a field of that name nor text that looks like an envelope makes one."""
    assert not is_sealed(body)
    with pytest.raises(DecryptionError):
        envelope_of(body)


@pytest.mark.parametrize("kind", ["queue", "topic", "result", "error"])
def test_an_envelope_is_found_wherever_it_is_bound_to(kind: Any) -> None:
    """Also one of a later version, or that somebody has changed: it is not run as it is."""
    body = as_jsonb(seal(TEXT, KEY, Place(kind, "a"), IDS))
    assert is_sealed(body)
    for old, new in [('"v": 1', '"v": 2'), ('"v": 1', '"v": "x"'), ('"data": "', '"data": "\\"')]:
        assert is_sealed(body.replace(old, new))


def test_an_envelope_behind_a_short_name_is_found() -> None:
    """The path of the keys may start with a name that PostgreSQL puts first."""
    body = as_jsonb(seal(TEXT, KEY, QUEUE, {"id": "7", **IDS}))
    assert body.startswith('{"id": ')
    assert is_sealed(body)
    assert key_id_of(body) == "k1"
    assert opened(body) == TEXT


def test_a_nonce_is_used_once() -> None:
    """The same text is never encrypted in the same way again."""
    assert len({seal(TEXT, KEY, QUEUE, IDS) for _ in range(1_000)}) == 1_000

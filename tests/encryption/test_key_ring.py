"""Key rings: where keys come from, how changes are seen, and that no secret is shown."""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import pickle
import traceback
from collections import UserDict
from typing import TYPE_CHECKING, Any

import pytest

from meshhook import EncryptionKeysUnavailableError, InvalidSettingError, KeyRing
from meshhook.encryption.encryption_key import EncryptionKey, keys_from_lines, new_key
from meshhook.encryption.key_ring import KEY_FILE_VARIABLE, KEYS_VARIABLE
from meshhook.known_secrets import HIDDEN, known_secrets

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECRET = base64.b64encode(bytes(range(32))).decode()
OTHER = base64.b64encode(bytes(range(1, 33))).decode()


def key_file(folder: Path, text: str, mode: int = 0o600) -> Path:
    """Write a key file."""
    path = folder / "keys"
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    "keys",
    [
        {"k1": SECRET},
        {"k1": bytes(range(32))},
        [("k1", SECRET), ("k2", OTHER)],
        (each for each in [("k1", SECRET)]),
        f"k1:{SECRET}",
    ],
)
def test_keys_are_given_in_several_forms(keys: Any) -> None:
    """The first encrypts."""
    assert KeyRing(keys).first == EncryptionKey("k1", SECRET)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "1 to 100 keys, got 0"),
        ({"k1": b"short"}, "'k1' has 5 bytes; AES-256 takes 32"),
        ({"k1": "not base64!"}, "'k1' is not base64"),
        ({"k1": "é" * 44}, "'k1' is not base64"),
        ({"k1": None}, "'k1': expected bytes or base64, got NoneType"),
        ({"a b": SECRET}, "1 to 40 characters"),
        ({SECRET: "k1"}, "1 to 40 characters"),
        ([("k1", SECRET), ("k1", OTHER)], "two encryption keys have the id 'k1'"),
        (7, "a mapping of ids to 32 bytes"),
        ([SECRET], "a mapping of ids to 32 bytes"),
        ([(f"k{i}", SECRET) for i in range(101)], "1 to 100 keys, got 101"),
    ],
)
def test_wrong_keys_are_refused_without_showing_them(keys: Any, message: str) -> None:
    """The error names the id and the rule."""
    with pytest.raises(InvalidSettingError, match=message) as refused:
        KeyRing(keys)
    text = "".join(traceback.format_exception(refused.value))
    assert SECRET not in text
    assert "not base64!" not in str(refused.value)


def test_a_file_has_a_key_a_line(tmp_path: Path) -> None:
    """Comments and empty lines are left out; errors name the line."""
    path = key_file(tmp_path, f"# new\n\n k2 : {OTHER} \nk1:{SECRET}\n")
    ring = KeyRing.from_file(path)
    ring.prepare_now()
    assert ring.key_ids == ("k2", "k1")
    for text, message in [
        (f"k1:{SECRET}\n{OTHER}", r"keys', key or line 2: a key is written as id:base64"),
        (f"k1:{SECRET[:-4]}", "line 1: .* has 30 bytes|is not base64"),
        ("", "1 to 100 keys, got 0"),
        (f"k1:{SECRET}\nk1:{SECRET}", "two encryption keys"),
    ]:
        with pytest.raises(InvalidSettingError, match=message) as refused:
            KeyRing.from_file(key_file(tmp_path, text)).prepare_now()
        assert OTHER not in str(refused.value)


def test_a_key_in_a_comment_is_no_key(tmp_path: Path) -> None:
    """Also behind a comma, where it would come first and encrypt."""
    text = f"# no longer: k9:{SECRET}, k8:{SECRET}\n  # k7, k6\nk1:{SECRET}\n"
    ring = KeyRing.from_file(key_file(tmp_path, text))
    ring.prepare_now()
    assert ring.key_ids == ("k1",)
    wrong = key_file(tmp_path, f"# one, two\nk1:{SECRET}\n{OTHER}\n")
    with pytest.raises(InvalidSettingError, match="key or line 3"):
        KeyRing.from_file(wrong).prepare_now()


def test_a_file_of_any_editor_is_read(tmp_path: Path) -> None:
    """With a byte order mark, and with the ends of lines of Windows."""
    ring = KeyRing.from_file(key_file(tmp_path, f"\ufeffk1:{SECRET}\r\nk2:{OTHER}\r\n"))
    ring.prepare_now()
    assert ring.key_ids == ("k1", "k2")


def test_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """The error says how to mend it, as for the key of a certificate."""
    for mode in (0o604, 0o622, 0o660):
        with pytest.raises(EncryptionKeysUnavailableError, match=r"read by others.*chmod 600"):
            KeyRing.from_file(key_file(tmp_path, f"k1:{SECRET}", mode)).prepare_now()
    if os.geteuid() == 0:
        KeyRing.from_file(key_file(tmp_path, f"k1:{SECRET}", 0o440)).prepare_now()


@pytest.mark.parametrize("path", [None, 7, "", "a\0b"])
def test_what_is_no_path_is_refused(path: Any) -> None:
    """At once, and not only when the file is read."""
    with pytest.raises(InvalidSettingError, match="path is that of a key file"):
        KeyRing.from_file(path)


@pytest.mark.parametrize("kind", ["missing", "folder", "bytes", "huge"])
def test_a_file_that_is_none_is_refused(kind: str, tmp_path: Path) -> None:
    """The error names it."""
    path = tmp_path / "keys"
    if kind == "folder":
        path.mkdir()
    elif kind == "bytes":
        path.write_bytes(b"\xff\xfe")
    elif kind == "huge":
        path.write_bytes(b"#" * 70_000)
    if kind != "missing":
        path.chmod(0o700 if kind == "folder" else 0o600)
    with pytest.raises((EncryptionKeysUnavailableError, InvalidSettingError), match="keys'"):
        KeyRing.from_file(path).prepare_now()


def test_a_change_of_the_file_is_seen(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is read again when it has changed; what is wrong then leaves the keys as they were."""
    caplog.set_level(logging.INFO)
    path = key_file(tmp_path, f"k1:{SECRET}")
    ring = KeyRing.from_file(path)
    ring.prepare_now()
    assert not ring.is_stale  # for a second

    def look() -> tuple[str, ...]:
        ring._check_at = 0
        ring.prepare_now()
        return ring.key_ids

    new = tmp_path / "new"
    new.write_text(f"k2:{OTHER}\nk1:{SECRET}")
    new.chmod(0o600)
    new.replace(path)
    assert look() == ("k2", "k1")
    assert "encryption keys changed" in caplog.text
    path.write_text("nonsense")
    assert look() == ("k2", "k1")
    assert "those known stay" in caplog.text
    path.unlink()
    assert look() == ("k2", "k1")
    assert SECRET not in caplog.text
    assert OTHER not in caplog.text


def test_the_environment_names_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file or the keys themselves, and not both."""
    monkeypatch.delenv(KEYS_VARIABLE, raising=False)
    monkeypatch.delenv(KEY_FILE_VARIABLE, raising=False)
    assert KeyRing.from_environment() is None
    monkeypatch.setenv(KEYS_VARIABLE, f"k2:{OTHER},k1:{SECRET}")
    ring = KeyRing.from_environment()
    assert ring is not None
    assert ring.key_ids == ("k2", "k1")
    monkeypatch.setenv(KEY_FILE_VARIABLE, str(key_file(tmp_path, f"k1:{SECRET}")))
    with pytest.raises(InvalidSettingError, match="not both"):
        KeyRing.from_environment()
    monkeypatch.delenv(KEYS_VARIABLE)
    ring = KeyRing.from_environment()
    assert ring is not None
    ring.prepare_now()
    assert ring.key_ids == ("k1",)


async def test_many_who_wait_share_one_call_of_a_function() -> None:
    """Nor is it called again while its keys are young."""
    calls = 0

    async def load() -> dict[str, str]:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0)
        return {"k1": SECRET}

    ring = KeyRing.from_function(load)
    await asyncio.gather(*(ring.prepare() for _ in range(100)))
    await ring.prepare()
    await ring.learn("k1")
    assert calls == 1


async def test_an_unknown_key_is_asked_for_at_most_every_ten_seconds() -> None:
    """Thousands of messages of a lost key do not become thousands of calls of the KMS."""
    calls = 0

    def load() -> dict[str, str]:
        nonlocal calls
        calls += 1
        return {"k1": SECRET}

    ring = KeyRing.from_function(load)
    await ring.prepare()
    for _ in range(100):
        await ring.learn("k9")
    assert calls == 1
    ring._asked_at -= 11
    for _ in range(100):
        await ring.learn("k9")
    assert calls == 2


@pytest.mark.parametrize("is_async", [False, True])
def test_a_function_serves_threads_too(is_async: bool) -> None:
    """An async one, if nobody can await it."""

    async def load() -> dict[str, str]:
        return {"k1": SECRET}

    ring = KeyRing.from_function(load if is_async else lambda: {"k1": SECRET})
    ring.prepare_now()
    assert ring.key_ids == ("k1",)


async def test_a_function_that_fails_does_not_show_why() -> None:
    """Its error may hold a token. Later, the keys that are known stay."""
    fails = True

    def load() -> dict[str, str]:
        if fails:
            raise PermissionError(f"token {OTHER} expired")
        return {"k1": SECRET}

    ring = KeyRing.from_function(load, max_age_seconds=1)
    with pytest.raises(EncryptionKeysUnavailableError, match="PermissionError") as refused:
        await ring.prepare()
    assert OTHER not in "".join(traceback.format_exception(refused.value))
    with pytest.raises(EncryptionKeysUnavailableError, match="not loaded"):
        assert ring.first
    fails = False
    await ring.prepare()
    fails = True
    ring._check_at = 0
    await ring.prepare()
    assert ring.key_ids == ("k1",)


@pytest.mark.parametrize("kind", ["generator", "mapping", "cancelled"])
async def test_keys_that_are_had_one_by_one_stay_if_one_fails(kind: str) -> None:
    """A worker that looks for new ones goes on, although the function itself has returned."""
    fails = False

    def found(key_id: str) -> str:
        if fails:
            raise ConnectionError(f"token {OTHER} expired")
        return SECRET

    class Lazy(UserDict[str, str]):
        def __getitem__(self, key_id: str) -> str:
            return found(key_id)

    def generate() -> Iterator[tuple[str, str]]:
        yield "k1", found("k1")

    async def cancelled() -> dict[str, str]:
        if fails:
            raise asyncio.CancelledError
        return {"k1": SECRET}

    functions: dict[str, Any] = {
        "generator": generate,
        "mapping": lambda: Lazy({"k1": ""}),
        "cancelled": cancelled,
    }
    ring = KeyRing.from_function(functions[kind])
    await ring.prepare()
    fails = True
    ring._check_at = 0
    await ring.prepare()
    assert not ring.is_stale
    assert ring.key_ids == ("k1",)
    first = KeyRing.from_function(functions[kind])
    with pytest.raises(EncryptionKeysUnavailableError, match="function that loads") as refused:
        await first.prepare()
    assert OTHER not in "".join(traceback.format_exception(refused.value))


def test_a_plain_function_may_return_an_awaitable() -> None:
    """As where it is awaited: for services without an event loop, too."""

    async def load() -> dict[str, str]:
        return {"k1": SECRET}

    ring = KeyRing.from_function(lambda: load())  # noqa: PLW0108 - a plain function
    ring.prepare_now()
    assert ring.key_ids == ("k1",)


def test_what_a_function_returns_is_checked() -> None:
    """The error says what it was to return."""
    with pytest.raises(EncryptionKeysUnavailableError, match="a mapping of ids"):
        KeyRing.from_function(lambda: 7).prepare_now()
    with pytest.raises(InvalidSettingError, match="a function without arguments"):
        KeyRing.from_function(None)  # type: ignore[arg-type]
    with pytest.raises(InvalidSettingError, match="max_age_seconds is 1 to 86400"):
        KeyRing.from_function(dict, max_age_seconds=0)


def test_no_secret_is_shown_or_pickled() -> None:
    """Neither by a key nor by a ring; in logs, a key that was quoted by accident is hidden."""
    key = EncryptionKey("k1", SECRET)
    ring = KeyRing({"k1": SECRET})
    for shown in (repr(key), str(key), repr(ring), str(ring), repr(vars(ring)), f"{ring!s}"):
        assert SECRET not in shown
        assert "\\x1f" not in shown
    for each in (key, ring):
        with pytest.raises(TypeError, match="is not pickled"):
            pickle.dumps(each)
    assert known_secrets.hide(f"the key is {SECRET}") == f"the key is {HIDDEN}"


def test_a_new_key_is_random() -> None:
    """Its line is read back as the same key."""
    key = new_key("k3")
    assert key != new_key("k3")
    assert keys_from_lines(key.as_line(), "here") == {"k3": key}

"""Database URLs from Secrets: found, missing, changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from meshhook_operator.api.jobqueue import ObjectKey
from meshhook_operator.errors import ClusterUnavailableError
from meshhook_operator.scaling import Failure
from meshhook_operator.secrets import (
    FRESH_SECONDS,
    MAX_RETRY_SECONDS,
    QUICK_RETRIES,
    RETRY_SECONDS,
    DatabaseSecrets,
    FoundAddress,
    SecretReference,
)
from support.waiting import eventually

SECRET = ObjectKey("shop", "emails-db")
REFERENCE = SecretReference(SECRET, "uri", pooled=False)
OF_WORKERS = SecretReference(ObjectKey("shop", "emails-workers"), "dsn", pooled=False)


class Secrets:
    """What the API server would say of Secrets, and the time."""

    def __init__(self) -> None:
        self.values: dict[str, str] | None = {"uri": "postgresql://a:first@db/app"}
        self.of_workers: dict[str, str] | None = {"dsn": "postgresql://w:first@db/app"}
        self.is_away = False
        self.reads = 0
        self.now = 1000.0

    async def read_secret(self, key: ObjectKey) -> dict[str, str] | None:
        """Return what is in the Secret."""
        assert key in (SECRET, OF_WORKERS.secret)
        self.reads += 1
        if self.is_away:
            raise ClusterUnavailableError("the API server is away")
        return self.values if key == SECRET else self.of_workers


@pytest.fixture
def secrets() -> Secrets:
    """The Secrets."""
    return Secrets()


@pytest.fixture
def changes() -> list[SecretReference]:
    """The references that were reported as changed."""
    return []


@pytest.fixture
async def book(secrets: Secrets, changes: list[SecretReference]) -> AsyncIterator[DatabaseSecrets]:
    """The operator's view of the Secrets."""
    async with asyncio.TaskGroup() as tasks:
        yield DatabaseSecrets(
            secrets,  # type: ignore[arg-type]
            tasks,
            on_change=changes.append,
            clock=lambda: secrets.now,
        )


async def first_look(book: DatabaseSecrets) -> FoundAddress | Failure:
    """Return what is found at first."""
    found = await eventually(lambda: book.look_up(REFERENCE))
    assert isinstance(found, FoundAddress | Failure)
    return found


async def test_found(book, secrets, changes):
    """The first look-up starts a read, whose result is reported."""
    assert book.look_up(REFERENCE) is None
    found = await first_look(book)
    assert isinstance(found, FoundAddress)
    assert found.address.url == "postgresql://a:first@db/app"
    assert changes == [REFERENCE]
    assert secrets.reads == 1


async def test_what_is_fresh_is_not_read_again(book, secrets):
    """Any number of look-ups within half a minute costs one request."""
    await first_look(book)
    secrets.now += FRESH_SECONDS - 1
    book.look_up(REFERENCE)
    await asyncio.sleep(0)
    assert secrets.reads == 1


async def test_a_rotated_password_is_found(book, secrets, changes):
    """A changed Secret gives another address and checksum; until it is read, the old ones count."""
    old = await first_look(book)
    secrets.values = {"uri": "postgresql://a:second@db/app"}
    secrets.now += FRESH_SECONDS
    assert book.look_up(REFERENCE) == old
    await eventually(lambda: len(changes) == 2)
    new = book.look_up(REFERENCE)
    assert isinstance(old, FoundAddress)
    assert isinstance(new, FoundAddress)
    assert new.address.url == "postgresql://a:second@db/app"
    assert new.checksum != old.checksum
    assert "second" not in f"{new!r}"
    assert "second" not in await new.checksum.compute(is_hurried=True)


async def test_another_key_that_changes_is_no_change(book, secrets, changes):
    """Another key of the Secret does not roll the workers out."""
    old = await first_look(book)
    assert secrets.values is not None
    secrets.values |= {"note": "new"}
    secrets.now += FRESH_SECONDS
    book.look_up(REFERENCE)
    await eventually(lambda: secrets.reads == 2)
    assert book.look_up(REFERENCE) == old
    assert len(changes) == 1


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (None, "SecretNotFound"),
        ({}, "SecretKeyMissing"),
        ({"url": "postgresql://db"}, "SecretKeyMissing"),
        ({"uri": "  "}, "SecretKeyMissing"),
    ],
)
async def test_what_is_missing_is_named(book, secrets, values, reason):
    """The reason distinguishes the Secret from its key, and the message names it."""
    secrets.values = values
    found = await first_look(book)
    assert isinstance(found, Failure)
    assert found.reason == reason
    assert "emails-db" in found.message
    assert "postgresql" not in found.message


async def test_what_is_missing_is_looked_for_soon(book, secrets):
    """A Secret that is created later is found within seconds."""
    secrets.values = None
    await first_look(book)
    secrets.values = {"uri": "postgresql://db"}
    secrets.now += RETRY_SECONDS
    await eventually(lambda: isinstance(book.look_up(REFERENCE), FoundAddress))


async def test_the_api_server_is_away(book, secrets):
    """While the API server is down, the last URL counts."""
    old = await first_look(book)
    secrets.is_away = True
    secrets.now += FRESH_SECONDS
    book.look_up(REFERENCE)
    await eventually(lambda: secrets.reads == 2)
    assert book.look_up(REFERENCE) == old


async def test_what_did_not_work_is_read_again_soon(book, secrets):
    """After a refused login, the Secret is read again within seconds."""
    await first_look(book)
    book.expire(REFERENCE)
    secrets.now += RETRY_SECONDS
    book.look_up(REFERENCE)
    await eventually(lambda: secrets.reads == 2)


async def reads_until(book: DatabaseSecrets, secrets: Secrets, end: float) -> list[float]:
    """Let its URL fail every second, and return when the Secret was read: in seconds from now."""
    start, found = secrets.now, list[float]()
    while secrets.now - start < end:
        secrets.now += 1
        before = secrets.reads
        book.expire(REFERENCE)
        book.look_up(REFERENCE)
        await eventually(lambda: not book._entries[REFERENCE].is_reading)
        if secrets.reads > before:
            found.append(secrets.now - start)
    return found


async def test_what_never_works_is_read_less_and_less(book, secrets):
    """A database that is down for days costs the API server no more than one that works."""
    await first_look(book)
    assert await reads_until(book, secrets, 130) == [5, 15, 35, 65, 95, 125]


async def test_a_url_that_works_again_ends_the_doubt(book, secrets):
    """As does another one: the next that does not work is read again within seconds."""
    await first_look(book)
    await reads_until(book, secrets, 40)
    for _ in range(2):  # the first read is still made in doubt
        secrets.now += FRESH_SECONDS
        book.look_up(REFERENCE)
        await eventually(lambda: not book._entries[REFERENCE].is_reading)
    assert await reads_until(book, secrets, 20) == [5, 15]
    secrets.values = {"uri": "postgresql://a:second@db/app"}
    assert await reads_until(book, secrets, 30) == [15, 20, 30]


async def test_what_is_not_in_use_is_forgotten(book, secrets):
    """Passwords are not kept for longer than they are needed."""
    await first_look(book)
    book.forget_all_but(set())
    assert book.look_up(REFERENCE) is None
    await eventually(lambda: secrets.reads == 2)


async def test_workers_may_have_a_url_of_their_own(book, secrets):
    """The operator uses its own URL; the checksum is of the workers' URL, for their rollout."""
    found = await eventually(lambda: book.look_up_both(REFERENCE, OF_WORKERS))
    assert found.address.url == "postgresql://a:first@db/app"
    secrets.now += FRESH_SECONDS
    secrets.values = {"uri": "postgresql://a:second@db/app"}
    new = await eventually(
        lambda: (now := book.look_up_both(REFERENCE, OF_WORKERS)).address != found.address and now
    )
    assert new.checksum == found.checksum
    secrets.now += FRESH_SECONDS
    secrets.of_workers = {"dsn": "postgresql://w:second@db/app"}
    rotated = await eventually(
        lambda: (now := book.look_up_both(REFERENCE, OF_WORKERS)).checksum != found.checksum and now
    )
    assert rotated.address == new.address


async def test_a_mere_question_reads_nothing(book, secrets):
    """Reconciles that are under way while a term ends ask, and nothing may be begun then."""
    assert book.look_up_both(REFERENCE, OF_WORKERS, reads=False) is None
    found = await eventually(lambda: book.look_up_both(REFERENCE, OF_WORKERS))
    before = secrets.reads
    secrets.now += 10 * FRESH_SECONDS
    assert book.look_up_both(REFERENCE, OF_WORKERS, reads=False) == found
    assert not any(entry.is_reading for entry in book._entries.values())
    assert secrets.reads == before


async def test_one_url_for_both_is_read_once(book, secrets):
    """One Secret for both is read once."""
    both = await eventually(lambda: book.look_up_both(REFERENCE, REFERENCE))
    assert both == book.look_up(REFERENCE)
    assert secrets.reads == 1


async def test_a_missing_url_of_the_workers_is_named(book, secrets):
    """Without it the pods could not start, so the condition names the Secret."""
    secrets.of_workers = None
    found = await eventually(lambda: book.look_up_both(REFERENCE, OF_WORKERS))
    assert found == Failure(
        reason="SecretNotFound", message="Secret 'emails-workers' does not exist"
    )


async def test_a_secret_that_stays_away_is_read_less_and_less(book, secrets):
    """Missing Secrets are read less and less often, down to once a minute."""
    secrets.values = None
    await first_look(book)
    for _ in range(60):
        secrets.now += RETRY_SECONDS
        book.look_up(REFERENCE)
        await eventually(lambda: not book._entries[REFERENCE].is_reading)
    assert QUICK_RETRIES < secrets.reads < 2 * QUICK_RETRIES
    secrets.values = {"uri": "postgresql://a:first@db/app"}
    secrets.now += MAX_RETRY_SECONDS
    book.look_up(REFERENCE)
    await eventually(lambda: isinstance(book.look_up(REFERENCE), FoundAddress))


async def test_one_namespace_does_not_fill_the_line(secrets):
    """Secrets of other namespaces are read while those of one namespace hang."""
    hanging = asyncio.Event()

    async def read(key: ObjectKey) -> dict[str, str] | None:
        if key.namespace == "other":
            await hanging.wait()
        return {"uri": "postgresql://a:first@db/app"}

    secrets.read_secret = read
    async with asyncio.TaskGroup() as tasks:
        book = DatabaseSecrets(secrets, tasks, on_change=lambda _: None, clock=lambda: 0.0)
        for index in range(100):
            key = ObjectKey("other", f"s{index}")
            book.look_up(SecretReference(key, "uri", pooled=False))
        await eventually(lambda: isinstance(book.look_up(REFERENCE), FoundAddress))
        hanging.set()

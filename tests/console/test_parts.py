"""The parts of the console that need no database: shared answers, hidden places, files, times."""

from __future__ import annotations

import asyncio
import hashlib
from datetime import UTC, datetime, timedelta
from importlib import resources
from typing import cast
from unittest.mock import Mock

import pytest

from meshhook.administration import QueueSnapshot
from meshhook.console.arrivals import Arrivals
from meshhook.console.charts import HEIGHT, MinuteCount, bars
from meshhook.console.login_limits import LoginLimits
from meshhook.console.redactions import REDACTED, Redactions
from meshhook.console.rendering import STATIC_FILES, ago, duration
from meshhook.console.snapshots import Snapshots
from meshhook.errors import InvalidJobError

HTMX = "a0abb04f2f45a1f89d1d4844023245537e5e6014c87b144553e0607b4cc32130"
"""The SHA-256 of dist/htmx.min.js of the package htmx.org 4.0.1."""


def test_htmx_is_as_it_was_published():
    """The vendored file is that of the package, and its licence is beside it."""
    files = resources.files("meshhook.console").joinpath("static")
    assert hashlib.sha256(files.joinpath("htmx.min.js").read_bytes()).hexdigest() == HTMX
    assert "Zero-Clause BSD" in files.joinpath("htmx.LICENSE").read_text()
    assert {each.name for each in files.iterdir()} == {*STATIC_FILES, "htmx.LICENSE"}


def test_templates_have_no_script_and_no_style():
    """What the policy forbids is in no template, and nothing is marked as safe."""
    for template in resources.files("meshhook.console").joinpath("templates").iterdir():
        text = template.read_text()
        for forbidden in ("style=", "<style", "onclick", "javascript:", "|safe", "autoescape"):
            assert forbidden not in text.replace("|safe_text", ""), template.name
        assert all(" src=" in each for each in text.split("<script")[1:]), template.name


async def test_viewers_share_one_reading():
    """Whoever asks while it is read, or shortly after, gets the same; later it is read anew."""
    now = 0.0
    snapshots = Snapshots(clock=lambda: now)
    gate = asyncio.Event()
    reads = 0

    async def read() -> int:
        nonlocal reads
        await gate.wait()
        reads += 1
        return reads

    asked = [asyncio.create_task(snapshots.get("x", read, for_seconds=5)) for _ in range(200)]
    await asyncio.sleep(0)
    asked[0].cancel()
    gate.set()
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert answers[1:] == [1] * 199
    now = 4.9
    assert await snapshots.get("x", read, for_seconds=5) == 1
    now = 5.0
    assert await snapshots.get("x", read, for_seconds=5) == 2
    snapshots.forget_all()
    assert await snapshots.get("x", read, for_seconds=5) == 3
    await snapshots.close()


async def test_how_long_it_is_kept_may_depend_on_it():
    """What took more is read less often."""
    now = 0.0
    snapshots = Snapshots(clock=lambda: now)
    answers = iter([100, 1, 2])

    async def read() -> int:
        return next(answers)

    for at, answer in ((0.0, 100), (99.0, 100), (100.0, 1), (101.0, 2)):
        now = at
        assert await snapshots.get("x", read, for_seconds=float) == answer
    await snapshots.close()


async def test_what_was_read_before_a_change_is_not_kept():
    """Whoever asks after a change gets what was read after it; an older reading still runs."""
    snapshots = Snapshots(clock=lambda: 0.0)
    gates = [asyncio.Event(), asyncio.Event()]
    reads = 0

    async def read() -> int:
        nonlocal reads
        number, reads = reads, reads + 1
        await gates[number].wait()
        return number

    async def get() -> int:
        return await snapshots.get("x", read, for_seconds=5)

    before = asyncio.create_task(get())
    await asyncio.sleep(0)
    snapshots.forget_all()
    after = asyncio.create_task(get())
    await asyncio.sleep(0)
    gates[0].set()
    assert await before == 0
    assert not after.done()
    gates[1].set()
    assert await after == 1
    assert await get() == 1
    await snapshots.close()


def test_arrivals_of_queues_that_are_read_rarely():
    """Rates are of the last minute, or since the last time that was read, up to ten minutes ago."""
    began = datetime(2026, 12, 1, tzinfo=UTC)

    def at(seconds: float, total: int) -> QueueSnapshot:
        found = Mock(spec=QueueSnapshot, queue="jobs", enqueued_total=total)
        found.sampled_at = began + timedelta(seconds=seconds)
        return cast("QueueSnapshot", found)

    arrivals = Arrivals()
    assert arrivals.note(at(0, 0)) is None
    assert arrivals.note(at(30, 60)) == 2
    assert arrivals.note(at(80, 110)) == 1
    assert arrivals.note(at(280, 510)) == 2
    assert arrivals.note(at(881, 9_999)) is None


async def test_an_error_is_not_kept():
    """All who wait for a reading that fails hear of it; the next one is tried again."""
    snapshots = Snapshots()
    answers = iter([RuntimeError("away"), 1])

    async def read() -> object:
        await asyncio.sleep(0)
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    both = await asyncio.gather(
        *(snapshots.get("x", read, for_seconds=5) for _ in range(2)), return_exceptions=True
    )
    assert [str(each) for each in both] == ["away", "away"]
    assert await snapshots.get("x", read, for_seconds=5) == 1


def test_hidden_places():
    """A path names fields, items by number, and all of them by a star; the original stays."""
    redactions = Redactions(("body.a.*.b", "body.list.1", "headers.x"))
    body = {"a": {"p": {"b": 1, "c": 2}, "q": {"b": {"d": 3}}}, "list": [4, 5], "b": 6}
    shown = redactions.hidden("body", body)
    assert shown == {
        "a": {"p": {"b": REDACTED, "c": 2}, "q": {"b": REDACTED}},
        "list": [4, REDACTED],
        "b": 6,
    }
    assert body["list"] == [4, 5]
    assert redactions.restored(shown, body) == body
    assert redactions.hidden("headers", {"x": 1, "y": 2}) == {"x": REDACTED, "y": 2}


def test_a_hidden_place_may_be_written_anew_or_left_out():
    """What stands there is what runs; a mark that was moved is refused."""
    redactions = Redactions(("body.pin",))
    assert redactions.restored({"pin": 7}, {"pin": 1}) == {"pin": 7}
    assert redactions.restored({}, {"pin": 1}) == {}
    for edited in ({"pin2": REDACTED}, {"pin": [REDACTED]}, [REDACTED]):
        with pytest.raises(InvalidJobError, match="where nothing was hidden"):
            redactions.restored(edited, {"pin": 1})
    with pytest.raises(InvalidJobError):
        redactions.restored({"pin": REDACTED}, {})


def test_logins_wait_a_minute_after_too_many_failures():
    """Failures count per name and address, and per address; old ones do not."""
    now = 0.0
    limits = LoginLimits(clock=lambda: now)
    for _ in range(4):
        limits.note_failure("10.0.0.1", "ada")
    assert limits.wait_seconds("10.0.0.1", "ada") == 0
    limits.note_failure("10.0.0.1", "ada")
    assert limits.wait_seconds("10.0.0.1", "ada") == 60
    assert limits.wait_seconds("10.0.0.1", "bob") == 0
    assert limits.wait_seconds("10.0.0.2", "ada") == 0
    for i in range(15):
        limits.note_failure("10.0.0.1", f"guess-{i}")
    assert limits.wait_seconds("10.0.0.1", "bob") == 60
    now = 60.0
    assert limits.wait_seconds("10.0.0.1", "bob") == 0


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("192.0.2.1", "192.0.2.2", False),
    ],
)
def test_logins_from_one_network_of_ipv6_count_together(one: str, other: str, *, is_same: bool):
    """Whoever has an address there has all the others, too."""
    limits = LoginLimits(clock=lambda: 0.0)
    for _ in range(5):
        limits.note_failure(one, "ada")
    assert (limits.wait_seconds(other, "ada") > 0) is is_same


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "\N{EN DASH}"),
        (0, "0 s"),
        (0.02, "20 ms"),
        (1, "1 s"),
        (2.5, "2.5 s"),
        (59.9, "59 s"),
        (61, "1 min"),
        (3_600, "1 h"),
        (3_700, "1 h 1 min"),
        (90_000, "1 d 1 h"),
    ],
)
def test_durations_are_short(seconds: float | None, text: str):
    """One or two units, the largest first."""
    assert duration(seconds) == text


def test_times_are_relative_with_the_exact_one():
    """A time says how long ago, or until when; its title and its attribute say exactly."""
    now = datetime(2026, 12, 1, 10, tzinfo=UTC)
    text = str(ago(now - timedelta(hours=2), now))
    assert text == (
        '<time datetime="2026-12-01T08:00:00.000+00:00" title="2026-12-01 08:00:00 UTC">'
        "2 h ago</time>"
    )
    assert ">in 5 s<" in str(ago(now + timedelta(seconds=5), now))
    assert ">now<" in str(ago(now, now))


def test_few_failures_among_many_are_seen():
    """A part of a bar is never less than a pixel high, and no bar leaves the picture."""
    minutes = [
        MinuteCount(minutes_ago=i, retried=0, dead_lettered=1, attempts=n)
        for i, n in enumerate((1, 2, 1_000_000))
    ]
    found = bars(minutes)
    assert all(bar.height >= 1.5 for bar in found)
    assert all(0 <= bar.y <= HEIGHT for bar in found)
    assert sum(bar.kind == "dead" for bar in found) == 3

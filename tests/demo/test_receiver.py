"""The receiver of the demo: how it misbehaves, and what its ledger says."""

import asyncio
import base64
import json
import os
import sys
from collections import Counter
from datetime import UTC, datetime

import aiohttp
import pytest
from standardwebhooks.webhooks import Webhook

from meshhook.demo.receiver import ACCEPTED, ALWAYS, PLAN, Answer, Outage, Receiver, answer_for
from meshhook.demo.scenario import QUEUE_SETTINGS
from support.waiting import eventually

SECRET = "whsec_" + base64.b64encode(b"a secret for tests only!").decode()
SEED = 7
IDS = [f"msg_{number}" for number in range(20_000)]


def signed(delivery_id: str, body: str = "{}", secret: str = SECRET) -> dict[str, str]:
    """Return the headers of a signed delivery."""
    now = datetime.now(UTC)
    return {
        "webhook-id": delivery_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(secret).sign(delivery_id, now, body),
    }


def id_with(answer: Answer, seen_before: int = 0) -> str:
    """Return the id of a delivery that gets `answer`."""
    return next(each for each in IDS if answer_for(each, seen_before, SEED) == answer)


@pytest.fixture
async def receiver():
    """A receiver that holds answers back for half a minute."""
    receiver = Receiver(secret=SECRET, seed=SEED, latency_seconds=0)
    yield receiver
    await receiver.stop()


@pytest.fixture
async def url(receiver):
    """Where the receiver takes deliveries."""
    return f"http://127.0.0.1:{await receiver.start()}/webhooks/one"


@pytest.fixture
async def session():
    """An HTTP client."""
    async with aiohttp.ClientSession() as session:
        yield session


def test_the_same_delivery_gets_the_same_answer():
    """The plan depends on the id, the number of the request and the seed, and on nothing else."""
    answers = [answer_for(each, 0, SEED) for each in IDS]

    assert answers == [answer_for(each, 0, SEED) for each in IDS]
    assert answers != [answer_for(each, 0, SEED + 1) for each in IDS]


@pytest.mark.parametrize("row", PLAN, ids=str)
def test_the_share_of_each_misbehaviour_is_that_of_the_plan(row):
    """Of many deliveries, about the share of each row gets its answer, and as often as it says."""
    first = Counter(answer_for(each, 0, SEED) for each in IDS)
    expected = sum(other.share for other in PLAN if other.answer == row.answer) * len(IDS)

    assert first[row.answer] == pytest.approx(expected, rel=0.25)
    assert id_with(row.answer, seen_before=0 if row.times == 1 else 1)


def test_a_passing_misbehaviour_ends_with_a_200():
    """What does not last for ever is over at the third request."""
    lasting = {row.answer for row in PLAN if row.times == ALWAYS}
    third = {answer_for(each, 2, SEED) for each in IDS}

    assert third == lasting | {ACCEPTED}


async def test_an_accepted_delivery_is_in_the_ledger(receiver, url, session):
    """Each 2xx counts, so that a delivery accepted twice shows."""
    delivery_id = id_with(ACCEPTED)
    for _ in range(2):
        async with session.post(url, data=b"{}", headers=signed(delivery_id)) as response:
            assert response.status == 200

    async with session.get(url.replace("/webhooks/one", "/ledger")) as response:
        assert await response.json() == {delivery_id: 2}
    async with session.get(url.replace("/webhooks/one", "/summary")) as response:
        assert await response.json() == {
            "requests": 2,
            "deliveries": 1,
            "accepted": 1,
            "accepted_more_than_once": 1,
            "statuses": {"200": 2},
            "refused_in_outage": 0,
        }


@pytest.mark.parametrize(
    "headers",
    [
        {},
        signed("msg_1", body="another body"),
        signed("msg_1", secret="whsec_" + base64.b64encode(b"not the secret").decode()),
        {**signed("msg_1"), "webhook-id": "msg_2"},
        {**signed("msg_1"), "webhook-timestamp": "soon"},
        {**signed("msg_1"), "webhook-signature": "nonsense"},
    ],
    ids=["unsigned", "body", "secret", "id", "timestamp", "signature"],
)
async def test_a_delivery_without_a_valid_signature_is_refused(receiver, url, session, headers):
    """It gets a 401 and is not in the ledger."""
    async with session.post(url, data=b"{}", headers=headers) as response:
        assert response.status == 401
    assert not receiver.ledger.requests


async def test_a_429_says_when_to_come_back(receiver, url, session):
    """The Retry-After header is that of the plan, and the next request is accepted."""
    delivery_id = id_with(Answer(429, retry_after_seconds=1))
    async with session.post(url, data=b"{}", headers=signed(delivery_id)) as response:
        assert (response.status, response.headers["Retry-After"]) == (429, "1")
    async with session.post(url, data=b"{}", headers=signed(delivery_id)) as response:
        assert response.status == 200


async def test_a_held_answer_does_not_come_in_time(receiver, url, session):
    """The caller gives up first; the delivery does not count as accepted."""
    delivery_id = id_with(Answer(504, is_held=True))
    with pytest.raises(TimeoutError):
        await session.post(
            url,
            data=b"{}",
            headers=signed(delivery_id),
            timeout=aiohttp.ClientTimeout(sock_read=0.5),  # once the request is sent
        )
    await eventually(lambda: receiver.ledger.statuses == {"no answer": 1})
    assert not receiver.ledger.accepted


def test_an_outage_is_of_one_receiver_and_passes():
    """It begins after some accepted deliveries, and ends after its time."""
    outage = Outage("three", seconds=2.0, after=10, at_least=2)

    assert not outage.answers("three", accepted=9, now=100.0)
    assert not outage.answers("two", accepted=10, now=100.0)
    assert outage.answers("three", accepted=10, now=101.0)
    assert outage.answers("three", accepted=10, now=102.9)
    assert not outage.answers("three", accepted=10, now=103.0)
    assert not outage.answers("three", accepted=500, now=200.0)


def test_an_outage_is_long_enough_for_a_breaker():
    """However slowly the requests come, as many in a row are refused as open the breaker."""
    outage = Outage("three", seconds=2.0, after=0)
    answers = [outage.answers("three", accepted=0, now=100.0 + 3 * n) for n in range(10)]
    assert answers == [True] * 8 + [False] * 2
    assert outage.at_least == QUEUE_SETTINGS["breaker_failures"]


async def test_a_receiver_that_is_down_refuses_every_delivery():
    """It answers 503, and the ledger counts it."""
    receiver = Receiver(secret=SECRET, seed=SEED, outage=Outage("one", seconds=60, after=0))
    url = f"http://127.0.0.1:{await receiver.start()}/webhooks"
    delivery_id = id_with(ACCEPTED)
    async with aiohttp.ClientSession() as session:
        for name, status in (("one", 503), ("two", 200)):
            headers = signed(delivery_id)
            async with session.post(f"{url}/{name}", data=b"{}", headers=headers) as response:
                assert response.status == status
    await receiver.stop()
    assert receiver.ledger.refused_in_outage == 1
    assert receiver.ledger.accepted == {delivery_id: 1}


async def test_the_program_says_its_port_and_stops_with_its_input():
    """One JSON line when it listens; it ends when whoever started it has gone."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "meshhook.demo.receiver", "--until-stdin-closes"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "WEBHOOK_SECRET": SECRET},
    )
    assert process.stdin
    assert process.stdout
    ready = json.loads(await process.stdout.readline())
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{ready['port']}/summary") as response,
    ):
        assert (await response.json())["requests"] == 0

    process.stdin.close()
    assert await process.wait() == 0

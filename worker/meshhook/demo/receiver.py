"""The receivers of the demo: an HTTP server that misbehaves by plan and counts what it accepted.

    WEBHOOK_SECRET=whsec_... python -m meshhook.demo.receiver --seed 1

prints one JSON line with its port once it listens, and stops at SIGTERM or SIGINT.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass

from aiohttp import web
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

OUTAGE_SECONDS = 2.5
"""How long a receiver is down, if nothing else is said."""
HOLD_SECONDS = 30.0
"""How long an answer that is held back would take; callers give up long before."""
LATENCY_SECONDS = 0.01
"""How long every other answer takes."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the receiver does with one request."""

    status: int
    """The HTTP status."""
    retry_after_seconds: int | None = None
    """The Retry-After header, if there is one."""
    is_held: bool = False
    """Whether the answer comes so late that the caller has given up."""


@dataclass(frozen=True, slots=True)
class Misbehaviour:
    """A share of the deliveries, and what they get instead of a 200."""

    share: float
    """Which part of all deliveries: 0 to 1."""
    times: float
    """How many requests of one delivery get this answer before a 200; infinity for all."""
    answer: Answer


ALWAYS = float("inf")
ACCEPTED = Answer(200)
PLAN = (
    Misbehaviour(0.070, 1, Answer(503)),
    Misbehaviour(0.010, 2, Answer(503)),
    Misbehaviour(0.010, 1, Answer(429, retry_after_seconds=1)),
    Misbehaviour(0.020, 1, Answer(504, is_held=True)),
    Misbehaviour(0.006, ALWAYS, Answer(404)),
    Misbehaviour(0.004, ALWAYS, Answer(422)),
    Misbehaviour(0.005, ALWAYS, Answer(500)),
)
"""How the receiver misbehaves. A delivery falls into at most one row; the rest get a 200."""


@dataclass(slots=True)
class Outage:
    """A receiver that answers every request with 503 for a while."""

    receiver: str
    """Its name, the last part of its URL."""
    seconds: float = OUTAGE_SECONDS
    """How long it is down."""
    after: int = 10
    """How many deliveries it accepts before."""
    at_least: int = 8
    """How many requests it answers so in any case: on a slow machine, too, its breaker opens."""
    _began: float | None = None
    _refused: int = 0

    def answers(self, receiver: str, accepted: int, now: float) -> bool:
        """Return whether a request of this moment gets a 503.

        Args:
            receiver: who is asked.
            accepted: how many deliveries that receiver has accepted.
            now: the time in seconds, by a monotonic clock.
        """
        if receiver != self.receiver or accepted < self.after:
            return False
        if self._began is None:
            self._began = now
        is_down = now < self._began + self.seconds or self._refused < self.at_least
        self._refused += is_down
        return is_down


def answer_for(delivery_id: str, seen_before: int, seed: int) -> Answer:
    """Return the answer to a delivery that was seen `seen_before` times already.

    The same arguments give the same answer, on every machine.
    """
    digest = hashlib.blake2b(f"{seed}:{delivery_id}".encode(), digest_size=8).digest()
    point = int.from_bytes(digest) / 2**64
    for row in PLAN:
        if point < row.share:
            return row.answer if seen_before < row.times else ACCEPTED
        point -= row.share
    return ACCEPTED


class Ledger:
    """What came in, and what was accepted: by this the demo finds lost and doubled deliveries."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        """Requests with a valid signature, by delivery id."""
        self.accepted: Counter[str] = Counter()
        """How often each delivery id got a 2xx."""
        self.statuses: Counter[str] = Counter()
        """Requests by the answer they got."""
        self.accepted_by: Counter[str] = Counter()
        """Requests with a 2xx, by receiver."""
        self.refused_in_outage = 0
        """Requests that came while their receiver was down."""

    def summary(self) -> dict[str, object]:
        """Return the counts that `GET /summary` answers with."""
        return {
            "requests": sum(self.statuses.values()),
            "deliveries": len(self.requests),
            "accepted": len(self.accepted),
            "accepted_more_than_once": sum(times > 1 for times in self.accepted.values()),
            "statuses": dict(sorted(self.statuses.items())),
            "refused_in_outage": self.refused_in_outage,
        }


class Receiver:
    """The server: start it, take its port, stop it."""

    def __init__(
        self,
        *,
        secret: str,
        seed: int,
        outage: Outage | None = None,
        is_mended: bool = False,
        hold_seconds: float = HOLD_SECONDS,
        latency_seconds: float = LATENCY_SECONDS,
    ) -> None:
        """Take the secret that deliveries must be signed with, and the seed of the plan.

        Args:
            secret: a Standard Webhooks secret, `whsec_` and base64.
            seed: which deliveries fare badly; see `answer_for`.
            outage: which receiver is down for a while. Default: none.
            is_mended: whether every delivery is accepted. Default: they misbehave by plan.
            hold_seconds: how long an answer that is held back takes. Default 30.
            latency_seconds: how long every other answer takes. Default 0.01.
        """
        self.ledger = Ledger()
        self._webhook = Webhook(secret)
        self._seed = seed
        self._outage = outage
        self._is_mended = is_mended
        self._hold_seconds = hold_seconds
        self._latency_seconds = latency_seconds
        self._runner: web.AppRunner | None = None

    async def start(self, port: int = 0) -> int:
        """Listen on a port of 127.0.0.1, by default a free one, and return the port."""
        app = web.Application()
        app.router.add_post("/webhooks/{receiver}", self._receive)
        app.router.add_get("/summary", self._summary)
        app.router.add_get("/ledger", self._accepted)
        # Cancelled with its caller, so that held answers do not pile up.
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=1.0
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", port).start()
        taken: int = self._runner.addresses[0][1]
        return taken

    async def stop(self) -> None:
        """Stop listening; safe to repeat."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _receive(self, request: web.Request) -> web.Response:
        body = await request.read()
        try:
            self._webhook.verify(body, dict(request.headers), json_parse=False)
        except (WebhookVerificationError, ValueError):
            self.ledger.statuses["401"] += 1
            return web.Response(status=401)
        receiver = request.match_info["receiver"]
        if self._outage is not None and self._outage.answers(
            receiver, self.ledger.accepted_by[receiver], time.monotonic()
        ):
            self.ledger.refused_in_outage += 1
            self.ledger.statuses["503"] += 1
            return web.Response(status=503)
        delivery_id = request.headers["webhook-id"]
        answer = (
            ACCEPTED
            if self._is_mended
            else answer_for(delivery_id, self.ledger.requests[delivery_id], self._seed)
        )
        self.ledger.requests[delivery_id] += 1
        self.ledger.statuses["no answer" if answer.is_held else str(answer.status)] += 1
        if answer.status == ACCEPTED.status:
            self.ledger.accepted[delivery_id] += 1
            self.ledger.accepted_by[receiver] += 1
        await asyncio.sleep(self._hold_seconds if answer.is_held else self._latency_seconds)
        headers = {}
        if answer.retry_after_seconds is not None:
            headers["Retry-After"] = str(answer.retry_after_seconds)
        return web.Response(status=answer.status, headers=headers)

    async def _summary(self, _: web.Request) -> web.Response:
        return web.json_response(self.ledger.summary())

    async def _accepted(self, _: web.Request) -> web.Response:
        return web.json_response(self.ledger.accepted)


async def serve(receiver: Receiver, *, port: int = 0, until_stdin_closes: bool = False) -> None:
    """Run a receiver until SIGTERM or SIGINT, or until standard input closes."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    port = await receiver.start(port)
    sys.stdout.write(json.dumps({"port": port, "pid": os.getpid()}) + "\n")
    sys.stdout.flush()
    if until_stdin_closes:
        # The other end is the demo: a demo that was killed leaves no server behind.
        loop.add_reader(sys.stdin, stopped.set)
    try:
        await stopped.wait()
    finally:
        await receiver.stop()


def main(arguments: list[str] | None = None) -> int:
    """Run the receiver as a program."""
    parser = argparse.ArgumentParser(prog="python -m meshhook.demo.receiver", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="which deliveries fare badly")
    parser.add_argument("--mended", action="store_true", help="accept every delivery")
    parser.add_argument("--port", type=int, default=0, help="where to listen; 0: a free port")
    parser.add_argument("--down", metavar="NAME", help="which receiver is down for a while")
    parser.add_argument(
        "--down-seconds", type=float, default=OUTAGE_SECONDS, help="for how long it is down"
    )
    parser.add_argument(
        "--until-stdin-closes", action="store_true", help="stop when standard input closes"
    )
    options = parser.parse_args(arguments)
    secret = os.environ.get("WEBHOOK_SECRET")
    if not secret:
        parser.error("set WEBHOOK_SECRET to the secret that deliveries are signed with")
    outage = Outage(options.down, seconds=options.down_seconds) if options.down else None
    receiver = Receiver(secret=secret, seed=options.seed, outage=outage, is_mended=options.mended)
    try:
        asyncio.run(
            serve(receiver, port=options.port, until_stdin_closes=options.until_stdin_closes)
        )
    except OSError as error:
        sys.stderr.write(f"cannot listen on port {options.port}: {error.strerror}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

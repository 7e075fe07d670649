"""The receiver of the tests: takes signed webhooks, and keeps a ledger of their ids.

POST /hooks      a delivery; one whose id begins with `refused-` is answered with 410 while the
                 receiver is unfriendly, which it is at first; `slow-` takes a quarter of a second,
                 `slower-` three seconds
GET  /ledger     {id: how often it was accepted}
POST /friendly   accept everything from now on
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter

from aiohttp import web
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

PORT = 8080

accepted: Counter[str] = Counter()
webhook = Webhook(os.environ["WEBHOOK_SECRET"])
mood = {"friendly": False}


async def take(request: web.Request) -> web.Response:
    """Answer a delivery."""
    body = await request.read()
    try:
        webhook.verify(body, dict(request.headers), json_parse=False)
    except WebhookVerificationError:
        return web.Response(status=401)
    delivery_id = request.headers["webhook-id"]
    if delivery_id.startswith("refused-") and not mood["friendly"]:
        return web.Response(status=410)
    if delivery_id.startswith("slow-"):
        await asyncio.sleep(0.25)
    if delivery_id.startswith("slower-"):
        await asyncio.sleep(3)
    accepted[delivery_id] += 1
    return web.Response()


async def ledger(_: web.Request) -> web.Response:
    """Return what was accepted."""
    return web.json_response(accepted)


async def be_friendly(_: web.Request) -> web.Response:
    """Accept everything from now on."""
    mood["friendly"] = True
    return web.Response()


app = web.Application(client_max_size=10_000_000)
app.router.add_post("/hooks", take)
app.router.add_get("/ledger", ledger)
app.router.add_post("/friendly", be_friendly)
web.run_app(app, port=PORT, print=None)

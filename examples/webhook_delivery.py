"""Deliver webhooks with the stock handler, and note which receivers are gone.

Start a worker with it:

    export MESHHOOK_WEBHOOK_SECRET=whsec_... MESHHOOK_DATABASE_URL=postgresql://...
    meshhook worker workflow_jobs --handler webhook_delivery:deliver

and enqueue a delivery:

    meshhook enqueue workflow_jobs '{"url": "https://example.com/hooks", "body": {"type": "ping"}}'

With a key for each receiver, one that is down keeps only its own deliveries waiting:

    meshhook queue set workflow_jobs keyed=true breaker_failures=8
    meshhook enqueue workflow_jobs --key example.com '{"url": ..., "body": ...}'
"""

from __future__ import annotations

import logging

from meshhook import Job
from meshhook.http import WebhookDelivery, WebhookHandler

log = logging.getLogger("webhook_delivery")


def note_gone(job: Job[WebhookDelivery]) -> None:
    """Hear that a receiver answered 410 Gone: the place to switch it off in your own tables."""
    # Not the URL: for many receivers it is as good as a password.
    log.warning("the receiver of job %s of project %s is gone", job.msg_id, job.project_id)


# The secret and all else that is not given here come from MESHHOOK_WEBHOOK_... They are read at
# import: with a wrong one the worker does not start, which beats failing every job.
deliver = WebhookHandler(on_gone=note_gone)

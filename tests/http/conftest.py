"""Receivers for the tests of webhooks."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from support.receivers import Receiver, running_receiver


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that would be used would fail each delivery."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("MESHHOOK_WEBHOOK_SECRET", raising=False)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """A running receiver."""
    async with running_receiver() as receiver:
        yield receiver

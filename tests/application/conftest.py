"""What the tests of applications share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from meshhook import App


@pytest.fixture
async def app(database_url: str) -> AsyncIterator[App]:
    """An app on the database of the test, closed at its end."""
    app = App(database_url)
    yield app
    await app.close()

"""The tests shown in docs/testing.md pass."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from meshhook.embedded import EmbeddedPostgres

pytestmark = pytest.mark.slow  # a session of pytest

PAGE = Path(__file__).parents[2] / "docs" / "testing.md"


def test_the_tests_of_the_page_pass(
    pytester: pytest.Pytester, postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program and the tests of the page work as a reader would save them."""
    blocks = re.findall(r"```py(?:thon)?\n(.*?)```", PAGE.read_text(), re.DOTALL)
    shop = pytester.mkpydir("shop")
    (shop / "jobs.py").write_text(blocks[0])
    for number, block in enumerate(blocks[1:], 1):
        (pytester.path / f"test_block_{number}.py").write_text(block)
    pytester.makeini(
        """
        [pytest]
        filterwarnings = error
        asyncio_mode = auto
        asyncio_default_fixture_loop_scope = function
        pythonpath = .
        """
    )
    monkeypatch.delenv("MESHHOOK_DATABASE_URL", raising=False)
    monkeypatch.setenv("MESHHOOK_TEST_DATABASE_URL", postgres.url())
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", timeout=250)
    shown = sum(block.count("async def test_") for block in blocks)
    assert shown > 10
    result.assert_outcomes(passed=shown)

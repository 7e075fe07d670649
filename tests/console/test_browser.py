"""The console in a real browser, on a real database with real dead letters."""

from __future__ import annotations

import json
from typing import Any

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Locator, Page, expect

from meshhook.administration import set_queue_config
from meshhook.jobs import Job
from meshhook.keys import hold_key
from meshhook.queues import QueueService
from meshhook.schedules import add_schedule
from meshhook.testing.database import QueueDatabase
from support.console import add_dead_letters, browsing, bytes_of, served

pytestmark = pytest.mark.process

PAGES = (
    "/",
    "/queues/jobs",
    "/dead-letters",
    "/queues/jobs/dead-letters",
    "/queues/jobs/dead-letters/1",
    "/queues/jobs/dead-letters/confirm?action=replay",
    "/search?run_id=run-1",
    "/queues/jobs/keys",
    "/workers",
    "/schedules",
    "/audit",
    "/doctor",
    "/missing",
)
PAGE_BYTES = 150_000


async def handle(job: Job[Any]) -> None:
    """Fail for orders without an address."""
    if "address" not in job.payload:
        raise ValueError(f"order {job.payload['order']} has no address <b>at all</b>")


async def fail_last_night(database_url: str) -> None:
    """Let jobs fail as they do in real life."""
    async with QueueService[Any](database_url, "jobs") as queue:
        await set_queue_config(database_url, "jobs", max_retry_attempts=2)
        for order in range(3):
            await queue.enqueue({"run_id": f"run-{order}", "payload": {"order": order}})
    await QueueDatabase(database_url).drain(handle, "jobs", with_retries=True)


@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no scripts"])
async def test_a_failure_is_found_mended_replayed_and_succeeds(
    scripts: bool, database_url: str, queue_name: str
):
    """From the overview to the job that succeeded by links and buttons, also without scripts.

    What is typed into the body is what runs.
    """
    await fail_last_night(database_url)
    async with served(database_url) as url, browsing(java_script_enabled=scripts) as open_page:
        page: Page = await open_page()
        await page.goto(url)
        await page.get_by_role("link", name="Dead letters", exact=True).click()
        await page.get_by_role("link", name="ValueError").click()
        await page.get_by_role("link", name="order 1 has no address <b>at all</b>").click()
        await expect(page.get_by_role("heading", level=1)).to_contain_text("dead letter")
        # Both attempts, each with its stack.
        await expect(page.locator(".attempts > li")).to_have_count(2)
        await page.locator("summary", has_text="Stack").first.click()
        await expect(page.locator("pre").first).to_contain_text("Traceback")
        body = json.loads(await page.get_by_label("Body, as JSON").input_value())
        body["payload"]["address"] = "1 Main St"
        await page.get_by_label("Body, as JSON").fill(json.dumps(body))
        await page.get_by_role("button", name="Replay with this body").click()
        await expect(page.get_by_role("status")).to_contain_text("was replayed as job")
        await QueueDatabase(database_url).drain(handle, "jobs")
        if not scripts:
            await page.reload()
        # A live page shows it by itself.
        await expect(page.get_by_role("heading", level=1)).to_contain_text("succeeded")


async def tab_to(page: Page, target: Locator) -> None:
    """Press Tab until an element has the focus, and check that it shows."""
    await expect(target).to_be_visible()
    for _ in range(150):
        await page.keyboard.press("Tab")
        if await target.evaluate("each => each === document.activeElement"):
            assert await target.evaluate("each => getComputedStyle(each).outlineStyle") != "none"
            return
    pytest.fail(f"the keyboard does not reach {target}")


async def test_a_failure_is_mended_with_the_keyboard_alone(database_url: str, queue_name: str):
    """Tab, Enter and typing lead from the overview to the job that succeeded; the focus shows."""
    await fail_last_night(database_url)
    async with served(database_url) as url, browsing() as open_page:
        page: Page = await open_page()
        heading = page.get_by_role("heading", level=1)
        await page.goto(url)
        await tab_to(page, page.get_by_role("link", name="Dead letters", exact=True))
        await page.keyboard.press("Enter")
        await tab_to(page, page.get_by_role("link", name="ValueError"))
        await page.keyboard.press("Enter")
        await tab_to(page, page.get_by_role("link", name="order 1 has no address <b>at all</b>"))
        await page.keyboard.press("Enter")
        await expect(heading).to_contain_text("dead letter")
        body = page.get_by_label("Body, as JSON")
        await tab_to(page, body)
        mended = json.loads(await body.input_value())
        mended["payload"]["address"] = "1 Main St"
        await page.keyboard.press("Control+A")
        await page.keyboard.type(json.dumps(mended))
        await tab_to(page, page.get_by_role("button", name="Replay with this body"))
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("status")).to_contain_text("was replayed as job")
        await QueueDatabase(database_url).drain(handle, "jobs")
        await expect(heading).to_contain_text("succeeded")


async def test_all_that_fit_are_replayed_with_progress(
    database_url: str, connection: Any, queue_name: str
):
    """The confirmation shows the count, and the page of the operation ends with the result."""
    await add_dead_letters(connection, 3_000)
    await add_dead_letters(connection, 1, error_type="ValueError")
    async with served(database_url) as url, browsing() as open_page:
        page: Page = await open_page()
        await page.goto(f"{url}/queues/jobs/dead-letters?error_type=TimeoutError")
        await page.get_by_role("link", name="Replay all that fit").click()
        heading = page.get_by_role("heading", level=1)
        await expect(heading).to_have_text("Replay 3,000 dead letters?")
        await page.get_by_role("button", name="Replay 3,000").click()
        await expect(heading).to_have_text("3,000 dead letters replayed")
    assert await connection.fetchval("select count(*) from pgmq.q_jobs") == 3_000
    assert await connection.fetchval("select count(*) from pgmq.q_jobs_dlq") == 1


@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no scripts"])
async def test_deleting_and_cancelling_ask_first(
    scripts: bool, database_url: str, connection: Any, queue_name: str
):
    """A page asks, which can be left by its link; it is accessible, and works without scripts."""
    first, *_ = await add_dead_letters(connection, 3)
    job = await connection.fetchval("select pgmq.send('jobs', '{}')")
    async with served(database_url) as url, browsing(java_script_enabled=scripts) as open_page:
        page: Page = await open_page()
        heading = page.get_by_role("heading", level=1)
        await page.goto(f"{url}/queues/jobs/dead-letters/{first}")
        await page.get_by_role("button", name="Delete…").click()
        await expect(heading).to_have_text(f"Delete dead letter {first} of jobs?")
        if scripts:
            found = await Axe().run(page)
            assert found.response["violations"] == [], found.generate_report()
        await page.get_by_role("link", name="Back").click()
        await page.get_by_role("button", name="Delete…").click()
        await page.get_by_role("button", name="Delete", exact=True).click()
        await expect(page.get_by_role("status")).to_have_text(f"Dead letter {first} was deleted.")
        await page.get_by_label(f"Dead letter {first + 1}").check()
        await page.get_by_role("button", name="Delete ticked").click()
        await expect(heading).to_have_text("Delete 1 dead letter of jobs?")
        assert await connection.fetchval("select count(*) from pgmq.q_jobs_dlq") == 2
        await page.get_by_role("button", name="Delete 1 dead letter").click()
        await expect(page.get_by_role("status")).to_have_text("1 dead letter was deleted.")
        await page.goto(f"{url}/queues/jobs/jobs/{job}")
        await page.get_by_role("button", name="Cancel job…").click()
        await expect(heading).to_have_text(f"Cancel job {job} of jobs?")
        await page.get_by_role("button", name="Cancel job").click()
        await expect(page.get_by_role("status")).to_have_text(f"Job {job} was cancelled.")


async def test_ticking_all_and_the_keyboard(database_url: str, connection: Any, queue_name: str):
    """The box in the header ticks the page; the page can be used without a mouse."""
    await add_dead_letters(connection, 3)
    async with served(database_url) as url, browsing() as open_page:
        page: Page = await open_page()
        await page.goto(f"{url}/queues/jobs/dead-letters")
        # The first stop of the keyboard leads past the header.
        await page.keyboard.press("Tab")
        await expect(page.locator(":focus")).to_have_text("Skip to the content")
        await page.get_by_label("Tick all on this page").focus()
        await page.keyboard.press("Space")
        await expect(page.get_by_text("3 ticked")).to_be_visible()
        await page.get_by_role("button", name="Replay ticked").focus()
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("status")).to_have_text("3 dead letters were replayed.")


@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no scripts"])
async def test_lists_are_turned_with_the_keyboard(
    scripts: bool, database_url: str, connection: Any, queue_name: str
):
    """Older, Newer and Newest lead there and back, also without scripts; axe finds nothing."""
    ids = await add_dead_letters(connection, 120)
    async with served(database_url) as url, browsing(java_script_enabled=scripts) as open_page:
        page: Page = await open_page()
        await page.goto(f"{url}/queues/jobs/dead-letters")

        async def turn(name: str, first: int) -> None:
            # Tab stops at each row before: some hundred and fifty.
            await page.get_by_role("link", name=name, exact=True).focus()
            await page.keyboard.press("Enter")
            await expect(page.locator('input[name="id"]').first).to_have_value(str(first))

        await turn("Older", ids[-51])
        await turn("Older", ids[-101])
        await expect(page.get_by_text("Page 3", exact=True)).to_be_visible()
        await expect(page.get_by_role("link", name="Older", exact=True)).to_have_count(0)
        if scripts:
            found = await Axe().run(page)
            assert found.response["violations"] == [], found.generate_report()
        await turn("Newer", ids[-51])
        await turn("Newer", ids[-1])
        await expect(page.get_by_role("link", name="Newer", exact=True)).to_have_count(0)
        await turn("Older", ids[-51])
        await turn("Older", ids[-101])
        await turn("Newest", ids[-1])


async def test_the_overview_follows_the_database(
    database_url: str, connection: Any, queue_name: str
):
    """What happens while the page is open is seen without loading it anew."""
    async with served(database_url) as url, browsing() as open_page:
        page: Page = await open_page()
        await page.goto(url)
        await expect(page.locator("#queue-jobs")).to_contain_text("0")
        await add_dead_letters(connection, 7)
        await expect(page.locator("#queue-jobs .state-bad")).to_have_text("7")


@pytest.mark.parametrize(("scheme", "width"), [("light", 1400), ("dark", 360)])
async def test_pages_are_accessible_small_and_quiet(
    scheme: str, width: int, database_url: str, queue_name: str
):
    """Axe finds nothing, on a phone and on a wide screen; no page needs more than 150 kB."""
    await fail_last_night(database_url)
    await set_queue_config(database_url, "jobs", keyed=True)
    await hold_key(database_url, "jobs", "acme", reason="asked for by the customer")
    await add_schedule(database_url, "jobs", "nightly", "0 2 * * *")
    async with (
        served(database_url) as url,
        browsing(color_scheme=scheme, is_allowed_to_miss=True) as open_page,
    ):
        page: Page = await open_page(viewport={"width": width, "height": 800})
        for path in PAGES:
            await page.goto(url + path)
            found = await Axe().run(page)
            assert found.response["violations"] == [], f"{path}: {found.generate_report()}"
            assert await page.evaluate(
                "document.documentElement.scrollWidth <= window.innerWidth"
            ), f"{path} is wider than {width}"
            assert 1_000 < await bytes_of(page) < PAGE_BYTES, path


async def test_hostile_payloads_do_nothing_in_a_browser(
    database_url: str, connection: Any, queue_name: str
):
    """No script runs, no attribute is broken out of, and the policy has nothing to forbid."""
    hostile = "</textarea></pre><img src=x onerror=alert(1)><script>alert(2)</script>"
    hostile += "\u202e\x1b["
    await add_dead_letters(
        connection,
        1,
        error_type='"><script>alert(3)</script>',
        error_message=hostile,
        body={"payload": hostile, hostile: hostile, "run_id": "' onmouseover=alert(4) x='"},
        headers={hostile: hostile, "hx-get": "/", "data-hx-on": "alert(5)"},
    )
    async with served(database_url) as url, browsing() as open_page:
        page: Page = await open_page()
        for path in PAGES[:5]:
            await page.goto(url + path)
            assert await page.locator("main script, main img, [onmouseover]").count() == 0
        body = json.loads(await page.get_by_label("Body, as JSON").input_value())
        assert body["payload"] == hostile

"""Live pages in a real browser: hiccups, layout, the keyboard, and times in the viewer's zone."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.async_api import Page, Route, expect

from meshhook.administration import set_queue_config
from meshhook.keys import hold_key
from meshhook.schedules import add_schedule
from support.console import add_dead_letters, browsing, bytes_of, served
from support.waiting import eventually

pytestmark = pytest.mark.process

PAGES = (
    "/",
    "/queues/jobs",
    "/dead-letters",
    "/queues/jobs/dead-letters",
    "/queues/jobs/dead-letters/1",
    "/search?queue=jobs",
    "/queues/jobs/keys",
    "/workers",
    "/schedules",
    "/audit",
    "/doctor",
)
LIVE_PAGES = ("/", "/queues/jobs", "/dead-letters")
PAGE_BYTES = 150_000
WATCH = """
window.shifts = []; window.swaps = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) {
    // A number that grows by a digit in its own cell is none that anybody sees.
    if (entry.value < 0.001) continue;
    window.shifts.push(entry.sources.map((each) => each.node && each.node.outerHTML || "").join()
      .slice(0, 200) + " " + entry.value);
  }
}).observe({ type: "layout-shift", buffered: true });
document.addEventListener("htmx:after:swap", () => { window.swaps += 1; });
"""


async def is_swapped(page: Page, times: int = 2) -> None:
    """Wait until the page has been refreshed so often from now on."""
    before = await page.evaluate("window.swaps")

    async def is_enough() -> bool:
        return bool(await page.evaluate("window.swaps") >= before + times)

    await eventually(is_enough)


async def fill(connection: Any, database_url: str) -> None:
    """Leave something to show on each page, in lists that are full."""
    await add_dead_letters(connection, 120, error_message="no answer " * 30)
    await connection.execute(
        "insert into pgmq.q_jobs (vt, message) select now(), '{}' from generate_series(1, 120)"
    )
    await set_queue_config(database_url, "jobs", keyed=True)
    for number in range(60):
        await set_queue_config(database_url, "jobs", max_retry_attempts=1 + number % 2)
    await hold_key(database_url, "jobs", "acme", reason="asked for by the customer")
    await add_schedule(database_url, "jobs", "nightly", "0 2 * * *")


@pytest.mark.parametrize("width", [1400, 360])
async def test_nothing_jumps(
    width: int, database_url: str, connection: Any, queue_name: str
) -> None:
    """No layout shift on load and upon live updates; full lists are small and fit the width."""
    await fill(connection, database_url)
    async with served(database_url) as url, browsing() as open_page:
        page: Page = await open_page(viewport={"width": width, "height": 800})
        await page.add_init_script(WATCH)
        for path in PAGES:
            await page.goto(url + path)
            if path in LIVE_PAGES:
                await is_swapped(page)
                await add_dead_letters(connection, 3)
                await is_swapped(page)
            assert await page.evaluate("window.shifts") == [], path
            assert await page.evaluate(
                "document.documentElement.scrollWidth <= window.innerWidth"
            ), f"{path} is wider than {width}"
            assert 1_000 < await bytes_of(page) < PAGE_BYTES, path


async def test_the_header_spans_the_window(
    database_url: str, connection: Any, queue_name: str
) -> None:
    """No strip beside it is left for a scrollbar that is not there."""
    async with served(database_url) as url, browsing() as open_page:
        page: Page = await open_page(viewport={"width": 1400, "height": 800})
        await page.goto(url + "/workers")
        found = await page.evaluate(
            "[getComputedStyle(document.documentElement).scrollbarGutter, "
            "document.querySelector('.top').getBoundingClientRect().width, "
            "document.documentElement.clientWidth]"
        )
        assert found == ["auto", found[2], found[2]]


async def test_a_page_without_ticks_asks_by_itself(
    database_url: str, connection: Any, queue_name: str
) -> None:
    """Behind a proxy that keeps the stream, a page goes on; when ticks arrive, it is live again."""
    is_kept = True

    async def keep(route: Route) -> None:
        if is_kept:
            await route.fulfill(status=204)
        else:
            await route.continue_()

    async with served(database_url) as url, browsing() as open_page:
        page: Page = await open_page()
        await page.route("**/events", keep)
        await page.goto(url)
        await add_dead_letters(connection, 7)
        await expect(page.locator("#queue-jobs .state-bad")).to_have_text("7")
        await expect(page.locator("[data-live-state]")).to_have_text("Live: asks now and then.")
        is_kept = False
        await expect(page.locator("[data-live-state]")).to_have_text("Live.", timeout=60_000)


@pytest.mark.parametrize(
    ("status", "said"),
    [(503, "cannot read the database"), (401, "not logged in"), (403, "not logged in")],
)
async def test_a_page_keeps_what_it_shows_when_it_cannot_be_refreshed(
    status: int, said: str, database_url: str, connection: Any, queue_name: str
) -> None:
    """While the database is down, or the login has ended, it says so; afterwards it goes on."""
    is_down = True

    async def answer(route: Route) -> None:
        if is_down and route.request.resource_type == "fetch":
            await route.fulfill(status=status, body="<main id=main><h1>Down</h1></main>")
        else:
            await route.continue_()

    async with (
        served(database_url) as url,
        browsing(is_allowed_to_miss=True, allowed=(f" {status} ",)) as open_page,
    ):
        page: Page = await open_page()
        await page.route(f"{url}/", answer)
        await page.goto(url)
        await expect(page.locator("[data-live-state]")).to_contain_text(said)
        await expect(page.get_by_role("heading", level=1)).to_have_text("Overview")
        is_down = False
        await add_dead_letters(connection, 7)
        await expect(page.locator("#queue-jobs .state-bad")).to_have_text("7", timeout=60_000)
        await expect(page.locator("[data-live-state]")).not_to_contain_text(said)


async def test_the_focus_stays_when_the_page_is_refreshed(
    database_url: str, connection: Any, queue_name: str
) -> None:
    """A live update does not send the keyboard back to the top."""
    await add_dead_letters(connection, 3)
    async with served(database_url) as url, browsing() as open_page:
        page: Page = await open_page()
        await page.add_init_script(WATCH)
        await page.goto(url)
        await page.locator("#queue-jobs th a").focus()
        await add_dead_letters(connection, 4)
        await is_swapped(page)
        await expect(page.locator("#queue-jobs .state-bad")).to_have_text("7")
        await expect(page.locator(":focus")).to_have_text("jobs")


async def test_what_was_opened_stays_open_when_the_page_is_refreshed(
    database_url: str, connection: Any, queue_name: str
) -> None:
    """Whoever reads a stack goes on reading while the job waits for its next attempt."""
    await connection.execute("insert into pgmq.q_jobs (vt, message) values (now(), '{}')")
    msg_id = await connection.fetchval(
        "insert into meshhook.job_attempts (queue, msg_id, attempt, outcome, enqueued_at, "
        "finished_at, error_type, error_message, error_stack) "
        "select 'jobs', msg_id, 1, 'retried', enqueued_at, now(), 'ValueError', 'bad', 'line 7' "
        "from pgmq.q_jobs returning msg_id"
    )
    async with served(database_url) as url, browsing() as open_page:
        page: Page = await open_page()
        await page.add_init_script(WATCH)
        await page.goto(f"{url}/queues/jobs/jobs/{msg_id}")
        await page.get_by_text("Stack", exact=True).click()
        await is_swapped(page)
        await expect(page.locator("details pre")).to_be_visible()


async def test_times_are_in_the_zone_of_the_viewer(
    database_url: str, connection: Any, queue_name: str
) -> None:
    """A relative time has the exact one on hover, in the browser's zone, also after an update."""
    await add_dead_letters(connection, 1)
    await connection.execute(
        "update pgmq.q_jobs_dlq set enqueued_at = '2026-01-31 20:15:00+00'::timestamptz"
    )
    async with served(database_url) as url, browsing() as open_page:
        page: Page = await open_page(timezone_id="Asia/Tokyo", locale="en-GB")
        await page.add_init_script(WATCH)
        await page.goto(url + "/dead-letters")
        time = page.locator("main time").first
        for _ in range(2):
            await expect(time).to_have_attribute("title", re.compile(r"1 Feb 2026.*05:15:00.*9"))
            await expect(time).to_contain_text(re.compile(r"^\d+ d.* ago$"))
            await is_swapped(page)

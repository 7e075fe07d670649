"""Lists that go on: to older pages, back to newer ones, and to the first."""

from __future__ import annotations

import html
import re
from typing import Any

import pytest
from starlette.datastructures import QueryParams

from meshhook.administration import set_queue_config
from meshhook.console.list_places import MAX_PASSED_CHARACTERS, place_by_id, place_by_key
from meshhook.errors import InvalidSettingError
from support.console import Visitor, add_dead_letters, visiting

ROWS = {
    "dead letters": r'name="id" value="(\d+)"',
    "jobs": r'href="/queues/jobs/jobs/(\d+)"',
    "changes": r"<b>(some\.\d+)</b>",
    "keys": r'name="key" value="([^"]*)"><b',
}
FIRST = {
    "dead letters": "/queues/jobs/dead-letters?error_type=TimeoutError",
    "jobs": "/search?queue=jobs&state=ready",
    "changes": "/audit?actor=ada",
    "keys": "/queues/jobs/keys?by_name=1",
}


async def fill(pool: Any, connection: Any, name: str) -> None:
    """Put more into a list than three pages hold."""
    if name == "dead letters":
        await add_dead_letters(connection, 170)
    elif name == "jobs":
        await connection.execute(
            "select pgmq.send_batch('jobs', array_fill('{}'::jsonb, array[170]))"
        )
    elif name == "changes":
        await connection.execute(
            "insert into meshhook.audit_log (at, database_role, actor, source, action) "
            "select now(), 'r', 'ada', 'console', 'some.' || n from generate_series(1, 170) n"
        )
    else:
        await set_queue_config(pool, "jobs", keyed=True)
        await connection.execute(
            "insert into pgmq.q_jobs (vt, message, headers) select now(), '{}'::jsonb, "
            "jsonb_build_object('x-pgmq-group', k) from (select '%&=<' || n as k "
            "from generate_series(1, 650) n union all values (' a'), ('\u4e2d\u6587')) s"
        )


async def linked(visitor: Visitor, page: str, relation: str) -> str | None:
    """Return the page that a link of a page leads to."""
    found = re.search(rf'rel="{relation}" href="([^"]+)"', page)
    if found is None:
        return None
    answer = await visitor.get(html.unescape(found[1]))
    assert answer.status_code == 200
    return answer.text


@pytest.mark.parametrize("name", [*FIRST])
async def test_pages_are_turned_there_and_back(
    name: str, pool: Any, connection: Any, queue_name: str
):
    """Each page back is the one that was left, with its filter; the first is one step away."""
    await fill(pool, connection, name)
    pages: list[list[str]] = []
    async with visiting(pool) as visitor:
        page: str | None = (await visitor.get(FIRST[name])).text
        assert page is not None
        assert 'rel="prev"' not in page
        assert ">Page 1<" not in page
        while page is not None:
            last = page
            pages.append(re.findall(ROWS[name], page))
            page = await linked(visitor, page, "next")
        assert len(pages) == 4
        assert len({row for rows in pages for row in rows}) == sum(map(len, pages))
        page = last
        for number in (3, 2, 1):
            assert f">Page {number + 1}<" in page
            first = re.search(r'class="button" href="([^"]+)">(Newest|First)<', page)
            assert first is not None
            answer = await visitor.get(html.unescape(first[1]))
            assert re.findall(ROWS[name], answer.text) == pages[0]
            page = await linked(visitor, page, "prev")
            assert page is not None
            assert re.findall(ROWS[name], page) == pages[number - 1]
        assert 'rel="prev"' not in page


async def test_a_page_that_became_empty_leads_back(pool: Any, connection: Any, queue_name: str):
    """Somebody replayed what was on it: the pages before are still a link away."""
    await add_dead_letters(connection, 60)
    async with visiting(pool) as visitor:
        page = (await visitor.get("/queues/jobs/dead-letters")).text
        await connection.execute("delete from pgmq.q_jobs_dlq where msg_id <= 10")
        empty = await linked(visitor, page, "next")
        assert empty is not None
        assert re.findall(ROWS["dead letters"], empty) == []
        back = await linked(visitor, empty, "prev")
        assert back is not None
        assert len(re.findall(ROWS["dead letters"], back)) == 50


def test_an_address_stays_short():
    """Of very many pages the last ones are known, and beyond them only the first."""
    place = place_by_id(QueryParams("before=999999&page=2"))
    for page in range(3, 300):
        begin = 1_000_000 - page
        url = place.links("/list", {"error_type": "A&B"}, begin).next_url
        assert url is not None
        assert len(url) < MAX_PASSED_CHARACTERS + 100
        place = place_by_id(QueryParams(url.partition("?")[2]))
        assert (place.id, place.number) == (begin, page)
    turned = 0
    while (url := place.links("/list", {}, None).previous_url) is not None:
        place = place_by_id(QueryParams(url.partition("?")[2]))
        turned += 1
    assert 100 < turned < 200
    links = place.links("/list", {"a": "b"}, None)
    assert links.first_url == "/list?a=b"
    assert links.number == 299 - turned


def test_an_address_of_old_has_no_page_before():
    """A link that says only where the page begins leads to the first page and to the next."""
    links = place_by_id(QueryParams("before=7")).links("/list", {}, 3)
    assert (links.first_url, links.previous_url) == ("/list", None)
    assert links.next_url == "/list?before=3&passed=7"
    assert links.number is None


@pytest.mark.parametrize(
    "query", ["before=x", "before=1&passed=x", "before=1&page=-1", "before=1&passed=" + "9" * 30]
)
def test_ids_are_checked(query: str):
    """Whatever an address says, it is an id or refused by the name of its field."""
    with pytest.raises(InvalidSettingError, match=r"(before|passed|page) is"):
        place_by_id(QueryParams(query))


@pytest.mark.parametrize("field", ["after", "passed"])
@pytest.mark.parametrize("value", ["\0", "x" * 2_000])
def test_keys_are_checked(field: str, value: str):
    """A text that no key can be is refused by the name of its field."""
    with pytest.raises(InvalidSettingError, match=field):
        place_by_key(QueryParams({"after": "a", field: value}))

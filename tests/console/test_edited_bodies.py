"""Bodies that are edited in the console: nothing else changes, and what was written is kept."""

from __future__ import annotations

import html
import re
from typing import Any

import pytest

from meshhook import DLQService, QueueService
from meshhook.console.exact_json import parsed, written
from meshhook.console.redactions import Redactions
from meshhook.errors import InvalidJobError
from support.console import Visitor, add_dead_letters, visiting

HERE = "/queues/jobs/dead-letters"
EXACT = (
    '{"big": 123456789012345678901234567890, "many": 0.1234567890123456789012345, "over": 1'
    + "0" * 400
    + ', "money": 1.10, "secret": 9.000000000000000000001}'
)
"""As PostgreSQL writes it; a float has none of these numbers."""


async def put(connection: Any, body: str, headers: str = "{}") -> int:
    """Put a dead letter with a body as text into the queue, and return its id."""
    msg_id: int = await connection.fetchval(
        "insert into pgmq.q_jobs_dlq (vt, message, headers) "
        "values (now(), $1::text::jsonb, $2::text::jsonb) returning msg_id",
        body,
        headers,
    )
    return msg_id


async def form_of(visitor: Visitor, dead: int) -> str:
    """Return the body in the form of a dead letter's page."""
    page = (await visitor.get(f"{HERE}/{dead}")).text
    return html.unescape(re.findall(r"<textarea[^>]*>\n(.*?)</textarea>", page, re.DOTALL)[0])


@pytest.mark.parametrize("redact", ["", "body.secret"])
async def test_numbers_stay_exact(redact: str, pool: Any, connection: Any, queue_name: str):
    """Those that nobody has touched have all their digits in the job, hidden ones included."""
    dead = await put(connection, EXACT)
    async with visiting(pool, redact=redact) as visitor:
        text = await form_of(visitor, dead)
        for number in ("123456789012345678901234567890", "0.1234567890123456789012345", "1.10"):
            assert f": {number}," in text
        edited = text.replace("0.1234567890123456789012345", "0.1234567890123456789012346")
        answer = await visitor.post(f"{HERE}/{dead}/replay", {"body": edited})
        assert answer.status_code == 303, html.unescape(answer.text)
    stored = await connection.fetchval("select message::text from pgmq.q_jobs")
    assert stored == EXACT.replace("012345,", "012346,")


async def test_a_body_that_only_looks_larger_is_taken(pool: Any, connection: Any, queue_name: str):
    """The blanks that make it readable do not count, only what is stored."""
    dead = await put(connection, '{"n": [' + ",".join("0" * 400) + "]}")
    await connection.execute("update meshhook.queue_config set max_payload_bytes = 1024")
    async with visiting(pool) as visitor:
        edited = (await form_of(visitor, dead)).replace("0", "1")
        assert len(edited) > 1024
        answer = await visitor.post(f"{HERE}/{dead}/replay", {"body": edited})
    assert answer.status_code == 303, html.unescape(answer.text)


@pytest.mark.parametrize("levels", [200, 400, 800, 3_000])
async def test_deep_bodies_and_headers_are_no_fault(
    levels: int, pool: Any, connection: Any, queue_name: str
):
    """A page is shown of whatever another client has put there, and what is sent is refused."""
    deep = "[" * levels + "]" * levels
    odd = await put(connection, f'{{"a": {deep}}}', f'{{"h": {deep}}}')
    (dead,) = await add_dead_letters(connection, 1)
    async with visiting(pool, redact="body.a.*.b,headers.h.*.c") as visitor:
        assert (await visitor.get(f"{HERE}/{odd}")).status_code == 200
        answer = await visitor.post(f"{HERE}/{dead}/replay", {"body": f'{{"a": {deep}}}'})
    assert answer.status_code in {303, 400}


async def test_what_was_written_survives_whatever_refuses_it(
    pool: Any, connection: Any, queue_name: str
):
    """A unique key that another job has, and a form of a console that was started again."""
    async with QueueService[Any](pool, "jobs") as service:
        await service.enqueue({"n": 1}, unique_key="k")
        job = await service.dequeue()
        assert job is not None
        dead = await DLQService(pool, "jobs").move_to_dead_letter(job, "broken")
        await service.enqueue({"n": 2}, unique_key="k")
    by_hand = {"body": '{"written": "by hand"}'}
    async with visiting(pool) as visitor:
        old = await visitor.token()
        answer = await visitor.post(f"{HERE}/{dead}/replay", by_hand)
        assert "unique key" in answer.text
        assert by_hand["body"] in html.unescape(answer.text)
    async with visiting(pool) as visitor:
        answer = await visitor.post(f"{HERE}/{dead}/replay", by_hand, token=old)
        assert answer.status_code == 403
        assert by_hand["body"] in html.unescape(answer.text)


MASKED = '{"n": 1, "t": "[redacted]"}, {"n": 2, "t": "[redacted]"}'


@pytest.mark.parametrize(
    ("edited", "kept"),
    [
        (MASKED, [("1", "A"), ("2", "B")]),
        (MASKED.replace('"n": 2', '"n": 3'), [("1", "A"), ("3", "B")]),
        ('{"n": 1, "t": "[redacted]"}', [("1", "A")]),
        (MASKED + ', {"n": 2, "t": "C"}', [("1", "A"), ("2", "B"), ("2", "C")]),
        ('{"n": 2, "t": "C"}', [("2", "C")]),
        ('{"n": 2, "t": "[redacted]"}', None),
        ('{"n": 3, "t": "[redacted]"}', None),
        ('{"n": 2, "t": "[redacted]"}, {"n": 1, "t": "[redacted]"}', None),
        (MASKED + ', {"n": 2, "t": "[redacted]"}', None),
        ('{"n": 0}, ' + MASKED, None),
    ],
)
def test_a_hidden_place_of_an_item_is_never_that_of_another(
    edited: str, kept: list[tuple[str, str]] | None
):
    """Where items of a list were added, removed or moved, it is refused unless it is certain."""
    redactions = Redactions(("body.a.*.t",))
    original = parsed('{"a": [{"n": 1, "t": "A"}, {"n": 2, "t": "B"}]}')
    body = parsed(f'{{"a": [{edited}]}}')
    if kept is None:
        with pytest.raises(InvalidJobError, match="leave them where they are"):
            redactions.restored(body, original)
    else:
        found = redactions.restored(body, original)["a"]
        assert [(each["n"].text, each["t"]) for each in found] == kept


@pytest.mark.parametrize(
    "text", ['{"a": 1.10, "b": [true, null, -0, "x\\"é"], "c": {}, "d": []}', "1e999", '"x"']
)
def test_documents_are_written_as_they_were_parsed(text: str):
    """Short or for people, with each number as it was."""
    value = parsed(text)
    assert parsed(written(value)) == parsed(written(value, is_indented=True)) == value
    assert written(parsed('{"a":[1,2.0]}'), is_indented=True) == (
        '{\n  "a": [\n    1,\n    2.0\n  ]\n}'
    )

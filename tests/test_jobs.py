"""Jobs as JSON: what is refused before it is sent, and what comes back from PostgreSQL."""

from __future__ import annotations

import json
import math
import re
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from types import MappingProxyType
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import AwareDatetime, BaseModel, ValidationError

from meshhook.errors import InvalidJobError, InvalidPayloadError, JobTooLargeError
from meshhook.jobs import Job, WorkflowJob
from meshhook.store.bodies import encode_body
from meshhook.store.body_decoder import BodyDecoder
from meshhook.store.message_headers import MAX_HEADERS_BYTES, decode_headers, encode_headers

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

MEBIBYTE = 1_048_576
NOW = datetime(2026, 3, 29, 1, 30, tzinfo=UTC)
RUN = UUID("0190a6f0-0000-7000-8000-000000000001")


class Colour(Enum):
    """An enumeration."""

    RED = "red"


class Order(BaseModel):
    """A payload model."""

    number: int
    price: float = 1.5
    placed_at: AwareDatetime = NOW
    extra: Any = None


def workflow_job(payload: Any) -> WorkflowJob:
    """Return a job with a payload."""
    return WorkflowJob(run_id="r", workflow_id="w", project_id="p", payload=payload)


def job_of(body: str, **changes: Any) -> Job[Any]:
    """Return a claimed job with a body."""
    arguments: dict[str, Any] = {
        "queue": "jobs",
        "msg_id": 1,
        "attempt": 1,
        "max_attempts": 5,
        "enqueued_timestamp": NOW.timestamp(),
        "ready_timestamp": NOW.timestamp(),
        "claimed_timestamp": NOW.timestamp(),
        "headers": {},
        "body": body,
    }
    return Job(**(arguments | changes))


def decoded(body: str, model: Any = None) -> Job[Any]:
    """Return a job whose body is decoded."""
    job = job_of(body)
    BodyDecoder[Any](model).decode(job)
    return job


def nested(depth: int) -> list[Any]:
    """Return lists in lists."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.fixture
async def stored(connection: Connection) -> AsyncIterator[Any]:
    """Returns what PostgreSQL makes of a JSON text: the text of its jsonb."""

    async def through(text: str) -> str:
        row: str = await connection.fetchval("select $1::text::jsonb::text", text)
        return row

    return through  # type: ignore[return-value]


# --- What is refused ---------------------------------------------------------------------------

FORMS = {
    "plain": lambda payload: {"payload": payload},
    "workflow job": workflow_job,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("payload", "place"),
    [
        (math.nan, "job.payload is nan, which is not JSON"),
        (math.inf, "job.payload is inf, which is not JSON"),
        ({"a": [1, {"b": -math.inf}]}, "job.payload.a[1].b is -inf, which is not JSON"),
        ((1, math.nan), "job.payload[1] is nan, which is not JSON"),
        ({"a": None, "b": "NaN", "c": [math.nan]}, "job.payload.c[0] is nan, which is not JSON"),
        ({math.nan: 1}, "job.payload: the key nan is nan, which is not JSON"),
        (Order(number=1, price=math.nan), "job.payload.price is nan, which is not JSON"),
        (Order(number=1, extra=math.nan), "job.payload.extra is nan, which is not JSON"),
        ({"o": Order(number=1, extra=[math.nan])}, "job.payload.o.extra[0] is nan"),
    ],
    ids=ascii,
)
def test_a_number_that_is_not_json_is_refused(form: str, payload: Any, place: str) -> None:
    """NaN and infinities never become null silently; the error names the place."""
    with pytest.raises(InvalidJobError, match=re.escape(place)):
        encode_body(FORMS[form](payload), MEBIBYTE)


@pytest.mark.parametrize("payload", [["NaN", None], {"Infinity": None}])
def test_a_text_that_reads_like_such_a_number_is_a_text(payload: Any) -> None:
    """Only numbers are refused."""
    assert json.loads(encode_body({"payload": payload}, MEBIBYTE)) == {"payload": payload}


def test_a_model_as_the_job_may_not_hold_nan() -> None:
    """NaN is found in typed and in untyped fields of the model itself."""
    for order in (Order(number=1, price=math.inf), Order(number=1, extra={"x": math.inf})):
        with pytest.raises(InvalidJobError, match=r"job\.(price|extra\.x) is inf"):
            encode_body(order, MEBIBYTE)


def test_null_is_no_number() -> None:
    """None in a model stays null, whatever stands beside it."""
    body = json.loads(encode_body(Order(number=1, extra=[None, "null"]), MEBIBYTE))
    assert body["extra"] == [None, "null"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("payload", "place"),
    [
        ("a\x00b", "job.payload: "),
        ("\\\x00", "job.payload: "),
        ("\\\\\x00", "job.payload: "),
        ("\\u0000\x00", "job.payload: "),
        ({"a": ["", {"b": "\x00"}]}, "job.payload.a[1].b: "),
        ({"\x00": 1}, "job.payload: the key '\\x00': "),
        (Order(number=1, extra="\x00"), "job.payload.extra: "),
    ],
    ids=ascii,
)
def test_the_character_that_postgresql_cannot_store_is_refused(
    form: str, payload: Any, place: str
) -> None:
    """U+0000 is a clear error at enqueue, however many backslashes precede it."""
    with pytest.raises(InvalidJobError, match=re.escape(place) + r".*U\+0000"):
        encode_body(FORMS[form](payload), MEBIBYTE)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "payload", ["\\u0000", "\\\\u0000", "\\\\\\u0000", {"\\u0000": "\\u0000"}, "\\ud800"]
)
async def test_a_backslash_and_digits_are_text(stored: Any, form: str, payload: Any) -> None:
    """The six characters of an escape, written as text, are stored as they are."""
    body = await stored(encode_body(FORMS[form](payload), MEBIBYTE))
    assert decoded(body).payload == payload


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("payload", ["\ud800", ["\udfff"], {"\ud800": 1}], ids=ascii)
def test_half_of_a_surrogate_pair_is_refused(form: str, payload: Any) -> None:
    """Half a pair is no character: PostgreSQL could not store it."""
    with pytest.raises(InvalidJobError, match=r"job\.payload.*half of a surrogate pair"):
        encode_body(FORMS[form](payload), MEBIBYTE)


def test_halves_that_meet_are_no_pair() -> None:
    """Two halves in one Python text are two faults, not one character."""
    with pytest.raises(InvalidJobError, match="half of a surrogate pair"):
        encode_body("\ud83d\ude00", MEBIBYTE)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("payload", "fault"),
    [
        (object(), "job.payload is of type object"),
        ({"a": {1, 2}}, "job.payload.a is of type set"),
        (b"\xff", "job.payload is of type bytes"),
        ([1j], "job.payload[0] is of type complex"),
        ({(1, 2): 3}, "job.payload has the key (1, 2); the keys of a JSON object are strings"),
        ({RUN: 3}, "job.payload has the key UUID("),
        (Order(number=1, extra=object()), "job.payload cannot be written as JSON"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_json_does_not_have_is_refused(form: str, payload: Any, fault: str) -> None:
    """The error names the place and the type, and is the library's own."""
    with pytest.raises(InvalidJobError, match=re.escape(fault)):
        encode_body(FORMS[form](payload), MEBIBYTE)


@pytest.mark.parametrize("form", FORMS)
def test_what_is_too_much_for_json_is_refused(form: str) -> None:
    """Numbers of thousands of digits and very deep nesting are errors of the library, too."""
    with pytest.raises(InvalidJobError, match="4300 digits"):
        encode_body(FORMS[form](10**5000), MEBIBYTE)
    for payload in (nested(100_000), Order(number=1, extra=nested(100_000))):
        with pytest.raises(InvalidJobError, match=r"nested too deeply|depth exceeded"):
            encode_body(FORMS[form](payload), MEBIBYTE)


@pytest.mark.parametrize("form", FORMS)
def test_a_job_that_refers_to_itself_is_refused(form: str) -> None:
    """Lists, objects and models that hold themselves are found out."""
    endless_list: list[Any] = []
    endless_list.append(endless_list)
    endless_dict: dict[str, Any] = {}
    endless_dict["self"] = MappingProxyType(endless_dict)
    for payload in (endless_list, endless_dict, Order(number=1, extra=endless_list)):
        with pytest.raises(InvalidJobError):
            encode_body(FORMS[form](payload), MEBIBYTE)


def test_the_size_limit_is_in_bytes() -> None:
    """A text may be as long as the limit, counted in bytes of UTF-8, and not a byte longer."""
    for character in ("x", "é", "作", "\N{GRINNING FACE}"):
        text = character * 300
        size_bytes = len(text.encode()) + 2
        assert len(encode_body(text, size_bytes).encode()) == size_bytes
        with pytest.raises(JobTooLargeError, match="max_payload_bytes") as caught:
            encode_body(text, size_bytes - 1)
        assert (caught.value.size_bytes, caught.value.limit_bytes) == (size_bytes, size_bytes - 1)


def test_identifiers_are_short_text_or_uuids() -> None:
    """An identifier of another kind is refused when the job is made."""
    assert WorkflowJob(run_id=RUN, workflow_id="w", project_id="p").run_id == str(RUN)  # type: ignore[arg-type]
    for wrong in ("", "x" * 201, None, 7, [1]):
        with pytest.raises(ValidationError, match="run_id"):
            WorkflowJob(run_id=wrong, workflow_id="w", project_id="p")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("headers", "fault"),
    [
        ({"meshhook-settled": 1}, "names that start with 'meshhook-' are the queue's own"),
        ({"x": math.nan}, "headers.x is nan"),
        ({"x": "\x00"}, "headers.x: PostgreSQL cannot store"),
        ({"x": object()}, "headers.x is of type object"),
        ({"x": "y" * MAX_HEADERS_BYTES}, "headers are 65544 bytes of JSON, at most 65536"),
        ([("x", 1)], "headers are a mapping"),
        ("", "headers are a mapping of names to JSON values, got ''"),
        (0, "headers are a mapping of names to JSON values, got 0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_headers_are_checked_like_jobs(headers: Any, fault: str) -> None:
    """The error says that it is the headers, and where in them."""
    with pytest.raises(InvalidJobError, match=re.escape(fault)):
        encode_headers(headers)


def test_no_headers_are_none() -> None:
    """Without headers the column stays null."""
    assert encode_headers(None) is encode_headers({}) is None
    assert encode_headers(MappingProxyType({"traceparent": "00"})) == '{"traceparent":"00"}'


# --- What comes back ---------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "number",
    [
        10**22,
        10**22 + 1,
        -(10**40),
        2**63,
        2**53 + 1,
        0.1,
        1e22,
        1e-300,
        5e-324,
        1.7976931348623157e308,
    ],
)
async def test_numbers_survive_the_database(stored: Any, form: str, number: float) -> None:
    """Numbers from 10^22 on, very small and very fine ones come back with their value."""
    payload = decoded(await stored(encode_body(FORMS[form](number), MEBIBYTE))).payload
    assert type(number)(payload) == number


async def test_minus_zero_becomes_zero(stored: Any) -> None:
    """PostgreSQL's numeric has one zero; the value is equal all the same."""
    payload = decoded(await stored(encode_body({"payload": -0.0}, MEBIBYTE))).payload
    assert payload == -0.0
    assert math.copysign(1, payload) == 1


async def test_a_number_beyond_numeric_is_refused_by_the_database(stored: Any) -> None:
    """What another client wrote with an exponent of a million never gets into a queue."""
    with pytest.raises(asyncpg.PostgresError):
        await stored('{"payload": 1e1000000}')


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)


def same(sent: Any, received: Any) -> bool:
    """Say whether a value came back: floats as the number that they stand for."""
    if isinstance(sent, float):
        return not isinstance(received, bool) and float(received) == sent
    if isinstance(sent, list):
        return len(sent) == len(received) and all(map(same, sent, received))
    if isinstance(sent, dict):
        return sent.keys() == received.keys() and all(same(sent[k], received[k]) for k in sent)
    return type(sent) is type(received) and sent == received


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(payload=JSON)
async def test_any_json_comes_back_or_is_refused(stored: Any, payload: Any) -> None:
    """A payload is either stored and read back equal, or refused before it is stored."""
    try:
        body = encode_body(workflow_job(payload), MEBIBYTE)
    except InvalidJobError:
        assert re.search("\x00|[\ud800-\udfff]", json_text(payload))
        return
    job = decoded(await stored(body))
    assert same(payload, job.payload), job.payload
    assert (job.run_id, job.workflow_id, job.project_id) == ("r", "w", "p")


def json_text(value: Any) -> str:
    """Return all the texts in a value."""
    if isinstance(value, dict):
        return "".join(value) + "".join(map(json_text, value.values()))
    if isinstance(value, list):
        return "".join(map(json_text, value))
    return value if isinstance(value, str) else ""


@pytest.mark.parametrize("form", FORMS)
def test_models_and_scalars_are_written_as_json(form: str) -> None:
    """UUIDs, times, decimals, enumerations, models and mappings have their usual text."""
    payload = {
        "uuid": RUN,
        "at": NOW,
        "day": date(2026, 3, 29),
        "delay": timedelta(minutes=1.5),
        "price": Decimal("1.10"),
        "colour": Colour.RED,
        "order": Order(number=7),
        "mapping": MappingProxyType({"a": 1}),
        "tuple": (1, 2),
    }
    body = json.loads(encode_body(FORMS[form](payload), MEBIBYTE))
    assert body["payload"] == {
        "uuid": str(RUN),
        "at": "2026-03-29T01:30:00Z",
        "day": "2026-03-29",
        "delay": "PT1M30S",
        "price": "1.10",
        "colour": "red",
        "order": {"number": 7, "price": 1.5, "placed_at": "2026-03-29T01:30:00Z", "extra": None},
        "mapping": {"a": 1},
        "tuple": [1, 2],
    }


def test_keys_that_are_no_text_become_text() -> None:
    """JSON has no other keys; numbers, truth values and null are written as json.dumps does."""
    body = json.loads(encode_body({7: "a", 1.5: "b", True: "c", None: "d"}, MEBIBYTE))
    assert body == {"7": "a", "1.5": "b", "true": "c", "null": "d"}


def test_text_is_stored_as_it_is() -> None:
    """Characters outside ASCII are not escaped, so that the limit counts what is stored."""
    assert encode_body({"payload": "é作"}, MEBIBYTE) == '{"payload":"é作"}'


@pytest.mark.parametrize("depth", [100, 300, 500])
async def test_deep_nesting_comes_back(stored: Any, depth: int) -> None:
    """What could be enqueued can be read, also beyond the depth that pydantic reads."""
    body = await stored(encode_body(workflow_job(nested(depth)), MEBIBYTE))
    job = decoded(body)
    assert job.payload == nested(depth)
    assert job.run_id == "r"


# --- Decoding ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "payload"),
    [
        ("7", 7),
        ('"text"', "text"),
        ("null", None),
        ("[1]", [1]),
        ("{}", {}),
        ('{"order": 1}', {"order": 1}),
        ('{"run_id": "r", "n": 1}', {"run_id": "r", "n": 1}),
        ('{"payload": null}', None),
        ('{"payload": {"payload": 1}}', {"payload": 1}),
    ],
)
def test_a_body_without_payload_is_its_own(body: str, payload: Any) -> None:
    """What another PGMQ client sends is read as it is."""
    assert decoded(body).payload == payload


@pytest.mark.parametrize(
    ("run_id", "expected"),
    [
        ('"r"', "r"),
        ("7", "7"),
        ("null", None),
        ("true", None),
        ("[1]", None),
        ("{}", None),
        ('"' + "x" * 300 + '"', "x" * 200),
    ],
    ids=lambda value: str(value)[:20],
)
@pytest.mark.parametrize("payload", ['"payload": 1', '"other": 1'])
def test_strange_identifiers_do_not_cost_the_job(
    run_id: str, expected: str | None, payload: str
) -> None:
    """An identifier that is no short text is cut or left out; the payload is read."""
    job = decoded(f'{{"run_id": {run_id}, {payload}}}')
    assert job.run_id == expected


def test_a_model_reads_the_payload() -> None:
    """The payload is an instance of the model, with its types."""
    job = decoded('{"run_id": "r", "payload": {"number": "7"}}', Order)
    assert job.payload == Order(number=7)


@pytest.mark.parametrize(
    "body", ['{"number": 7}', '{"payload": {"number": 7}}', '{"run_id": [], "number": 7}']
)
def test_a_model_reads_a_bare_body_too(body: str) -> None:
    """A body without the envelope is the payload, for a model as for plain JSON."""
    assert decoded(body, Order).payload.number == 7


def test_a_payload_that_the_model_rejects() -> None:
    """The error lists the faults but not the values, and the identifiers are there."""
    job = job_of('{"run_id": "r", "payload": {"number": "secret", "price": "secret"}}')
    with pytest.raises(InvalidPayloadError) as caught:
        BodyDecoder[Any](Order).decode(job)
    assert "number: " in str(caught.value)
    assert "price: " in str(caught.value)
    assert "secret" not in str(caught.value)
    assert job.run_id == "r"


def test_many_faults_are_counted() -> None:
    """Five faults are shown; of the others only the number is."""
    with pytest.raises(InvalidPayloadError, match=r"; and 4 more$"):
        decoded(json.dumps({"payload": ["x"] * 9}), list[int])


@pytest.mark.parametrize("model", [None, Order])
def test_what_cannot_be_read_is_an_invalid_payload(model: Any) -> None:
    """A body that some other client made too large for Python is an error of that job alone."""
    for body in ('{"payload": ' + "9" * 5000 + "}", "[" * 100_000 + "]" * 100_000):
        with pytest.raises(InvalidPayloadError, match="cannot be read as JSON"):
            decoded(body, model)


def test_any_type_can_be_the_model() -> None:
    """Whatever a TypeAdapter takes describes a payload."""
    assert decoded('{"payload": ["1", 2]}', list[int]).payload == [1, 2]
    assert decoded('{"payload": "2026-03-29T01:30:00Z"}', datetime).payload == NOW


@pytest.mark.parametrize(
    ("text", "headers"),
    [
        (None, {}),
        ("null", {}),
        ('{"a": 1}', {"a": 1}),
        ("[1]", {"meshhook-foreign-headers": [1]}),
        ('"x"', {"meshhook-foreign-headers": "x"}),
        ("9" * 5000, {}),
    ],
    ids=lambda value: str(value)[:20],
)
def test_headers_are_always_a_dictionary(text: str | None, headers: Mapping[str, Any]) -> None:
    """Whatever another client put there breaks nothing."""
    assert decode_headers(text) == headers


def test_a_job_shows_nothing_of_its_payload() -> None:
    """Logs of a job name it, and hold no secrets."""
    assert repr(job_of('{"password": "secret"}')) == "<Job jobs/1 attempt 1 of 5>"


@pytest.mark.parametrize("settled", [True, "x", None, [], -5, 1e300])
def test_nonsense_in_the_settled_header_breaks_nothing(settled: Any) -> None:
    """The number of lost attempts is never negative."""
    job = job_of("{}", attempt=3, headers={"meshhook-settled": settled})
    assert 0 <= job.lost_attempts <= 2


def test_the_last_attempt() -> None:
    """A failure is final from the last attempt on."""
    assert [job_of("", attempt=n).is_last_attempt for n in (4, 5, 6)] == [False, True, True]


async def test_complete_outside_a_worker_says_what_to_use() -> None:
    """A job of `dequeue` is settled by `acknowledge`."""
    with pytest.raises(InvalidJobError, match=r"use acknowledge\(\) elsewhere"):
        await job_of("{}").complete(connection=None)


# --- Reading identifiers without the payload ---------------------------------------------------


def jsonb_text(value: Any) -> str:
    """Return JSON as PostgreSQL shows a jsonb: keys by length and then by bytes."""
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: (len(key.encode()), key.encode()))
        return "{" + ", ".join(f"{jsonb_text(key)}: {jsonb_text(value[key])}" for key in keys) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(jsonb_text, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=12),
    st.sampled_from(
        ['", "project_id": "a", "workflow_id": "b"}', '{"run_id": "x", "payload": ', "\\", '"']
    ),
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | TEXTS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["run_id", "payload", "project_id", "workflow_id"]) | TEXTS,
            inner,
            max_size=5,
        ),
    ),
    max_leaves=12,
)
BODIES = st.dictionaries(
    st.sampled_from(["run_id", "payload", "project_id", "workflow_id", "status", "zzzzzzzzzzzz"]),
    VALUES,
    max_size=6,
)


@given(
    body=st.one_of(
        BODIES,
        st.builds(
            lambda r, w, p, payload: {
                "run_id": r,
                "workflow_id": w,
                "project_id": p,
                "payload": payload,
            },
            TEXTS,
            TEXTS,
            TEXTS,
            VALUES,
        ),
    )
)
def test_identifiers_are_what_a_full_read_finds(body: dict[str, Any]) -> None:
    """Reading the ends of a body, and its payload later, finds the same as reading it all."""
    job = decoded(jsonb_text(body))
    full = job_of(jsonb_text(body))
    BodyDecoder[Any]()._decode_slowly(full)
    assert job.payload == full.payload
    assert (job.run_id, job.workflow_id, job.project_id) == (
        full.run_id,
        full.workflow_id,
        full.project_id,
    )


IDS = st.sampled_from(["", "a", "b", "x" * 2_000, '", "project_id": "a", "workflow_id": "b"}'])


@given(
    bodies=st.lists(
        st.builds(
            lambda r, w, p, payload: {
                "run_id": r,
                "workflow_id": w,
                "project_id": p,
                "payload": payload,
            },
            IDS,
            IDS,
            IDS,
            st.none() | st.sampled_from(["", '", "project_id": "a", "workflow_id": "b"}']),
        )
        | BODIES,
        max_size=5,
    )
)
def test_identifiers_do_not_depend_on_earlier_jobs(bodies: list[dict[str, Any]]) -> None:
    """What was read of one job is kept for the next of the same workflow, and for no other."""
    decoder = BodyDecoder[Any]()
    for body in bodies:
        job, full = job_of(jsonb_text(body)), job_of(jsonb_text(body))
        decoder.decode(job)
        BodyDecoder[Any]()._decode_slowly(full)
        assert (job.run_id, job.workflow_id, job.project_id, job.payload) == (
            full.run_id,
            full.workflow_id,
            full.project_id,
            full.payload,
        )


def test_a_payload_is_read_once_and_only_when_asked_for() -> None:
    """The handler that does not look pays nothing; looking twice gives the same object."""
    job = decoded(
        jsonb_text({"run_id": "r", "payload": [1], "project_id": "p", "workflow_id": "w"})
    )
    assert job._read_payload is not None
    assert job.payload is job.payload
    assert job._read_payload is None


@given(moment=st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)))  # noqa: DTZ001 - made aware
def test_times_keep_their_microseconds(moment: datetime) -> None:
    """A time that passes through a float of seconds is the same time."""
    aware = moment.replace(tzinfo=UTC)
    assert job_of("{}", enqueued_timestamp=aware.timestamp()).enqueued_at == aware

"""Bodies and models: what is an envelope, and that what was enqueued can be read again."""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    Json,
    RootModel,
    SecretBytes,
    SecretStr,
    computed_field,
    field_serializer,
)

from meshhook import QueueService, WorkflowJob
from meshhook.errors import InvalidJobError
from meshhook.jobs import Job
from meshhook.store.bodies import encode_body
from meshhook.store.body_decoder import BodyDecoder
from support.claimed_jobs import claimed_job

MEBIBYTE = 1_048_576
IDS = {"run_id": "r", "workflow_id": "w", "project_id": "p"}


def decoded(body: str, model: Any = None) -> Job[Any]:
    """Return a claimed job with a body, decoded."""
    job = claimed_job(body)
    BodyDecoder[Any](model).decode(job)
    return job


def as_stored(body: str) -> str:
    """Return a body as PostgreSQL shows it: keys by length and then by bytes."""
    value = json.loads(body)
    if isinstance(value, dict):
        value = dict(sorted(value.items(), key=lambda item: (len(item[0]), item[0])))
    return json.dumps(value, ensure_ascii=False)


# --- Envelopes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "payload"),
    [
        ({**IDS, "payload": {"n": 1}}, {"n": 1}),
        ({"run_id": "r", "payload": {"n": 1}}, {"n": 1}),
        ({"run_id": None, "workflow_id": None, "payload": [1]}, [1]),
        ({"payload": {"n": 1}}, {"n": 1}),
        ({"payload": None}, None),
        ({**IDS, "payload": {"payload": 1}}, {"payload": 1}),
    ],
)
def test_a_payload_with_nothing_but_identifiers_is_in_an_envelope(body: Any, payload: Any) -> None:
    """The handler sees what is in it, whoever sent it and whichever identifiers are missing."""
    assert decoded(as_stored(json.dumps(body))).payload == payload


@pytest.mark.parametrize(
    "body",
    [
        {"type": "push", "payload": {"n": 1}},
        {"payload": {"n": 1}, "priority": 5},
        {**IDS, "payload": {"n": 1}, "priority": 5},
        {**IDS, "payload": {"n": 1}, "type": "push"},
        {**IDS, "payload": {"n": 1}, "signature_of_it": "x"},
        {**IDS, "n": 1},
        IDS,
        {"Payload": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("model", [None, dict[str, Any]], ids=["plain", "model"])
def test_any_other_body_is_seen_whole(body: Any, model: Any) -> None:
    """One more key makes it a body of one's own; identifiers in it are those of the job."""
    job = decoded(as_stored(json.dumps(body)), model)
    assert job.payload == body
    assert job.run_id == body.get("run_id")
    assert job.project_id == body.get("project_id")


class Push(BaseModel):
    """A model with a field that is called like the envelope's."""

    type: str
    payload: dict[str, int]


class Parcel(BaseModel):
    """A model that has nothing else."""

    payload: dict[str, int]


class Step(BaseModel):
    """A model with some of the envelope's fields."""

    run_id: str
    payload: int


class OwnJob(BaseModel):
    """A model with all fields of an envelope."""

    run_id: str
    workflow_id: str
    project_id: str
    payload: int


@pytest.mark.parametrize(
    "model",
    [Push(type="a", payload={"n": 1}), Parcel(payload={"n": 1}), Step(run_id="r", payload=1)],
)
async def test_a_model_with_a_payload_comes_back_whole(
    pool: Any, queue_name: str, model: BaseModel
) -> None:
    """Whatever its fields are called, the handler has the model that was enqueued."""
    service = QueueService[Any](pool, queue_name, payload_model=type(model))
    plain = QueueService[Any](pool, queue_name)
    await service.enqueue(model)
    await plain.enqueue(model)
    for _ in range(2):
        job = await service.dequeue()
        assert job is not None
        assert job.payload == model
        assert job.run_id == getattr(model, "run_id", None)


def test_a_model_with_all_fields_of_an_envelope_is_one() -> None:
    """As a WorkflowJob is, unless the queue's jobs have it as their payload."""
    own = OwnJob(**IDS, payload=5)
    job = decoded(as_stored(encode_body(own, MEBIBYTE)), int)
    assert (job.payload, job.workflow_id) == (5, "w")
    again = decoded(as_stored(encode_body(own, MEBIBYTE, is_payload=True)), OwnJob)
    assert (again.payload, again.workflow_id) == (own, "w")


# --- Models that read back what they write -----------------------------------------------------


class Order(BaseModel):
    """A model of many types, all of which JSON can carry."""

    number: int
    price: Decimal = Decimal("1.10")
    placed_at: datetime = datetime(2026, 3, 29, 1, 30, tzinfo=UTC)
    local_time: datetime = datetime(2026, 3, 29, 1, 30)  # noqa: DTZ001 - on purpose
    delay: timedelta = timedelta(minutes=1.5)
    uuid: UUID = UUID(int=5)
    tags: set[str] = {"a"}
    pair: tuple[int, str] = (1, "é")
    raw: bytes = b"plain"
    text: str | None = None


class Total(BaseModel):
    """A computed field beside a rule against fields that are not known."""

    model_config = ConfigDict(extra="forbid")

    n: int

    @computed_field  # type: ignore[prop-decorator]
    @property
    def double(self) -> int:
        """Twice as much."""
        return 2 * self.n


class Quoted(BaseModel):
    """JSON inside of JSON."""

    data: Json[dict[str, int]]


class Renamed(BaseModel):
    """A field that is written and read by another name."""

    order_number: int = Field(alias="orderNumber")


class Written(BaseModel):
    """A field that is written by another name, and read by its own."""

    order_number: int = Field(serialization_alias="orderNumber")


class Left(BaseModel):
    """A field that is not written, and need not be."""

    n: int
    note: str = Field(default="", exclude=True)


class Unveiled(BaseModel):
    """A secret that its author writes on purpose."""

    password: SecretStr

    @field_serializer("password")
    def _write(self, value: SecretStr) -> str:
        return value.get_secret_value()


class Numbers(RootModel[list[int]]):
    """A list."""


READABLE = [
    Order(number=1),
    Total(n=1),
    Quoted.model_validate({"data": '{"a": 1}'}),
    Renamed(orderNumber=1),
    Written(order_number=1),
    Left(n=1),
    Unveiled(password=SecretStr("secret")),
    Numbers([1, 2]),
]


@pytest.mark.parametrize("model", READABLE, ids=lambda model: type(model).__name__)
@pytest.mark.parametrize("form", ["alone", "payload", "inside"])
def test_a_model_comes_back_as_it_was(model: BaseModel, form: str) -> None:
    """As the job, as its payload, and inside of other data."""
    kind: Any = type(model)
    job: Any = {
        "alone": model,
        "payload": WorkflowJob(**IDS, payload=model),
        "inside": WorkflowJob(**IDS, payload={"a": [model]}),
    }[form]
    text = as_stored(encode_body(job, MEBIBYTE))
    expected = dict[str, list[kind]] if form == "inside" else kind
    payload = decoded(text, expected).payload
    assert (payload["a"][0] if form == "inside" else payload) == model


def test_what_a_model_reads_anyway_is_written_in_the_usual_form() -> None:
    """Others who read the messages find computed fields and aliases as pydantic writes them."""

    class Sum(BaseModel):
        n: int

        @computed_field  # type: ignore[prop-decorator]
        @property
        def double(self) -> int:
            return 2 * self.n

    assert json.loads(encode_body(Sum(n=2), MEBIBYTE)) == {"n": 2, "double": 4}


class Secret(BaseModel):
    """A secret, which pydantic writes as stars."""

    password: SecretStr


class SecretOfBytes(BaseModel):
    """The same with bytes, in a list in a model."""

    keys: list[SecretBytes]


class Hidden(BaseModel):
    """A required field that is not written."""

    note: str = Field(exclude=True)


class Prose(BaseModel):
    """A field that is written as nothing that it could be read from."""

    at: datetime

    @field_serializer("at")
    def _write(self, _: datetime) -> str:
        return "some day"


class Torn(BaseModel):
    """A field that is written by one name and read by another."""

    n: int = Field(validation_alias="in", serialization_alias="out")


class Coded(BaseModel):
    """Bytes that are written in another way than they are read."""

    model_config = ConfigDict(ser_json_bytes="base64")

    raw: bytes


class Loose(BaseModel):
    """A field of any type."""

    extra: Any


class Opaque(BaseModel):
    """Bytes that are no text."""

    raw: bytes


def spoiled() -> BaseModel:
    """Return a model that was changed into what it does not allow."""
    order = Order(number=1)
    order.number = "many"  # type: ignore[assignment]
    return order


UNREADABLE = [
    (Secret(password=SecretStr("hunter2")), "Secret .*password: .*stars.*field_serializer"),
    (SecretOfBytes(keys=[SecretBytes(b"hunter2")]), "SecretOfBytes .*keys: .*stars"),
    (Loose(extra=Secret(password=SecretStr("hunter2"))), "Loose .*extra: .*stars"),
    (Hidden(note="hunter2"), "Hidden .*note: Field required"),
    (Prose(at=datetime(2026, 1, 1, tzinfo=UTC)), "Prose .*at: Input should be a valid datetime"),
    (Torn(**{"in": 1}), "Torn .*in: Field required"),
    (Coded(raw=b"hunter2"), "Coded .*raw: its value is written in another way"),
    (spoiled(), "Order .*number: Input should be a valid integer"),
    (Opaque(raw=b"\xff"), "invalid utf-8"),
]


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning")
@pytest.mark.parametrize(("model", "message"), UNREADABLE, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("form", ["alone", "payload", "inside"])
def test_a_model_that_would_not_come_back_is_refused(
    model: BaseModel, message: str, form: str
) -> None:
    """The error names the model and the field, and shows nothing of the value."""
    job: Any = {
        "alone": model,
        "payload": WorkflowJob(**IDS, payload=model),
        "inside": WorkflowJob(**IDS, payload={"a": [model]}),
    }[form]
    with pytest.raises(InvalidJobError, match=message) as caught:
        encode_body(job, MEBIBYTE)
    assert "hunter2" not in str(caught.value)


class Rate(BaseModel):
    """A number that may be missing."""

    value: float | None = None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_would_become_null_is_refused(value: float) -> None:
    """Also where the model would read the null."""
    for job in (Rate(value=value), WorkflowJob(**IDS, payload=[Rate(value=value)])):
        with pytest.raises(InvalidJobError, match="which is not JSON"):
            encode_body(job, MEBIBYTE)
    assert json.loads(encode_body(Rate(), MEBIBYTE)) == {"value": None}


# --- Payloads that are checked when they are enqueued ------------------------------------------


class Login(BaseModel):
    """A payload with what must not be shown."""

    user: str
    number: int = 0
    api_token: int = 0
    hidden: SecretStr = SecretStr("")


@pytest.mark.parametrize(
    ("job", "message"),
    [
        ({"user": "a", "number": "many"}, r"number: .*valid integer.*, got 'many'"),
        ({"payload": {"user": 5}}, r"user: .*valid string, got 5"),
        ({"number": 1}, r"user: Field required$"),
        ({"user": "a", "api_token": "hunter2"}, r"api_token: .*integer$|api_token: [^']*$"),
        ({"user": "a", "hidden": ["hunter2"]}, r"hidden: [^']*$"),
        ({"user": "a", "number": ["hunter2"]}, r"number: .*, got list$"),
        ("hunter2", r"payload: .*, got str$"),
        (WorkflowJob(**IDS, payload={"user": None}), r"user: .*, got None"),
        (Order(number=1), r"user: Field required"),
    ],
    ids=str,
)
async def test_a_payload_is_checked_where_its_model_is_known(
    pool: Any, queue_name: str, job: Any, message: str
) -> None:
    """The error names field and value, unless that may be a secret; nothing is stored."""
    service = QueueService[Login](pool, queue_name, payload_model=Login)
    for call in (service.enqueue, lambda each: service.enqueue_many([{"user": "a"}, each])):
        with pytest.raises(InvalidJobError) as caught:
            await call(job)
        assert re.search(message, str(caught.value))
        assert "hunter2" not in str(caught.value)
    assert await pool.fetchval("select count(*) from pgmq.q_jobs") == 0


@pytest.mark.parametrize(
    "job",
    [
        {"user": "a"},
        {"user": "a", "number": "7"},
        {"payload": {"user": "a"}},
        WorkflowJob(**IDS, payload={"user": "a"}),
    ],
)
async def test_a_payload_that_fits_its_model_is_stored(
    pool: Any, queue_name: str, job: Any
) -> None:
    """Plain data is read as leniently as when it is dequeued."""
    service = QueueService[Login](pool, queue_name, payload_model=Login)
    await service.enqueue(job)
    received = await service.dequeue()
    assert received is not None
    assert received.payload.user == "a"

"""Decoding bodies: the payload and the identifiers that a handler receives."""

from __future__ import annotations

import json
import re
from typing import Any, Generic, NamedTuple

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import from_json

from meshhook.errors import InvalidJobError, InvalidPayloadError, InvalidSettingError
from meshhook.escaping import quoted
from meshhook.jobs import MAX_ID_LENGTH, Job, PayloadT, WorkflowJob
from meshhook.store._model_json import describe_faults
from meshhook.store.bodies import is_envelope

MAX_READABLE_LENGTH = 640
"""How long a body may be to be readable for certain: it has no room for deeper nesting than Python
reads, nor for a longer number."""

_HEAD = re.compile(r'\{"run_id": "([^"\\]*)", "payload": ')
_MAX_TAIL_LENGTH = 1_000
"""How long the end of a body may be to be kept: an id of another client may have any length."""
_TAIL_START = ', "project_id": "'
_TAIL = re.compile(r', "project_id": "([^"\\]*)", "workflow_id": "([^"\\]*)"\}')


class _Tail(NamedTuple):
    """The end of a body behind its payload, and the identifiers in it."""

    text: str = ""
    project_id: str | None = None
    workflow_id: str | None = None


class _Envelope(BaseModel, Generic[PayloadT]):
    model_config = ConfigDict(coerce_numbers_to_str=True, extra="forbid")

    run_id: str | None = None
    workflow_id: str | None = None
    project_id: str | None = None
    payload: PayloadT


class BodyDecoder(Generic[PayloadT]):
    """Reads message bodies for one payload model.

    A body is an envelope if it is an object with `payload` and nothing else but `run_id`,
    `workflow_id` and `project_id`, each of which may be missing. Any other body, such as other PGMQ
    clients send, is itself the payload; identifiers in it are recognized all the same.
    """

    def __init__(self, payload_model: Any = None) -> None:
        """Take a pydantic model or any other type that a TypeAdapter accepts; None means any JSON.

        Raises:
            InvalidSettingError: if it is not a type that pydantic can decode.
        """
        model: Any = Any if payload_model is None else payload_model
        self.model: Any = model
        """The type of the payload; Any for plain JSON."""
        self._takes_anything = model is Any
        self._tail = _Tail()
        """The last one that was matched."""
        envelope: Any = _Envelope
        try:
            if isinstance(model, str):
                raise TypeError  # noqa: TRY301 - pydantic takes it for a type that comes later
            self._bare: TypeAdapter[PayloadT] = TypeAdapter(model)
            self._envelope: TypeAdapter[_Envelope[PayloadT]] = TypeAdapter(envelope[model])
        except Exception as error:
            # Not only pydantic's own errors: for a mapping it raises a KeyError.
            message = f"payload_model: expected a type that pydantic can read, got {quoted(model)}"
            raise InvalidSettingError(message) from error

    def decode(self, job: Job[PayloadT]) -> None:
        """Fill in the job's payload and identifiers from its body.

        Raises:
            InvalidPayloadError: if the model rejects the payload; the message lists the errors
                without the values. The identifiers are filled in all the same.
        """
        # Those of an encrypted job are beside the encrypted text, and have been read.
        if self._takes_anything and (job.is_encrypted or self._read_identifiers(job)):
            job.read_payload_with(_plain_payload)
            return
        try:
            envelope = self._envelope.validate_json(job.body)
        except ValidationError:
            self._decode_slowly(job)
        else:
            job.run_id = _cut(envelope.run_id)
            job.workflow_id = _cut(envelope.workflow_id)
            job.project_id = _cut(envelope.project_id)
            job.payload = envelope.payload

    def _read_identifiers(self, job: Job[PayloadT]) -> bool:
        """Read the identifiers of a body as `encode_body` writes it, without reading its payload.

        PostgreSQL orders the keys of a jsonb object by length, then by name: `run_id`, `payload`,
        `project_id`, `workflow_id`. The pieces matched here cannot occur inside a string, where a
        quotation mark is escaped, and the last brace closes the outermost object. A match is
        therefore unambiguous.
        """
        body = job.body
        head = _HEAD.match(body)
        if head is None:
            return False
        tail = self._tail
        # Of jobs in a row, most are of one workflow. A tail has its start nowhere but there, so
        # that a body that ends in it is matched by the same tail.
        if not (tail.text and body.endswith(tail.text)):
            match = _TAIL.fullmatch(body, body.rfind(_TAIL_START))
            if match is None:
                return False
            tail = _Tail(match[0], _cut(match[1]), _cut(match[2]))
            if len(tail.text) <= _MAX_TAIL_LENGTH:
                self._tail = tail
        job.run_id = _cut(head[1])
        job.project_id = tail.project_id
        job.workflow_id = tail.workflow_id
        return True

    def decode_early(self, job: Job[PayloadT]) -> None:
        """Do the same, and read a plain payload now if that may fail.

        For a job of a batch: when its handler reads it, a failure would be that of all.

        Raises:
            InvalidPayloadError: as `decode`, or if the payload cannot be read.
        """
        self.decode(job)
        if self._takes_anything and len(job.body) > MAX_READABLE_LENGTH:
            _ = job.payload

    def check(self, job: object, text: str) -> None:
        """Check that the model can decode the JSON of a job that is to be enqueued.

        Raises:
            InvalidJobError: naming the fields, and their values unless these may be secret.
        """
        payload = job.payload if type(job) is WorkflowJob else job
        if self._takes_anything or type(payload) is self.model:
            return  # a model has read its own JSON already
        try:
            self._envelope.validate_json(text)
        except ValidationError:
            body = json.loads(text)
            payload = body["payload"] if is_envelope(body) else body
            try:
                self._bare.validate_json(json.dumps(payload))
            except ValidationError as error:
                faults = describe_faults(error, self._bare)
                message = f"the payload does not fit the model of this queue's jobs: {faults}"
                raise InvalidJobError(message) from None

    def _decode_slowly(self, job: Job[PayloadT]) -> None:
        payload = body = _read_json(job.body)
        if isinstance(body, dict):
            job.run_id = _scalar_text(body.get("run_id"))
            job.workflow_id = _scalar_text(body.get("workflow_id"))
            job.project_id = _scalar_text(body.get("project_id"))
            payload = body["payload"] if is_envelope(body) else body
        if self._takes_anything:
            job.payload = payload
            return
        try:
            # Through JSON text, since pydantic reads JSON more leniently than Python objects.
            job.payload = self._bare.validate_json(json.dumps(payload))
        except ValidationError as error:
            raise InvalidPayloadError(_describe(error)) from None


def _plain_payload(text: str) -> Any:
    body = _read_json(text)
    # The text in between may hold more than a payload.
    return body["payload"] if is_envelope(body) else body


def _read_json(body: str) -> Any:
    try:
        return from_json(body)
    except ValueError:
        pass
    try:
        # JSON may be nested more deeply than pydantic reads it.
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        message = f"the body cannot be read as JSON: {error}"
        raise InvalidPayloadError(message) from None


def _cut(text: str | None) -> str | None:
    return text if text is None or len(text) <= MAX_ID_LENGTH else text[:MAX_ID_LENGTH]


def _scalar_text(value: object) -> str | None:
    is_scalar = isinstance(value, str | int | float) and not isinstance(value, bool)
    return _cut(str(value)) if is_scalar else None


def _describe(error: ValidationError) -> str:
    faults = [
        f"{'.'.join(str(part) for part in fault['loc']) or 'payload'}: {fault['msg']}"
        for fault in error.errors(include_url=False, include_input=False)
    ]
    shown = "; ".join(faults[:5])
    more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""  # noqa: PLR2004
    return f"the payload does not fit the handler's model: {shown}{more}"

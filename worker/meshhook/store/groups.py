"""Groups of jobs as they are stored: their name, their callback, and the row that counts them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID, uuid4

from meshhook.errors import (
    DatabaseError,
    GroupExistsError,
    InvalidJobError,
    MeshHookError,
    QueueNotFoundError,
)
from meshhook.escaping import quoted
from meshhook.follow_ups import FollowUp
from meshhook.jobs import GROUP_HEADER
from meshhook.names import KEY_HEADER
from meshhook.postgres.driver_errors import sqlstate_of
from meshhook.store.message_headers import encode_headers, with_header
from meshhook.store.messages import FollowUpMessage, encrypted_follow_up, follow_up_message

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from meshhook.encryption.key_ring import KeyRing

MAX_GROUP_NAME_LENGTH = 200


class NewGroup(NamedTuple):
    """A group to be stored with its jobs."""

    id: str
    name: str | None
    """None means that it is called like its id."""
    callback: FollowUpMessage | None

    def headers(self, headers: Mapping[str, Any] | None) -> str:
        """Return the headers of its jobs as JSON text."""
        return with_header(encode_headers(headers), GROUP_HEADER, self.id)

    def in_trace_of(self, headers: Mapping[str, Any] | None) -> NewGroup:
        """Return it with a callback in the trace of its jobs, unless that names one itself.

        Args:
            headers: those of its jobs.
        """
        callback = self.callback
        if callback is None or not headers or "traceparent" in json.loads(callback.headers or "{}"):
            return self
        text = callback.headers
        for name in ("traceparent", "tracestate"):
            if isinstance(value := headers.get(name), str):
                text = with_header(text, name, value)
        return self._replace(callback=callback._replace(headers=text))

    def encrypted(self, ring: KeyRing | None) -> NewGroup:
        """Return it with its callback encrypted, if there are keys."""
        if ring is None or self.callback is None:
            return self
        return self._replace(callback=encrypted_follow_up(self.callback, ring))

    def arguments(self, queue_name: str, msg_ids: Sequence[int]) -> tuple[Any, ...]:
        """Return the arguments of `sql/create_group.sql`."""
        if self.callback is None:
            return (self.id, queue_name, self.name, list(msg_ids), None, None, None, None)
        callback = self.callback
        return (
            self.id,
            queue_name,
            self.name,
            list(msg_ids),
            callback.queue,
            callback.body,
            callback.headers,
            callback.delay_seconds,
        )

    def refusal_of(self, error: DatabaseError, queue_name: str) -> MeshHookError:
        """Return the error for the caller whose group was refused."""
        sqlstate = sqlstate_of(error.__cause__)
        if sqlstate == "MHQ10":
            return GroupExistsError(queue_name, str(self.name))
        if sqlstate == "MHQ05" and self.callback is not None:
            return QueueNotFoundError(self.callback.queue)
        if sqlstate in ("MHQ06", "MHQ07", "MHQ08", "MHQ20"):
            return InvalidJobError(f"on_complete: {error.__cause__}")
        return error


def new_group(group: str | UUID | None, on_complete: FollowUp | None) -> NewGroup | None:
    """Return the group that a caller asks for; None if it asks for none.

    Raises:
        InvalidJobError: if an argument is wrong.
    """
    if group is None and on_complete is None:
        return None
    name = str(group) if isinstance(group, UUID) else group
    if name is not None and (
        not isinstance(name, str) or not 1 <= len(name) <= MAX_GROUP_NAME_LENGTH or "\0" in name
    ):
        raise InvalidJobError(
            f"group is the name of a group, text of 1 to {MAX_GROUP_NAME_LENGTH} characters or a "
            f"UUID, got {quoted(group)}"
        )
    if on_complete is None:
        return NewGroup(str(uuid4()), name, None)
    if not isinstance(on_complete, FollowUp):
        raise InvalidJobError(
            f"on_complete is a job: FollowUp('queue', payload), got {quoted(on_complete)}"
        )
    return NewGroup(str(uuid4()), name, _callback(on_complete))


def _callback(on_complete: FollowUp) -> FollowUpMessage:
    """Return the message of a callback, which has its key among its headers."""
    try:
        message = follow_up_message(on_complete)
    except InvalidJobError as error:
        raise InvalidJobError(f"on_complete: {error}") from error
    if message.key is None:
        return message
    return message._replace(headers=with_header(message.headers, KEY_HEADER, message.key), key=None)

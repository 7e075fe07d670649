"""Which jobs of a queue to change: some by their ids, or all that fit."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

from meshhook.arguments import checked_id, checked_storable_text
from meshhook.errors import InvalidSettingError
from meshhook.escaping import quoted
from meshhook.jobs import MAX_ID_LENGTH
from meshhook.names import MAX_KEY_LENGTH
from meshhook.store.job_rows import LIVE_STATES

if TYPE_CHECKING:
    from uuid import UUID

IDENTIFIERS = ("run_id", "workflow_id", "project_id")


class JobChoiceOptions(TypedDict, total=False):
    """Arguments that name jobs of a queue beside their ids, as in `QueueService.cancel`."""

    run_id: str | UUID | None
    workflow_id: str | UUID | None
    project_id: str | UUID | None
    key: str | UUID | None
    state: str | None
    dry_run: bool
    search_seconds: float


@dataclass(frozen=True, slots=True)
class JobChoice:
    """Which jobs of a queue to change: those with given ids, or all that fit."""

    msg_ids: tuple[int, ...] | None
    run_id: str | None
    workflow_id: str | None
    project_id: str | None
    key: str | None
    state: str | None

    @property
    def asked(self) -> dict[str, str | None]:
        """What fits, for the audit log."""
        return {name: getattr(self, name) for name in (*IDENTIFIERS, "key", "state")}

    @classmethod
    def of(
        cls,
        msg_ids: int | Iterable[int] | None,
        *,
        run_id: str | UUID | None = None,
        workflow_id: str | UUID | None = None,
        project_id: str | UUID | None = None,
        key: str | UUID | None = None,
        state: str | None = None,
    ) -> JobChoice:
        """Return a choice, checked.

        Raises:
            InvalidSettingError: naming the argument that is wrong, or if none is given.
        """
        ids: tuple[int, ...] | None = None
        if msg_ids is not None:
            # What is no number is refused below.
            is_one = isinstance(msg_ids, str | bytes) or not isinstance(msg_ids, Iterable)
            several: Iterable[Any] = [msg_ids] if is_one else msg_ids  # type: ignore[assignment]
            ids = tuple(dict.fromkeys(checked_id("msg_id", each) for each in several))
        names = {"run_id": run_id, "workflow_id": workflow_id, "project_id": project_id}
        texts = {name: _checked_name(name, value, MAX_ID_LENGTH) for name, value in names.items()}
        found_key = _checked_name("key", key, MAX_KEY_LENGTH)
        filters = [*texts.values(), found_key]
        if state is not None and state not in LIVE_STATES:
            raise InvalidSettingError(
                f"state is one of {', '.join(LIVE_STATES)}, got {quoted(state)}"
            )
        if ids is not None and any(each is not None for each in filters):
            raise InvalidSettingError(
                "name jobs by msg_id, or by run_id, workflow_id, project_id and key, not by both"
            )
        if ids is None and state is None and all(each is None for each in filters):
            raise InvalidSettingError(
                "name the jobs: msg_ids, run_id, workflow_id, project_id, key or state. To delete "
                "all messages of a queue, purge it"
            )
        return cls(ids, key=found_key, state=state, **texts)


def _checked_name(name: str, value: str | UUID | None, max_length: int) -> str | None:
    if value is None:
        return None
    text = checked_storable_text(name, value if isinstance(value, str) else _text_of(value))
    return text[:max_length]


def _text_of(value: object) -> Any:
    # A UUID is what jobs have as text; anything else is refused by name.
    return str(value) if type(value).__name__ == "UUID" else value

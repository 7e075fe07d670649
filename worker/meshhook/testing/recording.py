"""Recording what handlers raise, so that a test can raise the same exception object."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from meshhook.outcomes import Outcome
from meshhook.worker.handlers import JobHandler
from meshhook.worker.results import as_awaitable, is_awaitable

if TYPE_CHECKING:
    from meshhook.jobs import Job

AttemptKey = tuple[str, int, int]
"""Queue, msg_id and number of an attempt."""


class HandlerEnds(dict[AttemptKey, BaseException]):
    """The exceptions that handlers raised, and the outcomes that they returned, by attempt."""

    def recorded(self, handler: Any) -> JobHandler[Any]:
        """Return a copy of a handler whose exceptions and outcomes are recorded here.

        Raises:
            InvalidHandlerError: if it is not a handler.
        """
        known = handler if isinstance(handler, JobHandler) else JobHandler(handler)
        recorded = copy.copy(known)
        function = known.function

        def call(job: Job[Any]) -> Any:
            try:
                result = function(job)
            except BaseException as error:
                self._keep(job, error)
                raise
            if is_awaitable(result):
                return self._awaited(job, result)
            self._look_at(job, result)
            return result

        recorded.function = call
        return recorded

    async def _awaited(self, job: Job[Any], result: Any) -> object:
        try:
            result = await as_awaitable(result)
        except BaseException as error:
            self._keep(job, error)
            raise
        self._look_at(job, result)
        return result

    def _look_at(self, job: Job[Any], result: object) -> None:
        if isinstance(result, Outcome):
            self._keep(job, result)

    def _keep(self, job: Job[Any], error: BaseException) -> None:
        self[job.queue, job.msg_id, job.attempt] = error


def is_outcome(error: BaseException | None) -> bool:
    """Return whether an exception is an outcome, or a group of nothing but outcomes."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(Outcome)[1] is None
    return isinstance(error, Outcome)

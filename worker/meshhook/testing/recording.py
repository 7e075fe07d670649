"""Recording what handlers raise, so that a test can raise the same exception object."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from meshhook.outcomes import Outcome
from meshhook.worker.batch_ends import ends_of_batch
from meshhook.worker.handlers import JobHandler
from meshhook.worker.results import as_awaitable, is_awaitable

if TYPE_CHECKING:
    from collections.abc import Sequence

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
        is_batch = known.batch is not None

        def call(argument: Any) -> Any:
            jobs = argument if is_batch else [argument]
            try:
                result = function(argument)
            except BaseException as error:
                self._keep(jobs, error)
                raise
            if is_awaitable(result):
                return self._awaited(jobs, result, is_batch=is_batch)
            self._look_at(jobs, result, is_batch=is_batch)
            return result

        recorded.function = call
        return recorded

    async def _awaited(self, jobs: Sequence[Job[Any]], result: Any, *, is_batch: bool) -> object:
        try:
            result = await as_awaitable(result)
        except BaseException as error:
            self._keep(jobs, error)
            raise
        self._look_at(jobs, result, is_batch=is_batch)
        return result

    def _look_at(self, jobs: Sequence[Job[Any]], result: object, *, is_batch: bool) -> None:
        if isinstance(result, Outcome):
            self._keep(jobs, result)
        elif is_batch:
            for job, end in zip(jobs, ends_of_batch(result, jobs), strict=True):
                if isinstance(end, BaseException):
                    self._keep([job], end)

    def _keep(self, jobs: Sequence[Job[Any]], error: BaseException) -> None:
        for job in jobs:
            self[job.queue, job.msg_id, job.attempt] = error


def is_outcome(error: BaseException | None) -> bool:
    """Return whether an exception is an outcome, or a group of nothing but outcomes."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(Outcome)[1] is None
    return isinstance(error, Outcome)

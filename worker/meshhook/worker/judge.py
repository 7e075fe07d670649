"""The judge of one queue's attempts: asks for verdicts, and logs all but plain successes."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from meshhook.encryption.envelope import is_sealed
from meshhook.encryption.messages import decrypt_job_now, encrypted_result, note_identifiers
from meshhook.errors import (
    EncryptionError,
    InvalidJobError,
    InvalidPayloadError,
    UnencryptedMessageError,
)
from meshhook.expiry import deadline_of
from meshhook.observability.job_context import fields_of
from meshhook.observability.loggers import get_logger
from meshhook.observability.tracing import trace_headers
from meshhook.outcomes import AttemptOutcome, Done
from meshhook.store.messages import follow_up_messages
from meshhook.worker.attempt import Abort, is_ctrl_c, log_end
from meshhook.worker.retries import undecrypted_on, verdict_on
from meshhook.worker.verdicts import (
    DONE,
    CompletionRolledBackError,
    FollowUpRefusedError,
    Verdict,
    cancelled,
    expired,
    instead_of_retry,
    invalid_payload,
    lease_lost,
    meaning_of,
    with_result,
    withheld,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshhook.follow_ups import FollowUp
    from meshhook.jobs import Job
    from meshhook.queue_config import QueueSettings
    from meshhook.store.messages import FollowUpMessage
    from meshhook.worker.attempt import Attempt
    from meshhook.worker.queue_context import QueueContext
    from meshhook.worker.shared_error import SharedError

_log = get_logger("meshhook.worker.judge")


class Judge:
    """Decides what becomes of jobs that must not run, and of those that have run."""

    def __init__(self, queue: QueueContext) -> None:
        """Take the queue."""
        self._queue = queue
        decoder = queue.handler.decoder
        self._decode = decoder.decode if queue.handler.batch is None else decoder.decode_early

    def refusal(self, job: Job[Any], settings: QueueSettings) -> Verdict | None:
        """Return the verdict on a job that must not run, or None."""
        if job.cancellation is not None:
            note_identifiers(job)
            refusal = cancelled(job.cancellation)
            log_end(job, refusal)
            return refusal
        deadline = deadline_of(job, settings.job_expiry_seconds)
        if job.started_timestamp >= deadline:
            note_identifiers(job)
            refusal = expired(deadline, settings)
            log_end(job, refusal)
            return refusal
        try:
            if not job.is_encrypted:  # the message reader has decrypted it
                self._decrypt(job, settings)
            self._decode(job)
        except BaseException as error:
            if is_ctrl_c(error):
                raise
            return self._unusable(error, job, settings)
        if job.lost_attempts and job.attempt > job.max_attempts:
            refusal = lease_lost(job.lost_attempts, settings)
            log_end(job, refusal)
            return refusal
        return None

    def _unusable(self, error: BaseException, job: Job[Any], settings: QueueSettings) -> Verdict:
        """Return the verdict on a job whose message cannot be decrypted or decoded."""
        raised: BaseException | None = None
        if isinstance(error, EncryptionError):
            refusal = self.undecrypted(error, job, settings)
        elif isinstance(error, InvalidPayloadError):
            refusal = self._shown(invalid_payload(str(error), settings), job)
        else:
            refusal = self._shown(self.verdict(meaning_of(error), job, settings), job)
            raised = None if self._queue.withholds(job) else error
        log_end(job, refusal, raised)
        return refusal

    def _decrypt(self, job: Job[Any], settings: QueueSettings) -> None:
        if is_sealed(job.body):
            decrypt_job_now(job, self._queue.encryption)
        elif settings.requires_encryption:
            note_identifiers(job)
            raise UnencryptedMessageError(self._queue.name)

    def _shown(self, end: Verdict, job: Job[Any], ended: object = None) -> Verdict:
        return withheld(end, ended) if self._queue.withholds(job) else end

    def end(self, attempt: Attempt, ended: object, shared: SharedError | None = None) -> Verdict:
        """Return the verdict on a job that has run.

        Args:
            attempt: its attempt.
            ended: what the handler returned or raised.
            shared: the error that others of its batch have ended with. Default: it is of none.
        """
        if ended is None and not attempt.was_completed:
            return DONE  # first, because it is the most frequent
        if attempt.was_completed and not isinstance(ended, BaseException):
            # This only counts if the message still exists: then the transaction was rolled back.
            ended = CompletionRolledBackError()
        ended = meaning_of(ended)
        if isinstance(ended, Done) and ended.then:
            end = self._with_follow_ups(ended.then, attempt)
            return self.with_result(end, ended.result, attempt.job)
        cancellation = attempt.job.cancellation
        if isinstance(ended, Abort) and cancellation is not None:
            end = cancelled(cancellation)
        else:
            ran_seconds = time.monotonic() - attempt.began_at
            text = None if shared is None else shared.text_of(ended)
            end = verdict_on(
                attempt.job, ended, self._queue, attempt.settings, ran_seconds, text=text
            )
            end = self._shown(end, attempt.job, ended)
            if cancellation is not None:
                end = instead_of_retry(end, ended, cancellation)
        if end is not DONE and not attempt.was_completed:
            is_shown = not self._queue.withholds(attempt.job) and (
                shared is None or shared.is_first_of(ended)
            )
            log_end(attempt.job, end, ended if is_shown else None)
        result = ended.result if isinstance(ended, Done) else ended
        return self.with_result(end, result, attempt.job)

    def completion(
        self, attempt: Attempt, follow_ups: Sequence[FollowUp], result: object
    ) -> Verdict:
        """Return the verdict on a job that its handler completes.

        Raises:
            InvalidJobError: if a job that follows cannot be stored.
        """
        end = DONE
        if follow_ups:
            end = replace(DONE, follow_ups=self._messages_of(follow_ups, attempt))
        return self.with_result(end, result, attempt.job)

    def with_result(self, end: Verdict, result: object, job: Job[Any]) -> Verdict:
        """Return a verdict with the result of a job, if it has succeeded and results are kept."""
        if not self._queue.config.results or end.outcome is not AttemptOutcome.SUCCEEDED:
            return end
        end = with_result(end, result)
        ring = self._queue.encryption
        if end.result is not None and job.is_encrypted and ring is not None:
            text = encrypted_result(end.result, ring, job.queue, job.msg_id)
            end = replace(end, result=text)
        end = self._shown(end, job)
        if end.error_message is not None:
            _log.error("result not kept", **fields_of(job), error=end.error_message)
        return end

    def _with_follow_ups(self, follow_ups: Sequence[FollowUp], attempt: Attempt) -> Verdict:
        """Return the verdict on a job that has succeeded, and that others follow."""
        job = attempt.job
        if attempt.was_completed:
            _log.error(
                "job.complete() was called before: the jobs that follow are not enqueued. Pass "
                "them to it: job.complete(connection=..., then=[...])",
                **fields_of(job),
            )
            return DONE
        try:
            messages = self._messages_of(follow_ups, attempt)
        except InvalidJobError as error:
            failure = FollowUpRefusedError(f"a job that follows cannot be enqueued: {error}")
            end = self._shown(self.verdict(failure, job, attempt.settings), job)
            log_end(job, end, None if self._queue.withholds(job) else failure)
            return end
        return replace(DONE, follow_ups=messages)

    def undecrypted(
        self, error: EncryptionError, job: Job[Any], settings: QueueSettings
    ) -> Verdict:
        """Return the verdict on a job whose message is not decrypted."""
        return undecrypted_on(job, error, self._queue, settings)

    def verdict(self, ended: object, job: Job[Any], settings: QueueSettings) -> Verdict:
        """Return the verdict on an attempt, with a random delay if the job is retried."""
        return verdict_on(job, ended, self._queue, settings)

    def _messages_of(
        self, follow_ups: Sequence[FollowUp], attempt: Attempt
    ) -> tuple[FollowUpMessage, ...]:
        job = attempt.job
        trace = trace_headers(job, is_traced=attempt.span is not None)
        return follow_up_messages(follow_ups, job, trace, self._queue.encryption)

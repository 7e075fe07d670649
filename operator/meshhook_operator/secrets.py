"""The database URLs of JobQueues, read from Secrets, and read again when they may have changed."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from meshhook.errors import MeshHookError
from meshhook.observability.loggers import get_logger
from meshhook_operator.api.jobqueue import ObjectKey
from meshhook_operator.databases.database import DatabaseAddress
from meshhook_operator.databases.hosts import DatabaseHosts
from meshhook_operator.databases.urls import check_url
from meshhook_operator.pauses import doubled_seconds
from meshhook_operator.problems import problem_of
from meshhook_operator.scaling import Failure
from meshhook_operator.url_checksums import UrlChecksums

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshhook_operator.api.jobqueue import JobQueue
    from meshhook_operator.api.spec import SecretKey
    from meshhook_operator.cluster.client import Cluster
    from meshhook_operator.url_checksums import UrlChecksum

_log = get_logger("meshhook_operator.secrets")

FRESH_SECONDS = 30.0
RETRY_SECONDS = 5.0
QUICK_RETRIES = 12
MAX_RETRY_SECONDS = 60.0
PARALLEL_READS = 8
"""How many Secrets are read at once for the first time, half of them in one namespace. Those that
are read again wait for each other only."""
_SHOWN_KEYS = 20


class SecretReference(NamedTuple):
    """A key of a Secret that holds a database URL."""

    secret: ObjectKey
    key: str
    pooled: bool


@dataclass(frozen=True, slots=True)
class FoundAddress:
    """What a Secret holds."""

    address: DatabaseAddress
    checksum: UrlChecksum
    """Of the workers' URL; not computed yet."""


@dataclass(slots=True)
class _Entry:
    found: FoundAddress | Failure | None = None
    read_at: float = float("-inf")
    is_reading: bool = False
    failures: int = 0
    """How many reads in a row found no address."""
    is_in_doubt: bool = False
    """Whether its URL did not work when it was used since the last read."""
    doubts: int = 0
    """How many reads in a row were made in doubt and found the same URL."""

    @property
    def pause_seconds(self) -> float:
        """How long after one read the next one comes, in seconds."""
        if isinstance(self.found, FoundAddress):
            if not self.is_in_doubt:
                return FRESH_SECONDS
            return doubled_seconds(
                self.doubts, first_seconds=RETRY_SECONDS, longest_seconds=FRESH_SECONDS
            )
        # Thousands of Secrets that are missing must not keep the API server busy.
        return doubled_seconds(
            self.failures - QUICK_RETRIES,
            first_seconds=RETRY_SECONDS,
            longest_seconds=MAX_RETRY_SECONDS,
        )


def operator_reference_of(jobqueue: JobQueue) -> SecretReference | None:
    """Return which Secret has the operator's URL; None if the spec is not valid."""
    if jobqueue.spec is None:
        return None
    database = jobqueue.spec.database
    return _reference(jobqueue, database.operator_secret_ref or database.secret_ref)


def workers_reference_of(jobqueue: JobQueue) -> SecretReference | None:
    """Return which Secret has the workers' URL; None if the spec is not valid."""
    return (
        None if jobqueue.spec is None else _reference(jobqueue, jobqueue.spec.database.secret_ref)
    )


def _reference(jobqueue: JobQueue, secret: SecretKey) -> SecretReference | None:
    if jobqueue.spec is None:
        return None
    key = ObjectKey(jobqueue.key.namespace, secret.name)
    return SecretReference(key, secret.key, jobqueue.spec.database.pooled)


class _Lanes:
    """Limits of reads at once. A namespace with thousands of Secrets must not block the others."""

    def __init__(self) -> None:
        self.all = asyncio.Semaphore(PARALLEL_READS)
        self._by_namespace: defaultdict[str, asyncio.Semaphore] = defaultdict(
            partial(asyncio.Semaphore, PARALLEL_READS // 2)
        )

    def of(self, namespace: str) -> asyncio.Semaphore:
        return self._by_namespace[namespace]


class DatabaseSecrets:
    """What the Secrets say. A look-up never waits: old entries are read again in the background."""

    def __init__(
        self,
        cluster: Cluster,
        tasks: asyncio.TaskGroup,
        *,
        on_change: Callable[[SecretReference], None],
        clock: Callable[[], float],
        hosts: DatabaseHosts | None = None,
    ) -> None:
        self._cluster = cluster
        self._hosts = hosts or DatabaseHosts()
        self._tasks = tasks
        self._on_change = on_change
        self._clock = clock
        self._checksums = UrlChecksums()
        self._entries: dict[SecretReference, _Entry] = {}
        self._first_reads = _Lanes()
        self._further_reads = _Lanes()

    def look_up(
        self, reference: SecretReference, *, reads: bool = True
    ) -> FoundAddress | Failure | None:
        """Return what was read last; None before the first read, whose end `on_change` reports.

        Args:
            reference: which Secret.
            reads: whether it is read again if that is due. Default true.
        """
        entry = self._entries.setdefault(reference, _Entry())
        if reads and not entry.is_reading and self._clock() - entry.read_at >= entry.pause_seconds:
            entry.is_reading = True
            self._tasks.create_task(self._read(reference, entry), name=f"read {reference.secret}")
        return entry.found

    def look_up_both(
        self,
        own: SecretReference | None,
        workers: SecretReference | None,
        *,
        reads: bool = True,
    ) -> FoundAddress | Failure | None:
        """Return the operator's address, with the checksum of the workers' URL.

        Without references, as where the spec is not valid, it is a Failure that says so.
        """
        if own is None or workers is None:
            return Failure(reason="InvalidSpec", message="the spec is not valid")
        found = self.look_up(own, reads=reads)
        if own == workers:
            return found
        theirs = self.look_up(workers, reads=reads)
        if not isinstance(found, FoundAddress):
            return found
        if not isinstance(theirs, FoundAddress):
            return theirs
        return FoundAddress(found.address, theirs.checksum)

    def expire(self, reference: SecretReference) -> None:
        """Read it again soon: its URL did not work. The longer that lasts, the later it is read."""
        entry = self._entries.get(reference)
        if entry is not None:
            entry.is_in_doubt = True

    def forget_all_but(self, references: set[SecretReference]) -> None:
        """Forget the Secrets that are no longer in use."""
        for reference in self._entries.keys() - references:
            if not self._entries[reference].is_reading:
                del self._entries[reference]

    async def _read(self, reference: SecretReference, entry: _Entry) -> None:
        before = entry.found
        try:
            lanes = self._first_reads if entry.found is None else self._further_reads
            async with lanes.of(reference.secret.namespace), lanes.all:
                found = await self._read_now(reference, entry)
        except Exception as error:  # noqa: BLE001 - a malformed Secret must not stop the operator
            # The error's text is not shown: it may quote the Secret.
            kind = type(error).__name__
            _log.warning("secret not read", secret_name=str(reference.secret), reason=kind)
            if isinstance(entry.found, FoundAddress):
                return
            found = Failure(
                reason="SecretUnreadable",
                message=f"Secret {reference.secret.name!r} cannot be used ({kind})",
            )
        finally:
            entry.is_reading = False
            entry.read_at = self._clock()
            entry.doubts = entry.doubts + 1 if entry.is_in_doubt else 0
            entry.is_in_doubt = False
        entry.failures = 0 if isinstance(found, FoundAddress) else entry.failures + 1
        if found != before:
            entry.found, entry.doubts = found, 0
            self._on_change(reference)

    async def _read_now(self, reference: SecretReference, entry: _Entry) -> FoundAddress | Failure:
        secret, key = reference.secret, reference.key
        try:
            values = await self._cluster.read_secret(secret)
        except MeshHookError as error:
            if isinstance(entry.found, FoundAddress):
                # Keep using the last URL: an outage of the API server must not stop the queue.
                _log.warning("secret not read", secret_name=str(secret), reason=str(error))
                return entry.found
            return problem_of(error)
        if values is None:
            return Failure(
                reason="SecretNotFound", message=f"Secret {secret.name!r} does not exist"
            )
        url = values.get(key, "").strip()
        if not url:
            there = ", ".join(sorted(values)[:_SHOWN_KEYS]) or "none"
            if len(values) > _SHOWN_KEYS:
                there += f" and {len(values) - _SHOWN_KEYS} more"
            return Failure(
                reason="SecretKeyMissing",
                message=f"Secret {secret.name!r} has no text under the key {key!r}; keys: {there}",
            )
        address = DatabaseAddress(url, reference.pooled)
        if isinstance(entry.found, FoundAddress) and entry.found.address == address:
            return entry.found
        return self._checked(address, secret)

    def _checked(self, address: DatabaseAddress, secret: ObjectKey) -> FoundAddress | Failure:
        try:
            check_url(address.url, self._hosts)
        except MeshHookError as error:
            return problem_of(error)
        return FoundAddress(address, self._checksums.of(address.url, str(secret)))


def address_in(entry: FoundAddress | Failure | None) -> DatabaseAddress | None:
    """Return the address of what a look-up returned; None if there is none."""
    return entry.address if isinstance(entry, FoundAddress) else None

"""Every error that MeshHook Queue raises; `MeshHookError` is the base of all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshhook.escaping import quoted, shown, shown_sentence

if TYPE_CHECKING:
    from collections.abc import Sequence


class MeshHookError(Exception):
    """Something that MeshHook Queue could not do; the message says what to change."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel between processes as it is, whatever the constructor takes."""
        return type(self).__new__, (type(self), *self.args), self.__dict__


def _shown(received: object) -> str:
    """Return a value as messages show it: its type, and the value where it is short."""
    kind = type(received).__name__
    return f"{kind} {quoted(received, limit=60)}" if isinstance(received, int | str) else kind


class InvalidQueueNameError(MeshHookError, ValueError):
    """A name that neither a PGMQ queue nor its dead letter queue can have."""

    def __init__(self, name: object, reason: str) -> None:
        """Name the queue and the rule that it breaks."""
        super().__init__(f"queue name {quoted(name)}: {reason}")
        self.name = name
        self.reason = reason


class InvalidJobError(MeshHookError, ValueError):
    """A job that cannot be stored as a PGMQ message. Nothing was sent."""


class NotAJobError(InvalidJobError, TypeError):
    """A value that is not a claimed job, such as a msg_id, where one is needed."""

    def __init__(self, received: object) -> None:
        """Take what was given in the job's place."""
        super().__init__(
            f"expected a job that dequeue() returned or that a handler was given, "
            f"got {_shown(received)}: a job is settled by its lease, which its msg_id alone "
            "does not prove"
        )


class JobTooLargeError(InvalidJobError):
    """A job whose JSON exceeds the queue's `max_payload_bytes`, or PostgreSQL's own limit."""

    def __init__(
        self,
        size_bytes: int,
        limit_bytes: int | None = None,
        *,
        said: str | None = None,
        is_encrypted: bool = False,
    ) -> None:
        """Give the size found and the limit, both in bytes; None means that of PostgreSQL.

        `said` is the whole message where the database knows the limit. `is_encrypted` says that
        the size is that of the encrypted job, which takes a third more.
        """
        if said is not None:
            super().__init__(said)
            self.size_bytes, self.limit_bytes = size_bytes, limit_bytes
            return
        limit = (
            "PostgreSQL does not store it as jsonb, which takes no more than 256 MB in its own form"
            if limit_bytes is None
            else f"this queue takes at most {limit_bytes}"
        )
        way_out = (
            ""
            if limit_bytes is None
            else ", or raise it: meshhook queue set QUEUE max_payload_bytes=N"
        )
        super().__init__(
            f"the job is {size_bytes} bytes of JSON{' when encrypted' if is_encrypted else ''}; "
            f"{limit}. "
            f"Store the data elsewhere and enqueue a reference{way_out}"
        )
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes


class InvalidPayloadError(MeshHookError, ValueError):
    """A claimed message whose payload does not fit the handler's model; it is dead-lettered."""


class MessageUnreadableError(MeshHookError):
    """A claimed message that cannot be decoded; it is not run."""


class MessageTooLargeError(MessageUnreadableError):
    """A claimed message with more JSON, in body or headers, than a worker reads; it is not run."""

    def __init__(self, what: str, size_bytes: int, limit_bytes: int, way_out: str) -> None:
        """Name what is too large, its size and the limit, both in bytes, and what to do."""
        super().__init__(
            f"{what} of at least {size_bytes:,} bytes; at most {limit_bytes:,} are read. {way_out}"
        )
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes


class EncryptionError(MeshHookError):
    """A message that cannot be encrypted or decrypted."""


class EncryptionKeysUnavailableError(EncryptionError):
    """The encryption keys cannot be read from their file, or had from their function."""


class UnknownEncryptionKeyError(EncryptionError):
    """A message that is encrypted with a key that this program does not have.

    A job is tried again like one that failed, since the key may come later, and becomes a dead
    letter after its last attempt.
    """

    def __init__(self, key_id: str) -> None:
        """Name the key."""
        super().__init__(
            f"it is encrypted with key {quoted(key_id, limit=60)}, which is not in the key ring of "
            "this program. Add the key, and replay what has become a dead letter: nothing is lost"
        )
        self.key_id = key_id


class DecryptionError(EncryptionError):
    """A message that was changed after it was encrypted, or was encrypted for another queue.

    Its job becomes a dead letter at once.
    """


class UnencryptedMessageError(EncryptionError):
    """A message that is not encrypted, in a queue that requires it. It becomes a dead letter."""

    def __init__(self, queue: str) -> None:
        """Name the queue, and what lets it in."""
        super().__init__(
            f"it is not encrypted, and queue {quoted(queue)} requires that. If it is trusted, "
            f"replay it after: meshhook queue set {shown(str(queue), limit=100)} encryption=accept"
        )
        self.queue = queue


class EncryptionRequiredError(InvalidJobError):
    """A job that was to be enqueued unencrypted into a queue that requires encryption."""

    def __init__(self, queue: str, *, said: str | None = None) -> None:
        """Name the queue; `said` is the whole message where the database knows."""
        super().__init__(
            said
            or f"queue {quoted(queue)} takes encrypted jobs only, and this program has no keys: "
            "pass encryption=KeyRing.from_file(...), or set MESHHOOK_ENCRYPTION_KEY_FILE where the "
            "environment is read"
        )
        self.queue = queue


class InvalidSettingError(MeshHookError, ValueError):
    """A setting, argument or environment variable outside its range."""


class WrongSchemeError(InvalidSettingError):
    """A database URL whose scheme is not PostgreSQL's."""

    def __init__(self, scheme: str) -> None:
        """Take the scheme found, and say where to find the right URL."""
        way_out = (
            "That is the address of a website or an API, such as SUPABASE_URL. Providers show the "
            "right one as the connection string; Supabase, in its dashboard under Connect"
            if scheme.lower() in {"http", "https"}
            else "Leave out the name of a driver"
            if "+" in scheme or scheme.lower().startswith("jdbc:")
            else "Name a PostgreSQL database"
        )
        super().__init__(
            f"the database URL (MESHHOOK_DATABASE_URL) starts with {scheme}:// and must start with "
            f"postgresql://, as in postgresql://user:password@host:port/database. {way_out}"
        )
        self.scheme = scheme


class PortUnavailableError(MeshHookError, OSError):
    """The port for metrics and health cannot be opened."""

    def __init__(self, address: str, port: int, reason: str) -> None:
        """Name the address, the port, and what the system says."""
        super().__init__(
            f"metrics port {port} on {shown(str(address), limit=100)}: "
            f"{shown_sentence(reason, limit=200)}; choose another, or 0 for a free one "
            "(--metrics-port, MESHHOOK_METRICS_PORT; the address: MESHHOOK_METRICS_ADDRESS)"
        )
        self.address = address
        self.port = port


class InvalidHandlerError(MeshHookError, ValueError):
    """A handler that cannot be imported or called as one."""


class QueueNotFoundError(MeshHookError, LookupError):
    """A queue that does not exist, or is not managed by MeshHook yet."""

    def __init__(self, queue: str) -> None:
        """Name the queue and the command that creates it."""
        super().__init__(
            f"queue {quoted(queue)} does not exist in this database; create it (or adopt an "
            f"existing PGMQ queue): meshhook queue create {shown(str(queue), limit=100)}"
        )
        self.queue = queue


class DuplicateJobError(MeshHookError):
    """A job whose unique key another job has. Nothing was stored."""

    def __init__(self, queue: str, msg_id: int, unique_key: str) -> None:
        """Name the queue, the job that has the key, and the key."""
        super().__init__(
            f"job {msg_id} of queue {quoted(queue)} has the unique key {quoted(unique_key)}; "
            "with on_conflict existing, its id is returned instead"
        )
        self.queue = queue
        self.msg_id = msg_id
        self.unique_key = unique_key


class JobNotFoundError(MeshHookError, LookupError):
    """A job that left neither a message nor an attempt in the history."""


class WaitTimeoutError(MeshHookError, TimeoutError):
    """A job that was waited for and had no final outcome in time; it goes on."""

    def __init__(self, queue: str, msg_id: int, seconds: float) -> None:
        """Name the job, and how long it was waited for."""
        super().__init__(
            f"job {msg_id} of queue {queue!r} had no final outcome within {seconds:g} seconds; "
            f"it goes on: meshhook jobs show {queue} {msg_id}"
        )
        self.queue = queue
        self.msg_id = msg_id


class GroupNotFoundError(MeshHookError, LookupError):
    """A group of jobs that does not exist, or whose queue no longer keeps it."""

    def __init__(self, queue: str, name: str) -> None:
        """Name the queue and the group."""
        super().__init__(
            f"queue {quoted(queue)} has no group {quoted(name)}. It was never made, or it finished "
            f"more than history_retention_days ago: meshhook groups list --queue {queue}"
        )
        self.queue = queue
        self.name = name


class ScheduleNotFoundError(MeshHookError, LookupError):
    """A schedule that does not exist."""

    def __init__(self, queue: str, name: str) -> None:
        """Name the queue and the schedule."""
        super().__init__(
            f"queue {quoted(queue)} has no schedule {quoted(name)}; those that there are: "
            f"meshhook schedule list --queue {queue}"
        )
        self.queue = queue
        self.name = name


class GroupExistsError(InvalidJobError):
    """A group of jobs whose name the queue has already. Nothing was sent."""

    def __init__(self, queue: str, name: str) -> None:
        """Name the queue and the group."""
        super().__init__(
            f"queue {quoted(queue)} has a group {quoted(name)} already; give each group a name of "
            f"its own, or none. Its state: meshhook groups show {queue} {shown(name, limit=100)}"
        )
        self.queue = queue
        self.name = name


class DeadLetterNotFoundError(MeshHookError, LookupError):
    """A dead letter that does not exist, or that someone else has just replayed or deleted."""

    def __init__(self, queue: str, dead_letter_id: int) -> None:
        """Name the queue and the dead letter."""
        super().__init__(
            f"queue {queue!r} has no dead letter {quoted(dead_letter_id)}; "
            "it may have been replayed or deleted meanwhile: meshhook dlq list " + queue
        )
        self.queue = queue
        self.dead_letter_id = dead_letter_id


class LeaseLostError(MeshHookError):
    """The lease of a job ran out, or was taken over, before its outcome was recorded."""

    def __init__(self, queue: str, msg_id: int, attempt: int) -> None:
        """Name the job and the attempt whose lease is gone."""
        super().__init__(
            f"the lease of job {msg_id} in queue {queue!r}, attempt {attempt}, is lost: "
            "nothing was changed, and another worker may run the job"
        )
        self.queue = queue
        self.msg_id = msg_id
        self.attempt = attempt


class WorkerFailedError(MeshHookError):
    """A worker that stopped because a part of it failed."""


class DatabaseError(MeshHookError):
    """The database refused a statement or could not be used."""


class DatabaseUnavailableError(DatabaseError, ConnectionError):
    """The database cannot be reached, or the connection broke before anything was sent."""


class UncertainCommitError(DatabaseUnavailableError):
    """The connection broke during a write, which may or may not have been committed.

    The write is not retried automatically, since that could store a job twice.
    """


class DatabaseReadOnlyError(DatabaseError):
    """The database accepts no writes: it is a replica, or the session is read-only."""


class DatabaseLockedError(DatabaseError):
    """A statement waited too long for a lock held by another session. Nothing was changed."""


class QueueBusyError(DatabaseLockedError):
    """Other sessions held locks on the queue's tables for too long. Nothing was changed."""

    def __init__(self, queue: str, holders: Sequence[str]) -> None:
        """Take the queue and a description of each session that held its tables."""
        who = "; ".join(holders) or "nobody holds them any more"
        super().__init__(
            f"queue {queue!r} was left as it is: others hold its tables ({who}). "
            "Let their transactions end, or end them with pg_terminate_backend, and try again"
        )
        self.queue = queue
        self.holders = tuple(holders)


class UnsuitableQueueError(DatabaseError):
    """A PGMQ queue that MeshHook refuses to adopt: it would lose, hide or reorder messages."""


class HiddenRowsError(DatabaseError):
    """A role from which row level security hides rows of a queue."""

    def __init__(self, role: str, tables: Sequence[str]) -> None:
        """Name the role and the tables."""
        super().__init__(
            f"row level security hides rows of {', '.join(tables)} from role {role!r}: jobs would "
            "wait for ever. Make it a worker of this queue (meshhook roles grant worker "
            "--name ROLE --queue QUEUE), or give it a policy that lets it see and change the "
            "queue's rows (create policy NAME on TABLE to ROLE using (true) with check (true))"
        )
        self.role = role
        self.tables = tuple(tables)


class DatabaseConflictError(DatabaseError):
    """A deadlock or serialization failure. Nothing was changed; the call may be repeated."""


class UnstorableTextError(DatabaseError, InvalidJobError):
    """A text with a character that the database's encoding cannot represent."""


class SchemaMissingError(DatabaseError):
    """The database's schema is older than this version needs, or newer than it knows."""


class MigrationError(DatabaseError):
    """A migration failed, or was edited after it had been applied."""


class UnsupportedPgmqError(DatabaseError):
    """PGMQ is missing and cannot be installed here, or is older than 1.5.0."""


class UrlRefusedError(MeshHookError, ValueError):
    """A URL that webhooks are not sent to, whatever its name resolves to."""

    def __init__(self, reason: str) -> None:
        """Take what is wrong with it."""
        super().__init__(f"the URL {reason}")
        self.reason = reason


class AddressRefusedError(MeshHookError, OSError):
    """A name all of whose addresses are such that webhooks are not sent there."""

    def __init__(self, host: str, reasons: str) -> None:
        """Take the name, and the reason for each address."""
        super().__init__(
            f"{shown(host, limit=100)} leads to an address that webhooks are not sent to: "
            f"{reasons}. If it is yours and meant, name its network in allowed_networks"
        )
        self.host = host


class DeliveryError(MeshHookError):
    """A webhook that was not delivered, for a reason that may pass; it is tried again."""


class ReceiverError(DeliveryError):
    """A receiver that answered with a status that may pass, such as 500."""

    def __init__(self, message: str, status: int) -> None:
        """Take what it answered, and the status."""
        super().__init__(message)
        self.status = status


class ReceiverTimeoutError(DeliveryError, TimeoutError):
    """A receiver that took too long to connect or to answer."""


class ReceiverUnreachableError(DeliveryError, ConnectionError):
    """A receiver whose name cannot be looked up, that cannot be connected to, or that hung up."""


class ReceiverTlsError(ReceiverUnreachableError):
    """A receiver whose certificate is not valid, or that does not speak TLS."""


class InvalidAnswerError(DeliveryError):
    """A receiver whose answer is not HTTP, or has more or longer headers than are read."""

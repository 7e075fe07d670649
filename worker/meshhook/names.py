"""The names that a queue may have: lower case, and short enough for `<name>_dlq` to fit PGMQ."""

from __future__ import annotations

import re

from meshhook.errors import InvalidQueueNameError

DEFAULT_QUEUE_NAME = "workflow_jobs"
"""The queue that is meant where none is named."""
DEAD_LETTER_SUFFIX = "_dlq"
MAX_PGMQ_NAME_LENGTH = 47
MAX_QUEUE_NAME_LENGTH = MAX_PGMQ_NAME_LENGTH - len(DEAD_LETTER_SUFFIX)

_PATTERN = re.compile(r"[a-z0-9][a-z0-9_-]*")


def validate_queue_name(name: str) -> str:
    """Return `name` if a queue may have it.

    A name is 1 to 43 characters of a-z, 0-9, `_` and `-`, starting with a letter or a digit.
    PGMQ takes 47 and folds upper case, so that `Foo` and `foo` would share one table; four
    characters are kept for the `_dlq` of the dead letter queue, and names that end in it are
    therefore taken.

    Raises:
        InvalidQueueNameError: naming the rule that is broken.
    """
    if not isinstance(name, str):
        raise InvalidQueueNameError(name, f"must be a string, not {type(name).__name__}")
    if not name:
        raise InvalidQueueNameError(name, "must not be empty")
    if len(name) > MAX_QUEUE_NAME_LENGTH:
        raise InvalidQueueNameError(
            name,
            f"has {len(name)} characters, at most {MAX_QUEUE_NAME_LENGTH} are allowed "
            f"({MAX_PGMQ_NAME_LENGTH} in PGMQ, less {DEAD_LETTER_SUFFIX!r} for the dead letters)",
        )
    if name != name.lower():
        raise InvalidQueueNameError(
            name, f"must be lower case, since PGMQ folds the case; use {name.lower()!r}"
        )
    if not _PATTERN.fullmatch(name):
        raise InvalidQueueNameError(
            name, "may hold only a-z, 0-9, '_' and '-', and must start with a letter or a digit"
        )
    if name.endswith(DEAD_LETTER_SUFFIX):
        raise InvalidQueueNameError(
            name,
            f"ends in {DEAD_LETTER_SUFFIX!r}, which is kept for dead letters; name the queue "
            f"itself: {name.removesuffix(DEAD_LETTER_SUFFIX)!r}",
        )
    return name


def dead_letter_queue_name(queue_name: str) -> str:
    """Return the name of the PGMQ queue that holds the dead letters of `queue_name`."""
    return queue_name + DEAD_LETTER_SUFFIX


def wake_channel(queue_name: str) -> str:
    """Return the notification channel on which waiting workers of `queue_name` are woken."""
    return f"meshhook_wake_{queue_name}"


CONFIG_CHANNEL = "meshhook_config"
"""The notification channel that names, as payload, a queue whose settings have changed."""

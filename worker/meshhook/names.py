"""The names of queues and workers.

A queue's name is lower case, and short enough for `<name>_dlq` to fit PGMQ's limit.
"""

from __future__ import annotations

import re
import socket

from meshhook.errors import InvalidQueueNameError, InvalidSettingError
from meshhook.escaping import quoted

DEFAULT_QUEUE_NAME = "workflow_jobs"
"""The queue that is used if none is named."""
DEAD_LETTER_SUFFIX = "_dlq"
MAX_PGMQ_NAME_LENGTH = 47
MAX_QUEUE_NAME_LENGTH = MAX_PGMQ_NAME_LENGTH - len(DEAD_LETTER_SUFFIX)

MAX_WORKER_NAME_LENGTH = 200
MAX_HOST_NAME_LENGTH = 100

KEY_HEADER = "x-pgmq-group"
"""PGMQ's own header for the group of a message, which is its key."""
MAX_KEY_LENGTH = 200
MAX_HOLD_REASON_LENGTH = 500

MAX_TOPIC_LENGTH = 255

_TOPIC = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_KEY_PATH = re.compile(r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63}){0,7}")
_PATTERN = re.compile(r"[a-z0-9][a-z0-9_-]*")
_SCHEDULE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


def validate_queue_name(name: str) -> str:
    """Return `name` if it is a valid queue name.

    A name is 1 to 43 characters of a-z, 0-9, `_` and `-`, starting with a letter or a digit.
    PGMQ allows 47 and folds upper case, so that `Foo` and `foo` would share one table. Four
    characters are reserved for the `_dlq` of the dead letter queue, so names that end in it are
    refused.

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
            name, f"must be lower case, since PGMQ folds the case; use {quoted(name.lower())}"
        )
    if not _PATTERN.fullmatch(name):
        raise InvalidQueueNameError(
            name, "may hold only a-z, 0-9, '_' and '-', and must start with a letter or a digit"
        )
    if name.endswith(DEAD_LETTER_SUFFIX):
        raise InvalidQueueNameError(
            name,
            f"ends in {DEAD_LETTER_SUFFIX!r}, which is kept for dead letters; name the queue "
            f"itself: {quoted(name.removesuffix(DEAD_LETTER_SUFFIX))}",
        )
    return name


def validate_topic(topic: str) -> str:
    """Return `topic` if it is one: names of a-z, A-Z, 0-9, `_` and `-` with dots between them.

    Raises:
        InvalidSettingError: naming the rule and the value.
    """
    if not isinstance(topic, str) or not 1 <= len(topic) <= MAX_TOPIC_LENGTH:
        raise InvalidSettingError(
            f"a topic is text of 1 to {MAX_TOPIC_LENGTH} characters, got {quoted(topic)}"
        )
    if not _TOPIC.fullmatch(topic):
        raise InvalidSettingError(
            "a topic is names of a-z, A-Z, 0-9, _ and -, with single dots between them, got "
            f"{quoted(topic)}"
        )
    return topic


def validate_worker_name(name: str) -> str:
    """Return `name` if it is a valid worker name: 1 to 200 printable characters.

    Raises:
        InvalidSettingError: naming the rule that is broken.
    """
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_WORKER_NAME_LENGTH:
        what = f"{len(name)} characters" if isinstance(name, str) else quoted(name)
        raise InvalidSettingError(
            f"a worker's name is text of 1 to {MAX_WORKER_NAME_LENGTH} characters, got {what}"
        )
    odd = next((character for character in name if not character.isprintable()), None)
    if odd is not None:
        raise InvalidSettingError(
            f"a worker's name holds only what can be shown, got {quoted(name)}, with {quoted(odd)}"
        )
    return name


def validate_schedule_name(name: str) -> str:
    """Return `name` if it is a valid name of a schedule.

    A name is 1 to 100 characters of a-z, A-Z, 0-9, `_`, `.` and `-`, of which the first is a letter
    or digit.

    Raises:
        InvalidSettingError: naming the rule that is broken.
    """
    if not isinstance(name, str) or not _SCHEDULE_NAME.fullmatch(name):
        raise InvalidSettingError(
            "the name of a schedule is 1 to 100 characters of a-z, A-Z, 0-9, _, . and -, and "
            f"starts with a letter or digit, got {quoted(name)}"
        )
    return name


def validate_key_path(path: str) -> str:
    """Return `path` if it can name the place of a key in the body, such as `payload.customer`.

    A path is 1 to 8 names, separated by dots, each of 1 to 63 characters of a-z, A-Z, 0-9, `_`
    and `-`.

    Raises:
        InvalidSettingError: naming the rule that is broken.
    """
    if not isinstance(path, str) or not _KEY_PATH.fullmatch(path):
        raise InvalidSettingError(
            "key_path is 1 to 8 names of a-z, A-Z, 0-9, _ and -, separated by dots, such as "
            f"payload.customer, got {quoted(path)}"
        )
    return path


def host_name() -> str:
    """Return this machine's name, at most 100 characters, with ? for bytes that are not text."""
    # The system may have any bytes in it.
    name = socket.gethostname()[:MAX_HOST_NAME_LENGTH]
    return "".join(each if each.isprintable() else "?" for each in name) or "?"


def dead_letter_queue_name(queue_name: str) -> str:
    """Return the name of the PGMQ queue that holds the dead letters of `queue_name`."""
    return queue_name + DEAD_LETTER_SUFFIX


def wake_channel(queue_name: str) -> str:
    """Return the notification channel on which waiting workers of `queue_name` are woken."""
    return f"meshhook_wake_{queue_name}"


CANCELLATIONS_CHANNEL = "meshhook_cancellations"
"""The notification channel that names, as payload, a queue of which a running job is to be
cancelled."""
CONFIG_CHANNEL = "meshhook_config"
"""The notification channel that names, as payload, a queue whose settings have changed."""

"""Every public function, given anything: it works, or says which argument is wrong.

What is public comes from `meshhook.__all__`: a new name fails the first test until it is listed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

import meshhook
from meshhook import (
    App,
    Cancel,
    Database,
    DeadLetter,
    DLQService,
    Done,
    InvalidSettingError,
    Job,
    JobHandler,
    KeyRing,
    MeshHookError,
    MonitoringServer,
    QueueConfig,
    QueueExporter,
    QueueService,
    RetryAfter,
    RetryStrategy,
    Snooze,
    SyncQueueService,
    Worker,
    WorkflowJob,
)
from meshhook.job_choice import JobChoiceOptions
from meshhook.job_replays import ReplayOptions
from meshhook.queue_config import SETTING_NAMES
from support.claimed_jobs import claimed_job
from support.fuzzing import examples
from support.hostile import ANYTHING, TEXTS, is_safe_line, of_odd

URL = "postgresql://nobody@127.0.0.1:1/none"

RECORDS = {
    "AuditEntry",
    "BreakerState",
    "Cancellation",
    "ChangeResult",
    "HoldMaker",
    "JobChange",
    "JobChanges",
    "Check",
    "DeadLetterJob",
    "DlqMetrics",
    "EnqueuedId",
    "FinishedGroup",
    "JobEnd",
    "JobGroup",
    "ErrorGroup",
    "FailedAttempt",
    "FailedJob",
    "QueueConfig",
    "Priority",
    "PriorityStatistics",
    "KeyState",
    "KeyUse",
    "Rotation",
    "LiveWorker",
    "QueueScaling",
    "DueTime",
    "QueueSnapshot",
    "RetryInfo",
    "Schedule",
    "ScheduleFiring",
    "TopicBinding",
    "WorkerStats",
}
"""What the library returns: data, which callers read and do not make."""
OF_OTHERS = {
    "Job",
    "JobFilter",
    "QueueHandler",
    "UnusableResultError",
    "add_job_fields",
    "get_current_job",
}
"""What `logging` and structlog call, what takes nothing, and what the library makes."""

RUNNING = {"Database", "KeyRing", "MonitoringServer", "QueueExporter", "Worker"}
"""Of these only what is in the table below: the rest starts, stops and lends connections."""


def _handle(job: Job[Any]) -> None:
    """Do nothing."""


def _act(actor: Any, source: Any = "library") -> None:
    """Act as somebody, for no time."""
    with meshhook.acting_as(actor, source=source):
        pass


KEYWORDS = {
    f"Unpack[{each.__name__}]": tuple(each.__annotations__)
    for each in (JobChoiceOptions, ReplayOptions)
}
"""The names that keywords may have which are annotated so."""


@dataclass(frozen=True)
class Call:
    """A function and arguments with which it works."""

    function: Callable[..., Any]
    arguments: dict[str, Any] = field(default_factory=dict)
    others: frozenset[str] = frozenset()
    """Parameters for whose values the caller alone answers."""

    @property
    def parameters(self) -> list[str]:
        """The names of those that may be anything, those of typed keywords included."""
        names = []
        for name, each in inspect.signature(self.function).parameters.items():
            if each.kind is not each.VAR_KEYWORD:
                names.append(name)
            else:
                names += KEYWORDS.get(each.annotation, ())
        return [name for name in names if name not in self.others]


def _calls(database: Database, url: str) -> dict[str, Call]:
    """Return every public function and method, by name."""
    queue = QueueService[Any](database, "jobs")
    dead = DLQService(database, "jobs")
    retries = RetryStrategy()
    blocking = SyncQueueService[Any](url, "jobs")
    worker = Worker(URL, "jobs", _handle)
    app = App(database)
    app.job("jobs")(_handle)
    now = datetime.now(UTC)
    config = QueueConfig(queue="jobs", created_at=now, updated_at=now)
    registry = frozenset({"registry", "tracer_provider", "health"})
    calls = {
        "App": Call(App, {"database": URL}, registry),
        "Cancel": Call(Cancel),
        "DLQService": Call(DLQService, {"source": database}),
        "Database": Call(Database, {"source": database}),
        "Database.of": Call(Database.of, {"source": database}),
        "Database.of_caller": Call(Database.of_caller, {"connection": database}),
        "Database.connect": Call(Database.connect, {"url": URL}),
        "DeadLetter": Call(DeadLetter, {"message": "no"}),
        "JobHandler": Call(JobHandler, {"function": _handle}),
        "count_key_uses": Call(meshhook.count_key_uses, {"database": database, "queue": "jobs"}),
        "rotate_encryption": Call(
            meshhook.rotate_encryption,
            {
                "database": database,
                "queue": "jobs",
                "encryption": KeyRing({"k1": bytes(32)}),
            },
            frozenset({"on_progress"}),
        ),
        "KeyRing": Call(KeyRing, {"keys": {"k1": bytes(32)}}),
        "MonitoringServer": Call(MonitoringServer, {}, registry),
        "QueueConfig.retry_strategy": Call(
            config.retry_strategy, {}, frozenset({"random_fraction"})
        ),
        "QueueExporter": Call(QueueExporter, {"database": database}, registry),
        "QueueService": Call(QueueService, {"source": database}, registry),
        "RetryPolicy": Call(meshhook.RetryPolicy),
        "RetryAfter": Call(RetryAfter, {"delay": 1}),
        "RetryStrategy": Call(RetryStrategy, {}, frozenset({"random_fraction"})),
        "Snooze": Call(Snooze, {"delay": 1}),
        "SyncQueueService": Call(SyncQueueService, {"source": URL}, registry),
        "Worker": Call(
            Worker, {"database_url": URL, "queues": "jobs", "handler": _handle}, registry
        ),
        "Worker.get_stats": Call(worker.get_stats),
        "WorkflowJob": Call(WorkflowJob, {"run_id": "r", "workflow_id": "w", "project_id": "p"}),
        "create_job_handler": Call(meshhook.create_job_handler, {"function": _handle}),
        "create_queue": Call(meshhook.create_queue, {"database": database, "queue": "jobs"}),
        "drop_queue": Call(meshhook.drop_queue, {"database": database, "queue": "none"}),
        "get_queue_config": Call(
            meshhook.get_queue_config, {"database": database, "queue": "jobs"}
        ),
        "get_priority_statistics": Call(
            meshhook.get_priority_statistics, {"database": database, "queue": "jobs"}
        ),
        "get_queue_snapshot": Call(
            meshhook.get_queue_snapshot, {"database": database, "queue": "jobs"}
        ),
        "Done": Call(Done, {}, frozenset({"reasons"})),
        "FollowUp": Call(meshhook.FollowUp, {"queue": "jobs"}),
        "get_group": Call(meshhook.get_group, {"database": database, "queue": "jobs", "name": "a"}),
        **{
            name: Call(
                getattr(meshhook, name), {"database": database, "queue": "jobs", "name": "a"}
            )
            for name in (
                "get_schedule",
                "pause_schedule",
                "resume_schedule",
                "run_schedule",
                "list_schedule_firings",
                "delete_schedule",
            )
        },
        "add_schedule": Call(
            meshhook.add_schedule,
            {"database": database, "queue": "jobs", "name": "a", "cron": "0 9 * * *"},
        ),
        "list_audit_entries": Call(meshhook.list_audit_entries, {"database": database}),
        "acting_as": Call(_act, {"actor": "anna"}),
        "list_schedules": Call(meshhook.list_schedules, {"database": database}),
        "list_groups": Call(meshhook.list_groups, {"database": database}),
        "repair_group": Call(
            meshhook.repair_group, {"database": database, "queue": "jobs", "name": "a"}
        ),
        "get_key": Call(meshhook.get_key, {"database": database, "queue": "jobs", "key": "a"}),
        "hold_key": Call(meshhook.hold_key, {"database": database, "queue": "jobs", "key": "a"}),
        "list_keys": Call(meshhook.list_keys, {"database": database, "queue": "jobs"}),
        "bind_topic": Call(
            meshhook.bind_topic, {"database": database, "queue": "jobs", "pattern": "a"}
        ),
        "unbind_topic": Call(
            meshhook.unbind_topic, {"database": database, "queue": "jobs", "pattern": "a"}
        ),
        "list_topic_bindings": Call(meshhook.list_topic_bindings, {"database": database}),
        "list_queues": Call(meshhook.list_queues, {"database": database}),
        "list_queue_scaling": Call(meshhook.list_queue_scaling, {"database": database}),
        "list_workers": Call(meshhook.list_workers, {"database": database}),
        "migrate": Call(meshhook.migrate, {"connection": database}, frozenset({"migrations"})),
        "resume_key": Call(
            meshhook.resume_key, {"database": database, "queue": "jobs", "key": "a"}
        ),
        "set_key": Call(meshhook.set_key, {"database": database, "queue": "jobs", "key": "a"}),
        "set_queue_config": Call(
            meshhook.set_queue_config, {"database": database, "queue": "jobs"}
        ),
    }
    for service in (app, queue, dead, retries, blocking):
        for name in _methods(type(service)):
            method = getattr(service, name)
            needed: dict[str, Any] = {
                "queue": "other" if name == "job" else "jobs",
                "of_queue": "followed",
                "payload": {"a": 1},
                "payloads": [{"a": 1}],
                "job": {"a": 1} if name in {"enqueue", "publish"} else claimed_job(),
                "topic": "shop.a",
                "jobs": [{"a": 1}] if name == "enqueue_many" else [claimed_job()],
                "error_message": "no",
                "dead_letter_id": 1,
                "dead_letter_ids": [1],
                "attempt": 1,
                "msg_ids": [1],
                "msg_id": 1,
                "timeout_seconds": 0.01,
                "database": database,
                "queues": ["jobs"],
                **({"priority": "low"} if name == "set_priority" else {}),
            }
            wanted = inspect.signature(method).parameters
            arguments = {key: value for key, value in needed.items() if key in wanted}
            calls[f"{type(service).__name__}.{name}"] = Call(method, arguments)
    return calls


def _methods(kind: type) -> Iterator[str]:
    for name, each in inspect.getmembers(kind, callable):
        module = getattr(each, "__module__", "") or ""
        if not name.startswith("_") and module.startswith("meshhook.") and each.__code__:
            yield name


def _names() -> list[str]:
    """Return the names of all that is public and may be called."""
    names: list[str] = []
    for name in meshhook.__all__:
        found = getattr(meshhook, name)
        is_class = isinstance(found, type)
        if name in RECORDS | OF_OTHERS or (is_class and issubclass(found, MeshHookError)):
            continue
        names.append(name)
        if is_class and name not in RUNNING:
            names += [f"{name}.{method}" for method in _methods(found)]
    return names


@pytest.fixture
def call(database: Database, shared_url: str, name: str) -> Call:
    """The call of the test."""
    return _calls(database, shared_url)[name]


async def _called(call: Call, arguments: dict[str, Any]) -> Any:
    result = call.function(**arguments)
    return await result if inspect.isawaitable(result) else result


@examples(60)
@given(setting=st.sampled_from(SETTING_NAMES), value=ANYTHING)
def test_any_value_of_a_setting_works_or_is_named(setting, value, database, run):
    """What is taken is read back the same; else the message names the setting."""
    value = of_odd(value)
    try:
        config = run(meshhook.set_queue_config(database, "jobs", **{setting: value}))
    except InvalidSettingError as error:
        text = str(error)
        assert setting in text or "retry_backoff_" in text
        assert len(text) < 3_000
        assert is_safe_line(text)
    else:
        assert config == run(meshhook.get_queue_config(database, "jobs"))


@examples(60)
@given(changes=st.dictionaries(TEXTS, ANYTHING, max_size=2))
def test_a_setting_that_there_is_not_is_named(changes, database, run):
    """Whatever it is called."""
    changes = {name: of_odd(value) for name, value in changes.items()}
    assume(not {*changes} & {"database", "queue"})
    if not changes:
        return
    with pytest.raises(InvalidSettingError) as caught:
        run(meshhook.set_queue_config(database, "jobs", **changes))
    assert len(str(caught.value)) < 3_000
    assert is_safe_line(str(caught.value))


@pytest.mark.parametrize("name", _names())
@examples(25)
@given(data=st.data())
def test_any_argument_works_or_is_named(data, call, run, name):
    """One or two arguments are anything: no other error comes out, and none is long or acts."""
    if not call.parameters:
        return
    changed = data.draw(
        st.lists(st.sampled_from(call.parameters), min_size=1, max_size=2, unique=True),
        label="parameters",
    )
    arguments = call.arguments | {each: of_odd(data.draw(ANYTHING, label=each)) for each in changed}
    # A model of pydantic has the errors of any model.
    of_models = (ValidationError,) if name == "WorkflowJob" else ()
    try:
        run(_called(call, arguments))
    except of_models:
        pass
    except MeshHookError as error:
        text = str(error)
        assert text
        assert len(text) < 3_000, f"{len(text)} characters"
        assert all(is_safe_line(line) for line in text.split("\n")), ascii(text)

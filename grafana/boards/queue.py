"""One queue: its backlog, its times, its errors, its dead letters."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from grafana import links, variables
from grafana.layout import Section, lay_out
from grafana.panels import PER_SECOND, Column, Levels, Panel, figure, graph, rows
from grafana.queries import (
    ENDED,
    FINAL,
    SELECTED,
    Query,
    enqueued,
    error_share,
    firing,
    gauge,
    quantile,
    quantiles,
    rate,
    total,
)

_ATTEMPTS = "meshhook_worker_messages_total"
_WAIT = "meshhook_worker_message_wait_seconds"
_LAG = Levels(60, 300)
_STATES = {
    "ready": "blue",
    "scheduled": "purple",
    "running": "green",
    "retrying": "orange",
    "lost": "red",
}
_OUTCOMES = {
    "succeeded": "green",
    "retried": "orange",
    "dead_lettered": "red",
    "lost": "dark-red",
    "snoozed": "purple",
    "released": "light-blue",
    "cancelled": "gray",
    "archived": "dark-green",
    "expired": "brown",
}
_FIRINGS = {"enqueued": "green", "overlapped": "blue", "missed": "orange", "failed": "red"}
_TIME = "dateTimeFromNow"
_PRIORITIES = {"urgent": "red", "high": "orange", "normal": "green", "low": "blue"}
_KEPT_BACK = {"hold": "red", "key_limit": "orange", "order": "blue", "queue_limit": "yellow"}


def build() -> Dashboard:
    """Return the dashboard."""
    return lay_out(
        uid=links.QUEUE,
        title="MeshHook / Queue",
        description=(
            "One queue: its backlog, how long jobs take, what fails, and what becomes of failed "
            "jobs."
        ),
        variables=[
            variables.datasource(),
            variables.namespace("meshhook_queue_messages"),
            variables.one("queue", "Queue", "meshhook_queue_messages", "The queue to show."),
        ],
        sections=[
            Section("What is wrong with $queue", _wrong(), height=4),
            Section("Alerts", [_alerts()], height=5),
            Section("Backlog", _backlog()),
            Section("Times", _times()),
            Section("Outcomes", _outcomes()),
            Section("Keys (keyed queues only)", _keys(), per_line=3),
            Section("Priorities (queues with priorities only)", _priorities(), per_line=3),
            Section("Schedules (queues with schedules only)", _schedules()),
            Section("Dead letters and capacity", _capacity()),
        ],
    )


def _wrong() -> list[Panel]:
    return [
        figure(
            "Lag",
            "How long the oldest ready message has been waiting. MeshHookQueueLagHigh fires at 300 "
            "s.",
            f"max({gauge('meshhook_queue_oldest_ready_seconds')})",
            unit="s",
            levels=_LAG,
        ),
        figure(
            "Ready",
            "Messages that can be claimed now. The count stops at 10,000; beyond that, look at the "
            "lag and the rates.",
            total("meshhook_queue_messages", 'state="ready"'),
        ),
        figure(
            "Lost",
            "Messages whose lease ran out without an outcome: their worker died or lost the "
            "database. The next claim takes them.",
            total("meshhook_queue_messages", 'state="lost"'),
            levels=Levels(1, 100),
        ),
        figure(
            "Failing attempts",
            "Share of attempts that failed. MeshHookErrorRateHigh fires at 20%.",
            error_share(),
            unit="percentunit",
            levels=Levels(0.05, 0.2),
            no_value="idle",
        ),
        figure(
            "Started late",
            "Share of attempts that started more than 60 s after they were ready. The objective is "
            "at most 1%; MeshHookSLOBurnFast and MeshHookSLOBurnSlow watch it.",
            _late(),
            unit="percentunit",
            levels=Levels(0.01, 0.144),
            no_value="idle",
        ),
        figure(
            "Dead letters",
            "Jobs that failed for good: `meshhook dlq errors` groups them by error.",
            total("meshhook_queue_dlq_messages"),
            levels=Levels(1),
        ),
        figure(
            "Workers",
            "Worker processes that reported in the last 30 s.",
            total("meshhook_queue_workers"),
            levels=Levels(1, falling=True),
        ),
        figure(
            "Claims",
            "Whether workers can claim from this queue. `meshhook queue resume` ends a pause.",
            f"max({gauge('meshhook_queue_paused')})",
            levels=Levels(1),
            texts={"0": "allowed", "1": "paused"},
        ),
    ]


def _late() -> str:
    # The text of a bound depends on the format that was scraped: 60 or 60.0.
    in_time = rate(f"{_WAIT}_bucket", 'le=~"60(\\\\.0)?"')
    return f"1 - {in_time} / ({rate(f'{_WAIT}_count')} > 0)"


def _alerts() -> Panel:
    here = firing('queue=~"$queue|"')
    return rows(
        "Alerts firing now",
        "Alerts of this queue, and those that concern every queue. Click a name to open its "
        "runbook.",
        [Column("alertname", link=links.to_runbook()), Column("severity"), Column("queue")],
        [Column("firing", f"max by (alertname, severity, queue) ({here})")],
    )


def _backlog() -> list[Panel]:
    return [
        graph(
            "Messages by state",
            "ready: can be claimed. scheduled: due later. running: leased. retrying: failed, "
            "waiting for the next attempt. lost: the lease ran out. Counts stop at 10,000.",
            [Query(gauge("meshhook_queue_messages", by="state"), "{{state}}")],
            stacked=True,
            colors=_STATES,
        ),
        graph(
            "Lag over time",
            "How long the oldest ready message has been waiting. A straight line at 45 degrees "
            "means that nothing is being claimed.",
            [Query(f"max({gauge('meshhook_queue_oldest_ready_seconds')})", "oldest ready")],
            unit="s",
            levels=_LAG,
        ),
        graph(
            "In and out",
            "Enqueued: all messages, from any client. By our producers: those sent with this "
            "library. Finished: jobs that reached a final outcome.",
            [
                Query(f"sum({enqueued()})", "enqueued"),
                Query(rate("meshhook_producer_messages_total"), "by our producers"),
                Query(rate(_ATTEMPTS, FINAL), "finished"),
            ],
            unit=PER_SECOND,
        ),
        graph(
            "Counts that stopped at 10,000",
            "1 while a state has more messages than are counted. Rely on the lag and the rates "
            "then.",
            [Query(f"max({gauge('meshhook_queue_messages_capped')})", "more than counted")],
            maximum=1,
        ),
    ]


def _times() -> list[Panel]:
    return [
        graph(
            "Wait: ready to start",
            "Time spent in the queue. Grows if workers are too few or too slow. Dots are traces.",
            quantiles(_WAIT),
            unit="s",
            levels=Levels(60),
        ),
        graph(
            "Run: start to end of an attempt",
            "Time spent in the handler. Dots are traces.",
            quantiles("meshhook_worker_message_duration_seconds"),
            unit="s",
        ),
        graph(
            "Total: enqueue to final outcome",
            "What the producer experiences, including retries and delays. Dots are traces.",
            quantiles("meshhook_worker_message_age_seconds"),
            unit="s",
        ),
    ]


def _outcomes() -> list[Panel]:
    return [
        graph(
            "Attempts by outcome",
            "Attempts per second, by outcome. Released: given back unused by a worker that is "
            "stopping.",
            [Query(rate(_ATTEMPTS, by="outcome"), "{{outcome}}")],
            unit=PER_SECOND,
            stacked=True,
            colors=_OUTCOMES,
        ),
        graph(
            "Attempts a job",
            "Attempts per finished job. 1 means that nothing is retried.",
            [Query(f"{rate(_ATTEMPTS, ENDED)} / ({rate(_ATTEMPTS, FINAL)} > 0)", "attempts")],
        ),
        graph(
            "Errors by type",
            "The ten most frequent error types. _OTHER stands for all types after the first twenty "
            "that a worker has seen.",
            [
                Query(
                    f"topk(10, {rate('meshhook_worker_errors_total', by='error_type')})",
                    "{{error_type}}",
                )
            ],
            unit=PER_SECOND,
            stacked=True,
        ),
    ]


def _keys() -> list[Panel]:
    return [
        graph(
            "Longest-waiting key",
            "How long the oldest message has been ready of keys of which no job runs, although no "
            "hold and no limit is in the way. MeshHookKeyWaiting fires at 300 s. `meshhook keys "
            "list` shows the keys.",
            [Query(f"max({gauge('meshhook_queue_longest_key_wait_seconds')})", "longest wait")],
            unit="s",
            levels=Levels(60, 300),
        ),
        graph(
            "Kept back",
            "Messages that are due but may not start: their key is held or its breaker is open, a "
            "limit of the key or of the queue is reached, or jobs of their ordered key are before "
            "them. Counts stop at 1,000.",
            [Query(gauge("meshhook_queue_kept_back", by="reason"), "{{reason}}")],
            stacked=True,
            colors=_KEPT_BACK,
        ),
        graph(
            "Keys with messages",
            "How many keys have messages. The count stops at 1,000.",
            [Query(f"max({gauge('meshhook_queue_keys')})", "keys")],
        ),
        graph(
            "Held and blocked keys, open breakers",
            "Keys that are held by hand, by a handler or by a dead letter; ordered keys whose "
            "first job is retried, snoozed or delayed while others are due; and keys whose "
            "circuit breaker is open or half-open.",
            [
                Query(f"max({gauge('meshhook_queue_keys_held')})", "held"),
                Query(f"max({gauge('meshhook_queue_keys_blocked')})", "blocked"),
                Query(f"max({gauge('meshhook_queue_breakers_open')})", "breakers open"),
            ],
        ),
        graph(
            "Held, blocked or open for",
            "How long the oldest message of a held key has waited, and of an ordered key behind a "
            "job that is retried, snoozed or delayed; and for how long the breaker has been open "
            "that opened first. MeshHookHeldJobsOld fires after a day, MeshHookBreakerOpen after "
            "30 minutes.",
            [
                Query(f"max({gauge('meshhook_queue_oldest_held_seconds')})", "held message"),
                Query(f"max({gauge('meshhook_queue_oldest_blocked_seconds')})", "blocked message"),
                Query(f"max({gauge('meshhook_queue_oldest_open_breaker_seconds')})", "breaker"),
            ],
            unit="s",
        ),
        graph(
            "Limited claims and holds",
            "Claims that found messages due, none of which may start; and outcomes by which a "
            "handler held the key of its job.",
            [
                Query(rate("meshhook_worker_limited_claims_total"), "limited claims"),
                Query(rate("meshhook_worker_key_holds_total"), "holds by handlers"),
            ],
            unit=PER_SECOND,
        ),
    ]


def _priorities() -> list[Panel]:
    oldest = gauge("meshhook_queue_priority_oldest_ready_seconds", by="priority")
    target = gauge("meshhook_queue_priority_target_seconds", by="priority")
    late = rate("meshhook_worker_priority_late_total", by="priority")
    started = rate("meshhook_worker_priority_wait_seconds_count", by="priority")
    return [
        graph(
            "Oldest job, as a share of its target",
            "How long the oldest job of each priority has been due, of the time within which it is "
            "to start. From 0.8 on it is aged and gets its part of the claims; above 1 it is late. "
            "MeshHookPriorityLate fires after five minutes.",
            [Query(f"{oldest} / {target}", "{{priority}}")],
            unit="percentunit",
            levels=Levels(0.8, 1),
        ),
        graph(
            "Due, by priority",
            "Jobs of each priority that can be claimed now. Counts stop at 10,000.",
            [
                Query(
                    gauge("meshhook_queue_priority_waiting_messages", by="priority"), "{{priority}}"
                )
            ],
            stacked=True,
            colors=_PRIORITIES,
        ),
        graph(
            "Started late, by priority",
            "Share of attempts that started after the target of their priority. "
            "MeshHookPriorityLate fires at 10%.",
            [Query(f"{late} / ({started} > 0)", "{{priority}}")],
            unit="percentunit",
            levels=Levels(0.01, 0.1),
        ),
        graph(
            "Oldest job, by priority",
            "How long the oldest job of each priority has been due; 0 if there is none.",
            [Query(oldest, "{{priority}}")],
            unit="s",
            colors=_PRIORITIES,
        ),
        graph(
            "Wait by priority, p99",
            "Time from ready to start, for all but one in a hundred jobs of each priority.",
            [
                Query(
                    quantile(0.99, "meshhook_worker_priority_wait_seconds", by="priority"),
                    "{{priority}}",
                )
            ],
            unit="s",
            colors=_PRIORITIES,
        ),
        graph(
            "Starts by priority",
            "Attempts that started, a second. While they are late, aged jobs get up to a quarter.",
            [Query(started, "{{priority}}")],
            unit=PER_SECOND,
            stacked=True,
            colors=_PRIORITIES,
        ),
    ]


def _schedules() -> list[Panel]:
    return [
        rows(
            "Schedules",
            "When each schedule is due next, when its last job was enqueued, and when one last "
            "succeeded: no time if the database role may not read the history. `meshhook schedule "
            "list` shows errors. The first 1,000 schedules of a database have figures.",
            [Column("schedule")],
            [
                Column("due next", _of_schedules("next_due_timestamp_seconds", 1_000), _TIME),
                Column("last job", _of_schedules("last_enqueued_timestamp_seconds", 1_000), _TIME),
                Column("success", _of_schedules("last_success_timestamp_seconds", 1_000), _TIME),
                Column("interval", _of_schedules("interval_seconds"), "s"),
                Column("late by", _of_schedules("late_seconds"), "s", Levels(60, 300)),
                Column(
                    "paused",
                    _of_schedules("paused"),
                    texts={"0": "no", "1": "paused"},
                    levels=Levels(1),
                ),
            ],
        ),
        graph(
            "Due times",
            "What became of due times: a job; none, since an earlier job was in the queue; missed "
            "while no worker ran; or they could not be fired.",
            [
                Query(
                    "sum by (outcome) (max by (namespace, queue, schedule, outcome) (rate("
                    f"meshhook_schedule_firings_total{{{SELECTED}}}[$__rate_interval])))",
                    "{{outcome}}",
                )
            ],
            unit=PER_SECOND,
            colors=_FIRINGS,
        ),
        graph(
            "Late, or without success",
            "Of the worst schedule: how long a due time has passed without its job, and how long "
            "ago the first job was enqueued since which none has succeeded. "
            "MeshHookScheduleMissed fires at 300 s late, or after an interval (at least 30 "
            "minutes, at most a day) without success.",
            [
                Query(f"max({gauge('meshhook_schedule_late_seconds')})", "late"),
                Query(f"max({gauge('meshhook_schedule_unsucceeded_seconds')})", "no success"),
            ],
            unit="s",
        ),
        graph(
            "Schedules without figures",
            "Schedules of all queues that are left out: the first 1,000 of a database have "
            "figures.",
            [Query('max(meshhook_schedule_left_out{namespace=~"$namespace"})', "left out")],
        ),
    ]


def _of_schedules(name: str, factor: int = 1) -> str:
    expr = gauge(f"meshhook_schedule_{name}", by="schedule")
    return f"{expr} * {factor}" if factor > 1 else expr


def _capacity() -> list[Panel]:
    return [
        graph(
            "Dead letters over time",
            "Number of dead letters.",
            [Query(total("meshhook_queue_dlq_messages"), "dead letters")],
        ),
        graph(
            "Oldest dead letter",
            "How long the oldest dead letter has been waiting for someone to replay or delete it. "
            "MeshHookDeadLettersOld fires after three days.",
            [Query(f"max({gauge('meshhook_queue_dlq_oldest_seconds')})", "oldest")],
            unit="s",
            levels=Levels(259_200),
        ),
        graph(
            "Slots",
            "Leased messages, compared with how many jobs all workers can run at once.",
            [
                Query(total("meshhook_queue_messages", 'state="running"'), "leased"),
                Query(total("meshhook_queue_worker_slots"), "slots"),
            ],
        ),
        graph(
            "Workers over time",
            "Worker processes that reported in the last 30 s.",
            [Query(total("meshhook_queue_workers"), "workers")],
        ),
    ]

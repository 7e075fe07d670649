"""Every panel's query and every alert's expression, asked of a real Prometheus.

It scrapes real workers, a producer and the exporter while jobs are retried, become dead letters and
lose their leases, and until the queues are drained. Only the operator is a stand-in.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from meshhook import add_schedule
from support import promql
from support.dashboard_files import PanelQuery, queries
from support.databases import Databases
from support.monitored_fleet import MonitoredFleet, hasty_rules, monitored_fleet
from support.monitored_producer import Flow
from support.rule_files import ALERTS, RECORDING, alert, rules
from support.waiting import eventually

pytestmark = [
    pytest.mark.timeout(900),  # the fleet runs until all queries have data
    pytest.mark.slow,  # whichever test comes first waits for it
]

VARIABLES = {
    "$__rate_interval": "15s",
    "$namespace": ".*",
    "$queue": ".*",
    "$instance": ".*",
    "$jobqueue": "shop/orders",
}
WITHOUT_DATA = {"worker/Messages a claim/C": "no handler of this fleet takes batches"}
"""Queries of panels that give nothing here, by their place, each with the reason."""
EXPRESSIONS_WITHOUT_DATA: dict[str, str] = {}
"""The same of alerts, by their name."""
ENDED = {"reports-1", "mails-1"}
"""The workers that are killed or stopped."""
TROUBLE = {"MeshHookLeasesLost", "MeshHookDeadLettersRising", "MeshHookErrorRateHigh"}
"""The alerts for what happened to the fleet."""

FLOWS = [
    Flow("orders", [(20, 25, 0.3)], 0.1, ["TimeoutError", "CarrierUnavailableError"], 0.02, 0.05),
    Flow("mails", [(20, 30, 0.02)], 0.005),
    Flow("reports", [(15, 10, 0)], 1.5),
]


@dataclass(frozen=True)
class Answers:
    """What Prometheus said to each query, and what else is worth a look."""

    panels: dict[str, list[dict[str, Any]]]
    alerts: dict[str, list[list[dict[str, Any]]]]
    recorded: dict[str, list[dict[str, Any]]]
    firing: set[str]
    down: set[str]
    history: dict[str, int]


@pytest.fixture(scope="module")
def answers(
    databases: Databases,
    template_of_day: Callable[[date], str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Answers]:
    """What Prometheus says after a run of the fleet in which everything happened."""
    url = databases.create(template=template_of_day(datetime.now(UTC).date()))
    yield asyncio.run(_run(url, tmp_path_factory.mktemp("fleet")))
    databases.drop(url)


def test_every_panel_has_data(answers):
    """Every query of every panel gives data, except those on the list."""
    empty = {name for name, series in answers.panels.items() if not series}

    assert empty <= set(WITHOUT_DATA), answers.history
    assert set(WITHOUT_DATA) <= set(answers.panels)


def test_every_alert_looks_at_data(answers):
    """What each alert compares with its threshold exists, with labels that match each other."""
    empty = {name for name, found in answers.alerts.items() if not all(found)}

    assert empty <= set(EXPRESSIONS_WITHOUT_DATA), answers.history
    assert set(EXPRESSIONS_WITHOUT_DATA) <= set(ALERTS)


def test_every_recording_rule_records(answers):
    """Each recording rule makes its series."""
    assert [name for name, series in answers.recorded.items() if not series] == []


def test_trouble_makes_alerts_fire(answers):
    """What happened to the fleet fires the alerts that are meant for it."""
    assert answers.firing >= TROUBLE


def test_only_the_workers_that_ended_are_down(answers):
    """Prometheus can read what every process exports that still runs."""
    assert answers.down == ENDED


def test_everything_happened(answers):
    """The workload did what it is for: retries, dead letters and lost leases, until all is done."""
    assert {"succeeded", "retried", "dead_lettered", "lost", "snoozed"} <= set(answers.history)


async def _run(url: str, folder: Path) -> Answers:
    async with monitored_fleet(url, folder, rules=hasty_rules(folder)) as fleet:
        await add_schedule(
            fleet.connection, "mails", "digest", every=timedelta(seconds=10), payload={"seconds": 0}
        )
        await asyncio.gather(
            fleet.start_worker("orders-1", "orders", 5),
            fleet.start_worker("mails-1", "mails", 2),
            fleet.start_worker("reports-1", "reports", 12),
            fleet.start_worker("reports-2", "reports", 1),
        )
        await fleet.start_producer(FLOWS)
        await eventually(
            lambda: _running(fleet, "reports", 12), 120, message="twelve reports are being made"
        )
        await fleet.start_worker("reports-3", "reports", 10)
        # It will count the lost leases; Prometheus sees no increase unless it sees the zero before.
        lost = 'meshhook_worker_messages_total{pod="reports-3", outcome="lost"}'
        await eventually(
            lambda: fleet.prometheus.query(lost), 120, message="the third worker is scraped"
        )
        # By now all reports may have been made; these keep every worker busy.
        await fleet.connection.execute(
            "select pgmq.send_batch('reports', array_fill($1::jsonb, array[46]))",
            '{"run_id": "more", "payload": {"seconds": 5}}',
        )
        await eventually(
            lambda: _running(fleet, "reports", 23), 120, message="each worker makes reports"
        )
        fleet.kill("reports-1")
        # It gives back what it has not begun, and goes.
        fleet.stop("mails-1")
        await fleet.start_worker("mails-2", "mails", 20)
        await eventually(fleet.is_drained, 400, message="the queues are drained")
        return await _ask(fleet)


async def _running(fleet: MonitoredFleet, queue: str, count: int) -> bool:
    return bool((await fleet.snapshot())[queue]["running"] >= count)


async def _ask(fleet: MonitoredFleet) -> Answers:
    """Ask all there is to ask, and what gave nothing again, at most for a minute."""
    ask = fleet.prometheus.query
    deadline = time.monotonic() + 180
    panels: dict[str, list[dict[str, Any]]] = {}
    alerts: dict[str, list[list[dict[str, Any]]]] = {}
    while True:
        for query in queries():
            if not panels.get(query.name):
                panels[query.name] = await _ask_panel(fleet, query)
        for stem in ALERTS:
            if not all(alerts.get(stem, [[]])):
                alerts[stem] = await _ask_alert(fleet, stem)
        missing = {name for name, series in panels.items() if not series} - set(WITHOUT_DATA)
        missing |= {n for n, found in alerts.items() if not all(found)} - set(
            EXPRESSIONS_WITHOUT_DATA
        )
        down = {each["metric"]["pod"] for each in await ask("max_over_time(up[20s]) == 0")}
        firing = {
            each["metric"]["alertname"]
            # Since the fleet started, however long it took it to be drained.
            for each in await ask('last_over_time(ALERTS{alertstate="firing"}[1h])')
        }
        is_all = not missing and down == ENDED and firing >= TROUBLE
        if is_all or time.monotonic() > deadline:
            break
        await asyncio.sleep(1)
    return Answers(
        panels,
        alerts,
        {rule["record"]: await ask(rule["record"]) for rule in rules(RECORDING)},
        firing,
        down,
        dict(
            await fleet.connection.fetch(
                "select outcome, count(*) from meshhook.job_attempts group by 1"
            )
        ),
    )


async def _ask_panel(fleet: MonitoredFleet, query: PanelQuery) -> list[dict[str, Any]]:
    expr = query.expr
    for variable, value in VARIABLES.items():
        expr = expr.replace(variable, value)
    if query.target["instant"]:
        return await fleet.prometheus.query(expr)
    return await fleet.prometheus.query_range(expr, fleet.started_at, time.time(), 1)


async def _ask_alert(fleet: MonitoredFleet, stem: str) -> list[list[dict[str, Any]]]:
    """Return what is on the left of each comparison of an alert, since the fleet started."""
    return [
        await fleet.prometheus.query_range(expr, fleet.started_at, time.time(), 1)
        for expr in promql.compared(promql.parse(alert(stem)["expr"]))
    ]

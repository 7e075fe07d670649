"""Panels about workers, asked of Prometheus where a worker has two queues: none counts twice."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from support.dashboard_files import queries
from support.prometheus_tools import tool

SERIES = {
    # Worker a has two queues and one limit of 50, and is stopping; worker b has one queue.
    # Worker a was cordoned for one of them before, and worker c is now.
    "running_messages": {"a/orders": 5, "a/mails": 45, "b/orders": 10},
    "concurrency_limit": {"a/orders": 50, "a/mails": 50, "b/orders": 50},
    "draining": {"a/orders": 1, "a/mails": 1, "b/orders": 0},
    "cordoned": {"a/orders": 1, "a/mails": 0, "b/orders": 0, "c/orders": 1},
    "db_connected": {"a/orders": 0, "a/mails": 0, "b/orders": 1},
}

SHOWN: dict[str, dict[str, float]] = {
    "worker/Slots in use/A": {"{}": 0.6},
    "worker/Draining or cordoned/A": {"{}": 2},
    "worker/Without database/A": {"{}": 1},
    "worker/Workers/A": {"{}": 2},
    # All 50 slots are taken where mails are done; orders have another worker, with 10 of 50.
    "fleet/Slots in use by queue/A": {'{queue="orders"}': 0.6, '{queue="mails"}': 1},
}


@pytest.mark.parametrize("panel", SHOWN)
def test_a_worker_with_two_queues_counts_once(panel: str, tmp_path: Path) -> None:
    """Its slots, its connection and its stopping are the process's, whatever the queue."""
    (query,) = (query for query in queries() if query.name == panel)
    case = {
        "interval": "1m",
        "input_series": [
            {"series": _series(name, place), "values": f"{value}x1"}
            for name, values in SERIES.items()
            for place, value in values.items()
        ],
        "promql_expr_test": [
            {
                "expr": re.sub(r"\$\w+", ".*", query.expr),
                "eval_time": "1m",
                "exp_samples": [
                    {"labels": labels, "value": value} for labels, value in SHOWN[panel].items()
                ],
            }
        ],
    }
    file = tmp_path / "test.yaml"
    file.write_text(yaml.safe_dump({"tests": [case]}))
    done = subprocess.run(
        [tool("promtool"), "test", "rules", str(file)], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _series(name: str, place: str) -> str:
    pod, queue = place.split("/")
    return (
        f'meshhook_worker_{name}{{namespace="prod", pod="{pod}", instance="{pod}:9090", '
        f'queue="{queue}"}}'
    )

"""A real Prometheus scrapes real pods, and the fleet dashboard has data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.dashboard_files import queries
from support.e2e import all_accepted, producer
from support.kube import KubeError
from support.prometheus_tools import tool
from support.waiting import eventually

pytestmark = pytest.mark.timeout(600)

ADDRESS = "127.0.0.1:9199"
# Panels that are rightly empty while nothing is wrong.
MAY_BE_EMPTY = {
    "fleet/Alerts firing now/A",  # none does
    "fleet/Queues without worker/A",  # counts what is wrong
}


def configuration(kubeconfig: Path, namespace: str) -> dict[str, Any]:
    """Return Prometheus' configuration: what PodMonitor and ServiceMonitor come to."""

    def pods(name: str, label: str, value: str) -> dict[str, Any]:
        meta = "__meta_kubernetes_pod"
        return {
            "job_name": name,
            "kubernetes_sd_configs": [
                {
                    "role": "pod",
                    "kubeconfig_file": str(kubeconfig),
                    "namespaces": {"names": [namespace]},
                }
            ],
            "relabel_configs": [
                {"source_labels": [f"{meta}_label_{label}"], "regex": value, "action": "keep"},
                {
                    "source_labels": [f"{meta}_container_port_name"],
                    "regex": "metrics",
                    "action": "keep",
                },
                {"source_labels": ["__meta_kubernetes_namespace"], "target_label": "namespace"},
                {"source_labels": [f"{meta}_name"], "target_label": "pod"},
                {"source_labels": [f"{meta}_container_name"], "target_label": "container"},
            ],
        }

    return {
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [
            pods("workers", "app_kubernetes_io_name", "meshhook-worker"),
            pods("operator", "app_kubernetes_io_component", "operator"),
        ],
    }


@pytest.fixture
async def query(installed, is_local, tmp_path):
    """A function that asks a Prometheus which scrapes the pods."""
    if not is_local:
        pytest.skip("a Prometheus of this machine reaches the pods of the local cluster only")
    prometheus, promtool = tool("prometheus"), tool("promtool")
    config = tmp_path / "prometheus.yaml"
    config.write_text(yaml.safe_dump(configuration(installed.kubeconfig, installed.namespace)))
    process = installed.start(
        prometheus,
        f"--config.file={config}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address={ADDRESS}",
        log=tmp_path / "prometheus.log",
    )

    def ask(expr: str) -> list[dict[str, Any]]:
        arguments = ["query", "instant", "-o", "json", f"http://{ADDRESS}", expr]
        try:
            said = installed.run(promtool, *arguments)
        except KubeError as error:  # it starts still
            raise AssertionError(str(error)) from error
        found: list[dict[str, Any]] = json.loads(said)
        return found

    try:
        await eventually(lambda: ask("vector(1)"), timeout=60)
        yield ask
    finally:
        process.terminate()
        process.wait(30)


async def test_worker_pods_are_scraped_and_the_fleet_dashboard_has_data(
    installed, receiver, image, deliveries, query
):
    """Every pod is up, and each query of the fleet dashboard returns something."""
    selector = f"meshhook.io/jobqueue={deliveries}"
    installed.apply(producer(image, deliveries, "scraped", 300, 20))

    def scraped() -> set[str]:
        return {each["metric"]["pod"] for each in query('up{job="workers"} == 1')}

    await eventually(lambda: scraped() >= set(installed.ready_pods(selector)), timeout=60)
    assert len(query('up{job="operator"} == 1')) == 1

    def empty() -> set[str]:
        return {
            each.name
            for each in queries()
            if each.stem == "fleet"
            and not query(
                each.expr.replace("$__rate_interval", "30s")
                .replace("$namespace", installed.namespace)
                .replace("$queue", deliveries)
            )
        }

    await eventually(lambda: not empty() - MAY_BE_EMPTY, timeout=90)
    await all_accepted(receiver, "scraped", 300)
    done = query(
        f'sum(meshhook_worker_messages_total{{queue="{deliveries}", outcome="succeeded"}})'
    )
    assert float(done[0]["value"][1]) > 0

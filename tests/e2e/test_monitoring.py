"""A real Prometheus scrapes real pods, and the fleet dashboard has data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.dashboard_files import queries
from support.e2e import all_accepted, producer
from support.kube import Kube, KubeError
from support.prometheus_tools import tool
from support.waiting import eventually

pytestmark = pytest.mark.timeout(1200)

ADDRESS = "127.0.0.1:9199"
# Panels that are rightly empty while nothing is wrong.
MAY_BE_EMPTY = {
    "fleet/Alerts firing now/A",  # none does
    "fleet/Queues without worker/A",  # counts what is wrong
}


JOBS = {
    "workers": "app.kubernetes.io/name=meshhook-worker",
    "operator": "app.kubernetes.io/component=operator",
}


def configuration(directory: Path) -> dict[str, Any]:
    """Return Prometheus' configuration: its targets are in files, which it reads again."""
    jobs = [
        {
            "job_name": name,
            "file_sd_configs": [
                {"files": [str(directory / f"{name}.json")], "refresh_interval": "1s"}
            ],
        }
        for name in JOBS
    ]
    return {"global": {"scrape_interval": "1s"}, "scrape_configs": jobs}


def write_targets(kube: Kube, directory: Path) -> None:
    """Write the pods that there are, with the labels that a PodMonitor would give them."""
    for name, selector in JOBS.items():
        targets = [
            {
                "targets": [f"{each['status']['podIP']}:{port['containerPort']}"],
                "labels": {
                    "namespace": each["metadata"]["namespace"],
                    "pod": each["metadata"]["name"],
                    "container": container["name"],
                },
            }
            for each in kube.pods(selector)
            if each["status"].get("podIP")
            for container in each["spec"]["containers"]
            for port in container.get("ports", ())
            if port["name"] == "metrics"
        ]
        unfinished = directory / f".{name}"
        unfinished.write_text(json.dumps(targets))
        unfinished.replace(directory / f"{name}.json")


class Prometheus:
    """A Prometheus at work."""

    def __init__(self, kube: Kube, directory: Path, promtool: str) -> None:
        self._kube, self._directory, self._promtool = kube, directory, promtool

    def query(self, expr: str) -> list[dict[str, Any]]:
        """Return what an expression gives now."""
        arguments = ["query", "instant", "-o", "json", f"http://{ADDRESS}", expr]
        try:
            said = self._kube.run(self._promtool, *arguments)
        except KubeError as error:  # it starts still
            raise AssertionError(str(error)) from error
        found: list[dict[str, Any]] = json.loads(said)
        return found

    def scraped_pods(self, job: str) -> set[str]:
        """Return the pods that were scraped lately, after telling it which there are."""
        write_targets(self._kube, self._directory)
        return {each["metric"]["pod"] for each in self.query(f'up{{job="{job}"}} == 1')}


@pytest.fixture
async def prometheus(installed, is_local, deliveries, tmp_path):
    """A Prometheus that scrapes the pods."""
    if not is_local:
        pytest.skip("a Prometheus of this machine reaches the pods of the local cluster only")
    config = tmp_path / "prometheus.yaml"
    config.write_text(yaml.safe_dump(configuration(tmp_path)))
    found = Prometheus(installed, tmp_path, tool("promtool"))
    process = installed.start(
        tool("prometheus"),
        f"--config.file={config}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address={ADDRESS}",
        log=tmp_path / "prometheus.log",
    )
    try:
        await eventually(lambda: found.query("vector(1)"), timeout=180)
        yield found
    finally:
        process.terminate()
        process.wait(30)


async def test_worker_pods_are_scraped_and_the_fleet_dashboard_has_data(
    installed, receiver, image, deliveries, prometheus
):
    """Every pod is up, and each query of the fleet dashboard returns something."""
    selector = f"meshhook.io/jobqueue={deliveries}"
    installed.apply(producer(image, deliveries, "scraped", rate=60, count=300))
    await eventually(
        lambda: prometheus.scraped_pods("workers") >= set(installed.ready_pods(selector)),
        timeout=180,
    )
    assert len(prometheus.scraped_pods("operator")) == 1

    def empty() -> set[str]:
        return {
            each.name
            for each in queries()
            if each.stem == "fleet"
            and not prometheus.query(
                # Longer than the test: nothing is over before it is asked for.
                each.expr.replace("$__rate_interval", "10m")
                .replace("$namespace", installed.namespace)
                .replace("$queue", deliveries)
            )
        }

    def has_data() -> bool:
        missing = empty() - MAY_BE_EMPTY
        assert not missing, missing
        return True

    await eventually(has_data, timeout=180)
    await all_accepted(receiver, "scraped", 300)
    done = prometheus.query(
        f'sum(meshhook_worker_messages_total{{queue="{deliveries}", outcome="succeeded"}})'
    )
    assert float(done[0]["value"][1]) > 0

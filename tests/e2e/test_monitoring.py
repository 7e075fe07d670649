"""A real Prometheus scrapes real pods, and the fleet dashboard has data."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.dashboard_files import queries
from support.e2e import NAMESPACE, RELEASE, all_accepted, producer
from support.helm import Object, one, render
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


JOBS = {"workers": "meshhook-workers", "operator": "meshhook-operator"}


def configuration(values: Object, directory: Path) -> dict[str, Any]:
    """Return Prometheus' configuration: what the chart has for a Prometheus without its operator.

    Debian's Prometheus is built without the discovery of pods, so it reads what that would find
    from a file, again and again. All the rest is the chart's: what is kept, and its labels.
    """
    monitoring = {"prometheusConfig": {"enabled": True}}
    objects = render(values | {"monitoring": monitoring}, release=RELEASE, namespace=NAMESPACE)
    data = one(objects, "ConfigMap", f"{RELEASE}-prometheus")["data"]
    (directory / "alerts.yaml").write_text(data["alerts.yaml"])
    found: dict[str, Any] = yaml.safe_load(data["scrape.yaml"])
    for job in found["scrape_configs"]:
        discoveries = job.pop("kubernetes_sd_configs")
        assert [each["role"] for each in discoveries] == ["pod"]
        pods = {"files": [str(directory / "pods.json")], "refresh_interval": "1s"}
        job |= {"file_sd_configs": [pods], "scrape_interval": "1s"}
    return found | {"rule_files": [str(directory / "alerts.yaml")]}


def write_pods(kube: Kube, directory: Path) -> None:
    """Write all ports of all pods that there are, with the labels that discovery gives them."""
    targets = [
        {
            "targets": [f"{each['status']['podIP']}:{port['containerPort']}"],
            "labels": {
                "__meta_kubernetes_namespace": each["metadata"]["namespace"],
                "__meta_kubernetes_pod_name": each["metadata"]["name"],
                "__meta_kubernetes_pod_container_name": container["name"],
                "__meta_kubernetes_pod_container_port_name": port.get("name", ""),
                **{
                    f"__meta_kubernetes_pod_label_{re.sub(r'[^a-zA-Z0-9_]', '_', name)}": value
                    for name, value in each["metadata"]["labels"].items()
                },
            },
        }
        for each in kube.get("pods", "--all-namespaces")
        if each["status"].get("podIP") and "deletionTimestamp" not in each["metadata"]
        for container in each["spec"]["containers"]
        for port in container.get("ports", ())
    ]
    unfinished = directory / ".pods"
    unfinished.write_text(json.dumps(targets))
    unfinished.replace(directory / "pods.json")


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
        write_pods(self._kube, self._directory)
        return {each["metric"]["pod"] for each in self.query(f'up{{job="{JOBS[job]}"}} == 1')}


@pytest.fixture
async def prometheus(installed, values, is_local, deliveries, tmp_path):
    """A Prometheus that scrapes the pods."""
    if not is_local:
        pytest.skip("a Prometheus of this machine reaches the pods of the local cluster only")
    config = tmp_path / "prometheus.yaml"
    config.write_text(yaml.safe_dump(configuration(values, tmp_path)))
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
        process.wait(120)


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
    await eventually(lambda: len(prometheus.scraped_pods("operator")) == 1, timeout=180)
    everything = {each["metric"]["job"] for each in prometheus.query("up")}
    assert everything == set(JOBS.values())

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
    series = f'meshhook_worker_messages_total{{queue="{deliveries}", outcome="succeeded"}}'
    await eventually(lambda: prometheus.query(f"sum({series}) > 0"))

"""What lets a Prometheus find operator and workers, and have the alerts."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.helm import NAMESPACE, PROMETHEUS_KINDS, RELEASE, one, render, select
from support.prometheus_tools import tool

NAME = f"{RELEASE}-meshhook"
KINDS = {kind.rpartition("/")[2] for kind in PROMETHEUS_KINDS}


def monitoring(**values: Any) -> dict[str, Any]:
    """Return values with monitoring on."""
    return {"monitoring": {"enabled": True} | values}


def found(values: dict[str, Any], kinds: tuple[str, ...] = ()) -> set[str]:
    """Return the kinds of the Prometheus operator that are rendered."""
    return {each["kind"] for each in render(values, kinds=kinds)} & KINDS


@pytest.mark.parametrize(
    ("enabled", "kinds", "expected"),
    [
        ("auto", (), set()),
        ("auto", PROMETHEUS_KINDS, KINDS),
        (True, (), KINDS),
        (False, PROMETHEUS_KINDS, set()),
    ],
)
def test_one_value_turns_scraping_and_alerts_on(enabled, kinds, expected):
    """By default they come where the cluster has the Prometheus operator; true and false insist."""
    assert found({"monitoring": {"enabled": enabled}}, kinds) == expected


def test_auto_is_the_default():
    """An install without values takes what the cluster has, and works in one that has nothing."""
    assert found({}) == set()
    assert found({}, PROMETHEUS_KINDS) == KINDS
    assert found({}, PROMETHEUS_KINDS[:1]) == {"ServiceMonitor"}


@pytest.mark.parametrize("part", ["serviceMonitor", "podMonitor", "prometheusRule"])
def test_a_part_can_be_left_out(part):
    """Each of the three has a value of its own."""
    assert found(monitoring(**{part: {"enabled": False}})) == {
        kind for kind in KINDS if kind.lower() != part.lower()
    }


def test_labels_for_all_three():
    """`monitoring.labels` are on each, and the labels of one replace them there."""
    rule = {"labels": {"release": "rules"}}
    objects = render(monitoring(labels={"release": "all", "team": "a"}, prometheusRule=rule))
    labels = {kind: one(objects, kind)["metadata"]["labels"] for kind in KINDS}
    assert {each["team"] for each in labels.values()} == {"a"}
    assert labels["PodMonitor"]["release"] == labels["ServiceMonitor"]["release"] == "all"
    assert labels["PrometheusRule"]["release"] == "rules"


def test_monitors_find_operator_and_workers():
    """The selectors and ports are those of the Service, and of the workers' pods."""
    relabelings = [{"targetLabel": "cluster", "replacement": "one"}]
    monitor = {"labels": {"release": "prom"}, "interval": "5s", "relabelings": relabelings}
    objects = render(monitoring(serviceMonitor=monitor, podMonitor=monitor))
    service = one(objects, "ServiceMonitor")
    target = one(objects, "Service", f"{NAME}-operator")
    selector = service["spec"]["selector"]["matchLabels"]
    assert selector.items() <= target["metadata"]["labels"].items()
    endpoint = {"port": "metrics", "path": "/metrics", "interval": "5s", "relabelings": relabelings}
    assert service["spec"]["endpoints"] == [endpoint]
    pod = one(objects, "PodMonitor")
    assert pod["spec"]["podMetricsEndpoints"] == [endpoint]
    assert pod["spec"]["namespaceSelector"] == {"any": True}
    for each in (service, pod):
        assert each["metadata"]["labels"]["release"] == "prom"


def test_only_one_service_is_monitored():
    """The database's Service, which has no metrics, is not selected."""
    objects = render(monitoring())
    selector = one(objects, "ServiceMonitor")["spec"]["selector"]["matchLabels"]
    selected = [
        each["metadata"]["name"]
        for each in select(objects, "Service")
        if selector.items() <= each["metadata"]["labels"].items()
    ]
    assert selected == [f"{NAME}-operator"]


def prometheus_config(**values: Any) -> dict[str, Any]:
    """Return what is in the ConfigMap for a Prometheus without the Prometheus operator."""
    parts = {"monitoring": {"prometheusConfig": {"enabled": True}}} | values
    data = one(render(parts), "ConfigMap", f"{NAME}-prometheus")["data"]
    return {name: yaml.safe_load(text) for name, text in data.items()}


def test_workers_are_looked_for_where_the_operator_looks():
    """`watchNamespaces` narrows the PodMonitor and the scrape configuration too."""
    values = {"operator": {"watchNamespaces": ["a"]}}
    objects = render(monitoring() | values)
    assert one(objects, "PodMonitor")["spec"]["namespaceSelector"] == {"matchNames": ["a"]}
    jobs = prometheus_config(**values)["scrape.yaml"]["scrape_configs"]
    assert [job["kubernetes_sd_configs"] for job in jobs] == [
        [{"role": "pod", "namespaces": {"names": [NAMESPACE]}}],
        [{"role": "pod", "namespaces": {"names": ["a"]}}],
    ]
    everywhere = prometheus_config()["scrape.yaml"]["scrape_configs"][1]
    assert everywhere["kubernetes_sd_configs"] == [{"role": "pod"}]


def test_the_alerts_are_the_same_without_the_prometheus_operator():
    """The ConfigMap has the groups of the PrometheusRule, and promtool takes them."""
    rule = one(render(monitoring()), "PrometheusRule")
    assert prometheus_config()["alerts.yaml"] == {"groups": rule["spec"]["groups"]}


def test_prometheus_takes_the_configuration(tmp_path: Path):
    """`promtool` finds nothing wrong with the scrape configuration and the alerts."""
    found = prometheus_config()
    (tmp_path / "alerts.yaml").write_text(yaml.safe_dump(found["alerts.yaml"]))
    config = found["scrape.yaml"] | {"rule_files": ["alerts.yaml"]}
    for job in config["scrape_configs"]:
        del job["kubernetes_sd_configs"]  # Debian's Prometheus is built without it
    (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(config))
    done = subprocess.run(
        [tool("promtool"), "check", "config", tmp_path / "prometheus.yaml"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "1 rule files" in done.stdout

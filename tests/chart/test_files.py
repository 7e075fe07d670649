"""What the chart takes from elsewhere: rendered whole, from a folder and from an archive."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from support.helm import CHART, RELEASE, ROOT, HelmError, helm, one, render, select

DASHBOARDS = sorted((ROOT / "grafana/dashboards").glob("*.json"))
ALERTS = sorted((ROOT / "grafana/alerts").glob("*.yaml"))
WITH_RULES = {"monitoring": {"enabled": True}}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart, packaged."""
    directory = tmp_path_factory.mktemp("archive")
    helm("package", CHART, "--destination", directory)
    (found,) = directory.glob("meshhook-*.tgz")
    return found


def test_the_linter_is_content():
    """`helm lint --strict` finds nothing, with and without a database of your own."""
    for values in ({}, {"database": {"existingSecret": "pg"}}):
        assert "0 chart(s) failed" in helm("lint", "--strict", CHART, values=values)


def test_the_resource_definitions_are_the_operators():
    """Those that are installed are the ones in operator/crds, with labels added."""
    sources = sorted((ROOT / "operator/crds").glob("*.yaml"))
    assert len(sources) == len(select(render(), "CustomResourceDefinition")) == 2
    for source in sources:
        expected = yaml.safe_load(source.read_text())
        found = one(render(), "CustomResourceDefinition", expected["metadata"]["name"])
        assert found["spec"] == expected["spec"]


def test_the_operators_rights_are_the_operators():
    """The role has the rules of operator/rbac.yaml, cluster-wide or in a namespace."""
    rules = yaml.safe_load((ROOT / "operator/rbac.yaml").read_text())["rules"]
    assert rules
    assert one(render(), "ClusterRole")["rules"] == rules
    objects = render({"operator": {"watchNamespaces": ["a"]}})
    assert one(objects, "Role", f"{RELEASE}-meshhook-operator")["rules"] == rules


def test_the_dashboards_are_grafanas():
    """Each file of grafana/dashboards is in a ConfigMap of its own, byte for byte."""
    found: dict[str, str] = {}
    for each in select(render(), "ConfigMap"):
        if each["metadata"]["labels"].get("grafana_dashboard") == "1":
            found |= each["data"]
    assert found == {path.name: path.read_text() for path in DASHBOARDS}
    assert len(found) >= 5
    assert all(json.loads(text)["panels"] for text in found.values())


def test_the_alerts_are_grafanas():
    """The groups of all files of grafana/alerts are in the PrometheusRule, in order."""
    expected = [group for path in ALERTS for group in yaml.safe_load(path.read_text())["groups"]]
    assert one(render(WITH_RULES), "PrometheusRule")["spec"]["groups"] == expected


def test_alerts_can_be_labelled_and_left_out():
    """`alertLabels` are on every alert and no recording rule; disabledAlerts are not there."""
    groups = one(render(WITH_RULES), "PrometheusRule")["spec"]["groups"]
    names = [rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule]
    rule = {"alertLabels": {"team": "a"}, "disabledAlerts": names[:1]}
    monitoring = WITH_RULES["monitoring"] | {"prometheusRule": rule}
    changed = one(render({"monitoring": monitoring}), "PrometheusRule")
    rules = [rule for group in changed["spec"]["groups"] for rule in group["rules"]]
    assert [rule["alert"] for rule in rules if "alert" in rule] == names[1:]
    for each in rules:
        assert ("alert" in each) == (each.get("labels", {}).get("team") == "a")


def test_an_archive_renders_the_same(archive):
    """The links to files outside the chart become files in the archive."""
    values = {"embedded": {"password": "the same for both"}}
    values["embedded"]["password"] = "the-same-for-both"
    assert render(values, chart=archive) == render(values)


@pytest.mark.parametrize(
    ("missing", "message"),
    [("dashboards", "files/dashboards"), ("operator-rules.yaml", "files/operator-rules.yaml")],
)
def test_a_chart_without_its_files_says_so(missing, message, tmp_path):
    """A copy that lost what the links lead to fails, instead of installing nothing."""
    copy = tmp_path / "meshhook"
    shutil.copytree(CHART, copy)
    lost = copy / "files" / missing
    if lost.is_dir():
        shutil.rmtree(lost)
    else:
        lost.unlink()
    with pytest.raises(HelmError, match=message):
        render(chart=copy)

"""Every alert is a rule, a runbook, a test that it fires and a test that it stays quiet."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from grafana.links import RUNBOOKS_URL
from support import promql
from support.dashboard_files import STEMS, panels
from support.prometheus_tools import tool
from support.rule_files import ALERTS, GRAFANA, RECORDING, alert, recorded, rules

RULE_TESTS = Path(__file__).parent / "rules"

with_each_alert = pytest.mark.parametrize("stem", ALERTS)


def test_alerts_runbooks_and_tests_belong_together():
    """No alert without a runbook and a test of its rule, and none of these without an alert."""
    assert ALERTS
    assert sorted(file.stem for file in (GRAFANA / "runbooks").glob("*.md")) == ALERTS
    assert sorted(file.stem for file in RULE_TESTS.glob("*.yaml")) == ALERTS


@with_each_alert
def test_alert_says_what_it_is_about(stem):
    """An alert has the name of its file, a severity, texts, and the address of its runbook."""
    rule = alert(stem)

    assert rule["alert"] == stem
    assert rule["for"]
    assert set(rule["labels"]) == {"severity"}
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["description"].endswith(".")
    assert rule["annotations"]["runbook_url"] == f"{RUNBOOKS_URL}/{stem}.md"


@with_each_alert
def test_expression_names_what_exists(stem):
    """An alert names metrics of the table or recorded ones, with labels that they have."""
    assert not list(promql.problems(alert(stem)["expr"], recorded()))


@pytest.mark.parametrize("rule", rules(RECORDING), ids=lambda rule: rule["record"])
def test_recording_rule_names_what_exists_and_is_used(rule):
    """A recording rule names metrics of the table, and some alert needs what it records."""
    assert not list(promql.problems(rule["expr"]))
    assert any(rule["record"] in alert(stem)["expr"] for stem in ALERTS)


@pytest.mark.parametrize("stem", STEMS)
def test_dashboards_name_alerts_that_exist(stem):
    """The description of a panel sends people to alerts that there are."""
    named = {
        name for panel in panels(stem) for name in re.findall(r"MeshHook\w+", panel["description"])
    }

    assert named <= set(ALERTS)


def test_promtool_accepts_the_rules():
    """Prometheus can load all rules together, and its linter has nothing to say."""
    files = [str(GRAFANA / "alerts" / f"{stem}.yaml") for stem in ALERTS]
    done = subprocess.run(
        [tool("promtool"), "check", "rules", "--lint-fatal", *files, str(RECORDING)],
        check=False,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stdout + done.stderr


@with_each_alert
def test_rule_fires_and_stays_quiet(stem):
    """Promtool sees the alert fire with its exact texts in one case, and stay quiet in another."""
    file = RULE_TESTS / f"{stem}.yaml"
    expected = [
        bool(check["exp_alerts"])
        for case in yaml.load(file.read_text(), Loader=yaml.CSafeLoader)["tests"]
        for check in case["alert_rule_test"]
        if check["alertname"] == stem
    ]
    done = subprocess.run(
        [tool("promtool"), "test", "rules", str(file)], check=False, capture_output=True, text=True
    )

    assert {True, False} == set(expected)
    assert done.returncode == 0, done.stdout + done.stderr


@with_each_alert
def test_readme_lists_the_alert(stem):
    """The table of alerts names each with its severity and a link to its runbook."""
    severity = alert(stem)["labels"]["severity"]

    assert f"| [{stem}](runbooks/{stem}.md) | {severity} |" in (GRAFANA / "README.md").read_text()

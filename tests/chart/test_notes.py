"""What helm says after an install, and what README and guide say of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support.helm import RELEASE, ROOT, notes

SCRAPED = {"serviceMonitor": {"enabled": True}}
RULES = {"prometheusRule": {"enabled": True}}


def after(chart: Path, monitoring: dict[str, Any], **others: Any) -> str:
    """Return the notes after an install with values below `monitoring`, and others."""
    return notes(chart, {"monitoring": monitoring} | others)


def test_without_values_nothing_scrapes_and_no_alert_is_installed(notes_chart: Path) -> None:
    """The notes say so, with what to set."""
    said = after(notes_chart, {})
    assert "Nothing scrapes the metrics yet, and no alerts are installed." in said
    assert "monitoring.prometheusRule.enabled=true" in said


def test_alerts_that_are_missing_beside_scraping_are_said(notes_chart: Path) -> None:
    """Whoever has Prometheus look might take them for installed."""
    said = after(notes_chart, SCRAPED)
    assert "No alerts are installed." in said
    assert "Nothing scrapes" not in said


def test_with_all_of_it_there_is_nothing_to_say(notes_chart: Path) -> None:
    """The notes end with the steps."""
    said = after(notes_chart, SCRAPED | RULES)
    assert "alert" not in said
    assert "scrapes" not in said


def test_the_url_stays_in_its_secret(notes_chart: Path) -> None:
    """The command that enqueues by hand has the URL neither in its arguments nor in the pod."""
    said = after(notes_chart, {})
    assert "get secret" not in said
    overrides = json.loads(said.partition("--overrides='")[2].partition("'")[0])
    (container,) = overrides["spec"]["containers"]
    (url,) = container["env"]
    assert url["valueFrom"]["secretKeyRef"] == {
        "name": f"{RELEASE}-meshhook-database",
        "key": "uri",
    }
    assert container["command"] == ["meshhook", "enqueue", "orders", '{"n": 1}']
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert overrides["spec"]["securityContext"]["runAsNonRoot"] is True


def test_what_one_role_for_all_means_is_said(notes_chart: Path) -> None:
    """With one Secret the notes say what is gained by more; with more there is nothing to say."""
    shared = {"database": {"existingSecret": "pg"}}
    assert "share one database role" in after(notes_chart, {}, **shared)
    parted = {
        "database": {"existingSecret": "workers", "operatorExistingSecret": "operator"},
        "migrations": {"existingSecret": "owner"},
    }
    said = after(notes_chart, {}, **parted)
    assert "share one database role" not in said
    assert "operatorSecretRef:\n           name: operator" in said


@pytest.mark.parametrize("document", ["README.md", "docs/kubernetes.md"])
def test_the_documents_say_what_to_set(document: str) -> None:
    """No document lets one believe that alerts come by themselves."""
    text = " ".join((ROOT / document).read_text().split())
    for name in ("serviceMonitor", "podMonitor", "prometheusRule"):
        assert f"monitoring.{name}.enabled=true" in text
    assert "dashboards and alerts, and" not in text

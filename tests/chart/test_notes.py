"""What helm says after an install, and what README and guide say of it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from meshhook_operator.api.spec import JobQueueSpec
from support.helm import PROMETHEUS_KINDS, RELEASE, ROOT, notes
from support.note_commands import manifests, script


def after(chart: Path, monitoring: dict[str, Any], **others: Any) -> str:
    """Return the notes after an install with values below `monitoring`, and others."""
    return notes(chart, {"monitoring": monitoring} | others)


def test_without_the_prometheus_operator_nothing_is_on(notes_chart: Path) -> None:
    """The notes say so, and what to set in either case."""
    said = after(notes_chart, {})
    assert "Monitoring is off: nothing scrapes the metrics, and no alerts are installed." in said
    assert "This cluster does not have the\nPrometheus operator." in said
    assert "--set monitoring.enabled=true" in said
    assert "--set monitoring.prometheusConfig.enabled=true" in said


def test_with_the_prometheus_operator_all_is_on(notes_chart: Path) -> None:
    """The notes say so, and which label may be lacking."""
    for values, kinds in (({}, PROMETHEUS_KINDS), ({"enabled": True}, ())):
        said = notes(notes_chart, {"monitoring": values}, kinds=kinds)
        assert "Monitoring is on: the metrics are scraped and the alerts are installed" in said
        assert "--set monitoring.labels.release=" in said
        assert "off" not in said


def test_what_was_turned_off_is_said_to_be_off(notes_chart: Path) -> None:
    """It is not put down to the cluster."""
    said = notes(notes_chart, {"monitoring": {"enabled": False}}, kinds=PROMETHEUS_KINDS)
    assert "Monitoring is off" in said
    assert "does not have" not in said


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        (["prometheusRule"], "The metrics are scraped, but no alerts are installed."),
        (
            ["serviceMonitor", "podMonitor"],
            "The alerts are installed, but nothing scrapes the metrics, so they stay silent.",
        ),
    ],
)
def test_half_of_it_is_said(notes_chart: Path, parts: list[str], sentence: str) -> None:
    """Whoever sees one of the two might take the other for installed."""
    values = {"enabled": True} | {part: {"enabled": False} for part in parts}
    said = after(notes_chart, values)
    assert sentence in said
    for part in parts:
        assert f"monitoring.{part}.enabled=true" in said


def test_a_prometheus_of_ones_own_is_told_what_to_load(notes_chart: Path) -> None:
    """With `prometheusConfig` the notes name the ConfigMap, and do not claim that it is used."""
    said = after(notes_chart, {"prometheusConfig": {"enabled": True}})
    assert f"The ConfigMap {RELEASE}-meshhook-prometheus" in said
    assert "Nothing is scraped before you mount it" in said
    assert "rule_files: [/etc/meshhook/alerts.yaml]" in said
    assert "Monitoring is o" not in said


VARIANTS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "everything": {
        "database": {"existingSecret": "pg", "caSecret": "ca", "pooled": True},
        "imagePullSecrets": [{"name": "registry"}],
    },
    "roles": {
        "database": {"existingSecret": "workers", "operatorExistingSecret": "operator"},
        "migrations": {"existingSecret": "owner"},
    },
}


@pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS)
def test_the_steps_can_be_pasted_into_a_shell(
    notes_chart: Path, values: dict[str, Any], tmp_path: Path
) -> None:
    """They are commands and comments, with nothing to fill in and no quote left open anywhere."""
    pasted = script(after(notes_chart, {}, **values))
    assert "..." not in pasted
    lines = pasted.splitlines()
    assert all("'" not in line for line in lines if line.startswith("#"))  # zsh reads these
    (tmp_path / "steps.sh").write_text(pasted)
    subprocess.run(["bash", "-n", tmp_path / "steps.sh"], check=True)
    commands = [line.split()[0] for line in lines if line.startswith(("kubectl", "helm"))]
    assert commands == ["helm", *["kubectl"] * 10]


@pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS)
def test_the_queue_of_the_steps_is_valid(notes_chart: Path, values: dict[str, Any]) -> None:
    """The operator takes its spec, and the code in the ConfigMap is a handler."""
    code, queue, _ = manifests(after(notes_chart, {}, **values))
    spec = JobQueueSpec.model_validate(queue["spec"])
    assert spec.worker is not None
    module, _, function = (spec.worker.handler or "").partition(":")
    names: dict[str, Any] = {}
    exec(compile(code["data"][f"{module}.py"], module, "exec"), names)  # noqa: S102 - our own
    assert callable(names[function])


def test_a_release_that_serves_other_namespaces_says_which(notes_chart: Path) -> None:
    """Where a JobQueue beside the release would not be served, no command makes one."""
    said = after(notes_chart, {}, operator={"watchNamespaces": ["shop", "mail"]})
    assert "The operator serves JobQueues in the namespaces shop, mail." in said
    assert "kubectl -n jobs apply" not in said


def test_the_url_stays_in_its_secret(notes_chart: Path) -> None:
    """The Job that enqueues has the URL neither in its arguments nor in its definition."""
    said = after(notes_chart, {})
    assert "get secret" not in said
    (job,) = [each for each in manifests(said) if each["kind"] == "Job"]
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    (url,) = container["env"]
    assert url["valueFrom"]["secretKeyRef"] == {
        "name": f"{RELEASE}-meshhook-database",
        "key": "uri",
    }
    assert container["command"] == ["meshhook", "enqueue", "hello", '{"name": "world"}']
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert pod["securityContext"]["runAsNonRoot"] is True


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
    assert "operatorSecretRef:\n      name: operator" in said


@pytest.mark.parametrize("document", ["README.md", "docs/kubernetes.md"])
def test_the_documents_say_what_to_set(document: str) -> None:
    """They say on what scraping and alerts depend, and name the values for both cases."""
    text = " ".join((ROOT / document).read_text().split())
    assert "Prometheus operator" in text
    for name in ("monitoring.enabled", "monitoring.prometheusConfig.enabled"):
        assert name in text
    assert "dashboards and alerts, and" not in text

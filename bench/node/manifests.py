"""What is installed for a trace: a JobQueue whose workers sleep, and their handler."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from support.e2e import RELEASE

if TYPE_CHECKING:
    from bench.scaling.jobs import JobTrace

HANDLER = Path(__file__).with_name("sleeper.py")
CONFIG_MAP = "sleeper"
OWN_LEAD_SECONDS = 4.0
"""What a pod takes until it is Ready on the node by itself; what a trace wants more, it waits."""
GRACE_MARGIN_SECONDS = 5
"""What the operator subtracts from the grace period of a pod."""

Object = dict[str, Any]


def queue_name(trace: JobTrace) -> str:
    """Return the name of the JobQueue."""
    words = "".join(each if each.isalnum() else " " for each in trace.name).split()
    name = "-".join(words).lower()
    return name if name[0].isalpha() else f"jobs-{name}"


def table_name(trace: JobTrace) -> str:
    """Return the name of its queue in the database."""
    return queue_name(trace).replace("-", "_")


def job_queue(trace: JobTrace, image: str) -> Object:
    """Return the JobQueue for a trace: its limits and its target, all else by default."""
    return {
        "apiVersion": "meshhook.io/v1alpha1",
        "kind": "JobQueue",
        "metadata": {"name": queue_name(trace)},
        "spec": {
            "queueName": table_name(trace),
            "database": {
                "secretRef": {"name": f"{RELEASE}-database-workers"},
                "operatorSecretRef": {"name": f"{RELEASE}-database-operator"},
            },
            "worker": {
                "image": image,
                "imagePullPolicy": "IfNotPresent",
                "handler": "sleeper:sleep",
                "concurrency": trace.concurrency,
                "env": [
                    {"name": "PYTHONPATH", "value": "/bench"},
                    {"name": "SLEEPER_START_SECONDS", "value": _start_seconds(trace)},
                ],
                # So little that the scheduler puts as many on the node as the traces want.
                "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}},
                "terminationGracePeriodSeconds": round(trace.grace_seconds) + GRACE_MARGIN_SECONDS,
                "volumes": [{"name": "handler", "configMap": {"name": CONFIG_MAP}}],
                "volumeMounts": [{"name": "handler", "mountPath": "/bench"}],
            },
            "scaling": {
                "minReplicas": trace.min_replicas,
                "maxReplicas": trace.max_replicas,
                "targetAgeSeconds": trace.target_age_seconds,
            },
        },
    }


def _start_seconds(trace: JobTrace) -> str:
    if trace.lead.longest_seconds <= 2 * OWN_LEAD_SECONDS:
        return "0-0"  # that is the node's own
    shortest, longest = trace.lead.shortest_seconds, trace.lead.longest_seconds
    return f"{shortest - OWN_LEAD_SECONDS:g}-{longest - OWN_LEAD_SECONDS:g}"


def handler_config_map() -> Object:
    """Return the ConfigMap with the workers' handler."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": CONFIG_MAP},
        "data": {HANDLER.name: HANDLER.read_text(encoding="utf-8")},
    }

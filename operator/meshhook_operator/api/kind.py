"""What the resource is called."""

from __future__ import annotations

GROUP = "meshhook.io"
VERSION = "v1alpha1"
KIND = "JobQueue"
PLURAL = "jobqueues"
SCHEDULE_KIND = "JobSchedule"
SCHEDULE_PLURAL = "jobschedules"
API_VERSION = f"{GROUP}/{VERSION}"

MAX_NAME_LENGTH = 52
"""So that the Deployment's name, which ends in `-worker`, still fits into a label."""

"""What service accounts have written, as the audit log of the API server has it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

POLICY: dict[str, Any] = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "None", "userGroups": ["system:serviceaccounts:kube-system"]},
        {
            "level": "Request",
            "userGroups": ["system:serviceaccounts"],
            "verbs": ["create", "update", "patch", "delete"],
        },
        {"level": "None"},
    ],
}
"""Only writes of service accounts that tests make."""


@dataclass(frozen=True)
class Write:
    """A write that the API server has carried out."""

    account: str
    """The service account, without its namespace."""
    verb: str
    resource: str
    """With its subresource, as in `jobqueues/status`."""
    name: str
    body: dict[str, Any]

    @property
    def holder(self) -> str | None:
        """Who holds a Lease after it; None if it is not about one."""
        holder: str | None = self.body.get("spec", {}).get("holderIdentity")
        return holder


def writes_in(log: Path, namespace: str) -> list[Write]:
    """Return the writes in a namespace, in the order in which they were done."""
    found = []
    # The last line may be written just now.
    whole, _, _ = log.read_text().rpartition("\n")
    for line in whole.splitlines():
        event = json.loads(line)
        target = event.get("objectRef", {})
        if target.get("namespace") != namespace or event["responseStatus"]["code"] >= 300:
            continue
        parts = (target["resource"], target.get("subresource"))
        found.append(
            Write(
                account=event["user"]["username"].rpartition(":")[2],
                verb=event["verb"],
                resource="/".join(part for part in parts if part),
                name=target.get("name", ""),
                body=event.get("requestObject") or {},
            )
        )
    return found

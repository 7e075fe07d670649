"""A cluster as tests use it: kubectl and helm, in the cluster's network where it has its own."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from support.cluster.programs import program_path

Object = dict[str, Any]


class KubeError(RuntimeError):
    """A program failed; the message is what it said."""

    def __init__(self, message: str, exit_code: int) -> None:
        """Take what it said, and its exit code."""
        super().__init__(message)
        self.exit_code = exit_code


class Kube:
    """One namespace of a cluster.

    Args:
        kubeconfig: of the cluster.
        namespace: for everything that is not said to be elsewhere.
        prefix: put before each command, such as `nsenter ... --`.
    """

    def __init__(self, kubeconfig: Path, namespace: str, prefix: Sequence[str] = ()) -> None:
        self.kubeconfig = kubeconfig
        self.namespace = namespace
        self._prefix = list(prefix)

    def run(self, program: str | Path, *arguments: str | Path, stdin: str = "") -> str:
        """Run a program in the cluster's network, and return what it prints.

        Raises:
            KubeError: if it fails.
        """
        done = subprocess.run(
            [*self._prefix, program, *arguments],
            input=stdin,
            env=os.environ | {"KUBECONFIG": str(self.kubeconfig)},
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            shown = " ".join(map(str, arguments[:6]))
            said = done.stderr.strip() or done.stdout
            raise KubeError(f"{Path(program).name} {shown}: {said}", done.returncode)
        return done.stdout

    def start(
        self, program: str | Path, *arguments: str | Path, log: Path
    ) -> subprocess.Popen[bytes]:
        """Start a program in the cluster's network; what it prints goes to a file."""
        with log.open("wb") as output:
            return subprocess.Popen(
                [*self._prefix, program, *arguments],
                env=os.environ | {"KUBECONFIG": str(self.kubeconfig)},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def kubectl(self, *arguments: str | Path, stdin: str = "") -> str:
        """Run kubectl in the namespace."""
        kubectl = program_path("kubectl")
        return self.run(kubectl, "--namespace", self.namespace, *arguments, stdin=stdin)

    def get(self, *arguments: str) -> Any:
        """Return what `kubectl get` finds: an object, or the items of a list."""
        found = json.loads(self.kubectl("get", *arguments, "--output", "json"))
        return found["items"] if found["kind"] == "List" else found

    def apply(self, *objects: Object) -> None:
        """Apply objects."""
        items = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.kubectl("apply", "--filename", "-", stdin=json.dumps(items))

    def helm(self, *arguments: str | Path, values: Object | None = None) -> str:
        """Run helm in the namespace."""
        extra = [] if values is None else ["--values", "-"]
        command = [program_path("helm"), "--namespace", self.namespace, *arguments, *extra]
        return self.run(*command, stdin="" if values is None else json.dumps(values))

    def meshhook(self, *arguments: str, stdin: str = "") -> str:
        """Run the command line in the pod `client`."""
        command = ["exec", "--stdin", "client", "--", "meshhook", *arguments]
        return self.kubectl(*command, stdin=stdin)

    def pods(self, selector: str) -> list[Object]:
        """Return the pods of a selector that are not on their way out."""
        found = self.get("pods", "--selector", selector)
        return [each for each in found if "deletionTimestamp" not in each["metadata"]]

    def ready_pods(self, selector: str) -> list[str]:
        """Return the names of the pods of a selector that are Ready."""
        return [
            each["metadata"]["name"]
            for each in self.pods(selector)
            if any(
                condition["type"] == "Ready" and condition["status"] == "True"
                for condition in each["status"].get("conditions", ())
            )
        ]

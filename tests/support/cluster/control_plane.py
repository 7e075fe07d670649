"""A real control plane of Kubernetes on 127.0.0.1, with kwok in the place of kubelets.

The API server, the controllers and the scheduler are the real ones. Pods get a node and become
Ready, but run nothing. Needs no root, no containers and no network but the loopback.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
import ssl
import sys
import urllib.request
from pathlib import Path
from typing import Any, Self

import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from meshhook.embedded.postmaster import free_port
from support.cluster import audit
from support.cluster.api import Api
from support.cluster.components import Component
from support.cluster.programs import (
    CONTROL_PLANE,
    ProgramsMissingError,
    missing,
    program_path,
)

READY_SECONDS = 90
"""How long a component may take on a loaded machine; it takes a few seconds on an idle one."""

NODE = "kwok-0"
_ISSUER = "https://kubernetes.default.svc.cluster.local"
_NODE_ANNOTATION = {"kwok.x-k8s.io/node": "fake"}
_STAGES = (
    "node/fast/node-initialize",
    "node/heartbeat-with-lease/node-heartbeat-with-lease",
    "pod/fast/pod-ready",
    "pod/fast/pod-complete",
    "pod/fast/pod-delete",
)
# More than the defaults of 20 to 50 requests a second, so that a test does not wait for a client
# that throttles itself.
_QUICK_CLIENT = ("--kube-api-qps", "500", "--kube-api-burst", "1000")


def obstacle() -> str | None:
    """Return why a control plane can't run here, in plain words; None if it can."""
    if sys.platform != "linux":
        return f"the control plane of the tests runs on Linux only, not on {sys.platform}"
    if shutil.which("setpriv") is None:
        return "there is no setpriv; install util-linux"
    try:
        names = missing(CONTROL_PLANE)
    except ProgramsMissingError as error:
        return str(error)
    if names:
        command = "python3 tests/support/cluster/programs.py"
        return f"not built: {', '.join(names)}; build with: {command} {' '.join(names)}"
    return None


class ControlPlane:
    """etcd, kube-apiserver, kube-controller-manager, kube-scheduler and kwok, in that order.

    Attributes:
        url: the address of the API server.
        admin_token: the bearer token of an administrator.
        certificate: the file with the certificate that signed the API server's.
        components: the programs by name, to kill and start again.
    """

    def __init__(self, directory: Path) -> None:
        """Prepare a control plane; nothing runs yet.

        Args:
            directory: an empty folder for its state, logs and keys. The path should be short, and
                best lie in memory.
        """
        self.directory = directory
        self.admin_token = secrets.token_urlsafe(24)
        self.certificate = directory / "ca.pem"
        self._audit_log = directory / "audit.log"
        self._port = free_port()
        self.url = f"https://127.0.0.1:{self._port}"
        self.components: dict[str, Component] = {}

    def __enter__(self) -> Self:
        """Start."""
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()

    def start(self) -> None:
        """Start everything, and wait until the node is Ready and namespaces can be used.

        Raises:
            ComponentError: a program ended or took too long; the message ends with its log.
        """
        if self.components:
            return
        self._write_files()
        self._add_etcd()
        self._add_api_server()
        admin = self.directory / "admin.kubeconfig"
        self._add_others(admin)
        for component in self.components.values():
            component.start()
            if component.name == "kube-apiserver":
                self.wait_until_serving()
                component.wait_until(self._has_node, seconds=READY_SECONDS)
        manager = self.components["kube-controller-manager"]
        manager.wait_until(self._has_service_account, seconds=READY_SECONDS)
        self.components["kwok"].wait_until(self._node_is_ready, seconds=READY_SECONDS)

    def stop(self) -> None:
        """Stop everything. All state is thrown away, so nothing needs an orderly end."""
        for component in reversed(self.components.values()):
            component.kill()
        self.components.clear()

    def wait_until_serving(self) -> None:
        """Wait until the API server answers, after a start or a restart."""
        server = self.components["kube-apiserver"]
        server.wait_until(lambda: self._get("/readyz") is not None, seconds=READY_SECONDS)

    def administrator(self, namespace: str) -> Api:
        """Return the requests of an administrator."""
        return Api(
            self.url, token=self.admin_token, certificate=self.certificate, namespace=namespace
        )

    def writes_in(self, namespace: str) -> list[audit.Write]:
        """Return what service accounts have written in a namespace, in its order."""
        return audit.writes_in(self._audit_log, namespace)

    def write_kubeconfig(
        self, path: Path, *, token: str, namespace: str = "default", url: str | None = None
    ) -> Path:
        """Write a kubeconfig for whom a token stands, and return its path.

        Args:
            path: the file.
            token: a bearer token.
            namespace: the one that is meant where none is named.
            url: another address of the API server, such as that of a proxy before it.
        """
        cluster = {"server": url or self.url, "certificate-authority": str(self.certificate)}
        context = {"cluster": "tests", "user": "tests", "namespace": namespace}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "tests", "cluster": cluster}],
            "users": [{"name": "tests", "user": {"token": token}}],
            "contexts": [{"name": "tests", "context": context}],
            "current-context": "tests",
        }
        path.write_text(json.dumps(config, indent=1))
        path.chmod(0o600)
        return path

    def _write_files(self) -> None:
        authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
        authority.cert_pem.write_to_path(self.certificate)
        server = authority.issue_cert("127.0.0.1", "localhost", key_type=trustme.KeyType.ECDSA)
        server.private_key_and_cert_chain_pem.write_to_path(self.directory / "server.pem")
        signing_key = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM,
            # Kubernetes finds the public key in this format, and not in PKCS8.
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
        (self.directory / "accounts.key").write_bytes(signing_key)
        # token,user,uid,groups
        tokens = f"{self.admin_token},admin,admin,system:masters\n"
        (self.directory / "tokens.csv").write_text(tokens)
        for private in ("server.pem", "accounts.key", "tokens.csv"):
            (self.directory / private).chmod(0o600)
        stages = program_path("kwok").parent / "stage"
        text = "\n---\n".join((stages / f"{name}.yaml").read_text() for name in _STAGES)
        (self.directory / "stages.yaml").write_text(text)
        (self.directory / "audit.json").write_text(json.dumps(audit.POLICY))
        self.write_kubeconfig(self.directory / "admin.kubeconfig", token=self.admin_token)

    def _add_etcd(self) -> None:
        self._etcd_url = f"http://127.0.0.1:{free_port()}"
        peer_url = f"http://127.0.0.1:{free_port()}"
        self._add(
            "etcd",
            *("--data-dir", self.directory / "etcd", "--unsafe-no-fsync", "--log-level", "warn"),
            *("--listen-client-urls", self._etcd_url, "--advertise-client-urls", self._etcd_url),
            *("--listen-peer-urls", peer_url, "--initial-advertise-peer-urls", peer_url),
            *("--initial-cluster", f"default={peer_url}"),
        )

    def _add_api_server(self) -> None:
        server, key = self.directory / "server.pem", self.directory / "accounts.key"
        self._add(
            "kube-apiserver",
            *("--etcd-servers", self._etcd_url),
            *("--bind-address", "127.0.0.1", "--secure-port", str(self._port)),
            # No pod runs that would look for the service `kubernetes`.
            *("--advertise-address", "127.0.0.1", "--endpoint-reconciler-type", "none"),
            *("--service-cluster-ip-range", "198.19.0.0/24", "--authorization-mode", "Node,RBAC"),
            *("--tls-cert-file", server, "--tls-private-key-file", server),
            *("--token-auth-file", self.directory / "tokens.csv"),
            *("--service-account-issuer", _ISSUER, "--service-account-signing-key-file", key),
            *("--service-account-key-file", key),
            *("--audit-policy-file", self.directory / "audit.json"),
            *("--audit-log-path", self._audit_log),
        )

    def _add_others(self, kubeconfig: Path) -> None:
        key = self.directory / "accounts.key"
        client = ("--kubeconfig", kubeconfig, *_QUICK_CLIENT)
        alone = ("--leader-elect=false", "--bind-address", "127.0.0.1")
        self._add(
            "kube-controller-manager",
            *(*client, *alone, "--secure-port", str(free_port())),
            *("--cert-dir", self.directory / "manager", "--use-service-account-credentials"),
            *("--service-account-private-key-file", key, "--root-ca-file", self.certificate),
        )
        self._add(
            "kube-scheduler",
            *(*client, *alone, "--secure-port", str(free_port())),
            *("--cert-dir", self.directory / "scheduler"),
        )
        self._add(
            "kwok",
            *("--kubeconfig", kubeconfig, "--config", self.directory / "stages.yaml"),
            "--manage-all-nodes=false",
            *("--manage-nodes-with-annotation-selector", "kwok.x-k8s.io/node=fake"),
            *("--node-ip", "198.18.0.1", "--cidr", "198.18.0.0/16"),
            *("--node-lease-duration-seconds", "40"),
            *("--server-address", f"127.0.0.1:{free_port()}"),
        )

    def _add(self, name: str, *arguments: str | Path) -> None:
        self.components[name] = Component(
            name,
            [program_path(name), *arguments],
            log=self.directory / f"{name}.log",
            directory=self.directory,
        )

    def _has_node(self) -> bool:
        """Make the node; a server that has just started may take longer than a request may."""
        if self._get(f"/api/v1/nodes/{NODE}") is not None:
            return True
        metadata: dict[str, Any] = {
            "name": NODE,
            "annotations": _NODE_ANNOTATION,
            "labels": {"kubernetes.io/hostname": NODE, "kubernetes.io/os": "linux"},
        }
        node = {"apiVersion": "v1", "kind": "Node", "metadata": metadata}
        with contextlib.suppress(OSError):
            self._request("/api/v1/nodes", json.dumps(node).encode())
        return False

    def _has_service_account(self) -> bool:
        return self._get("/api/v1/namespaces/default/serviceaccounts/default") is not None

    def _node_is_ready(self) -> bool:
        node = json.loads(self._get(f"/api/v1/nodes/{NODE}") or b"{}")
        conditions = node.get("status", {}).get("conditions", [])
        return not node.get("spec", {}).get("taints") and any(
            condition["type"] == "Ready" and condition["status"] == "True"
            for condition in conditions
        )

    def _get(self, path: str) -> bytes | None:
        try:
            return self._request(path)
        except OSError:
            return None

    def _request(self, path: str, body: bytes | None = None) -> bytes:
        request = urllib.request.Request(  # noqa: S310 - the address is our own
            self.url + path,
            data=body,
            headers={
                "Authorization": f"Bearer {self.admin_token}",
                "Content-Type": "application/json",
            },
        )
        context = ssl.create_default_context(cafile=str(self.certificate))
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        with contextlib.closing(opener.open(request, timeout=30)) as response:
            content: bytes = response.read()
            return content

"""The console of the chart on a real node: who gets in, what they may do, and how it ends."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from support.e2e import NAMESPACE, RELEASE, pod, released
from support.kube import Kube, KubeError, Object
from support.waiting import eventually

pytestmark = pytest.mark.timeout(1200)

CONSOLE = f"{RELEASE}-console"
URL = f"http://{CONSOLE}.{NAMESPACE}.svc"
SELECTOR = "app.kubernetes.io/component=console"
QUEUE = "nightly"
PASSWORD = "correct horse battery staple"
_TOKEN = re.compile(r'name="form_token" value="([^"]+)"')


class Browser:
    """Asks the console from a pod, with the cookie that it got."""

    def __init__(self, kube: Kube, pod: str, headers: Mapping[str, str]) -> None:
        self._kube, self._pod, self._headers = kube, pod, dict(headers)

    def ask(self, path: str, **options: Any) -> dict[str, Any]:
        """Send a request, and return the status, the headers and the text."""
        headers = self._headers | options.pop("headers", {})
        asked = {"url": URL + path, "headers": headers} | options
        command = ["exec", "--stdin", self._pod, "--", "python", "/pods/console_visit.py"]
        found: dict[str, Any] = json.loads(self._kube.kubectl(*command, stdin=json.dumps(asked)))
        if cookie := found["headers"].get("set-cookie"):
            self._headers["cookie"] = cookie.partition(";")[0]
        return found

    def send(self, page: str, path: str, **fields: str) -> dict[str, Any]:
        """Send a form with the token of a page."""
        token = _TOKEN.search(self.ask(page)["text"])
        form = {"form_token": token[1] if token else "none", **fields}
        return self.ask(path, method="POST", form=form, headers={"origin": URL})


def secret(name: str, **texts: str) -> Object:
    """Return a Secret."""
    metadata = {"name": name}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": texts}


@pytest.fixture
async def upgraded(installed: Kube, receiver: Any, values: Object) -> AsyncIterator[Any]:
    """Return a function that upgrades the release with a console; it goes afterwards."""

    async def upgrade(**console: Any) -> None:
        await released(installed, "upgrade", values | {"console": {"enabled": True} | console})

    yield upgrade
    await released(installed, "upgrade", values)


@pytest.fixture
def dead_letter(installed: Kube, receiver: Any, image: str) -> Any:
    """A queue with a worker, and one job that has failed for good; its page."""
    installed.meshhook("queue", "create", QUEUE, "max_retry_attempts=1")
    worker = pod(
        "console-worker",
        image,
        ["meshhook", "worker", QUEUE, "--handler", "console_jobs:handle"],
        workingDir="/pods",
    )
    installed.apply(worker)
    installed.meshhook("enqueue", QUEUE, json.dumps({"url": "htps://shop.example"}))

    async def found() -> str:
        def read() -> list[dict[str, Any]]:
            said = installed.meshhook("dlq", "list", QUEUE, "--json")
            return list(json.loads(said))

        (only,) = await eventually(read, timeout=180)
        return f"/queues/{QUEUE}/dead-letters/{only['id']}"

    yield found
    installed.kubectl("delete", "pod", "console-worker", "--wait=true")
    installed.meshhook("queue", "drop", QUEUE, "--yes")


def basic(name: str, password: str = PASSWORD) -> dict[str, str]:
    """Return the header of a login."""
    return {"authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


async def test_an_operator_replays_and_a_viewer_is_refused(
    installed: Kube, upgraded: Any, dead_letter: Any
):
    """With users from a Secret and a role of kind oncall, through the Service; and it ends well."""
    hashed = installed.kubectl(
        "exec", "--stdin", "client", "--", "meshhook", "console", "--hash-password", stdin=PASSWORD
    ).strip()
    users = f"ada:operator:{hashed}\nvic:viewer:{hashed}\n"
    installed.apply(secret("console-settings", users=users, secret="s" * 32))
    await upgraded(authentication="basic", settingsSecret="console-settings")
    (running,) = installed.pods(SELECTOR)
    restricted = running["spec"]["containers"][0]["securityContext"]
    assert restricted["readOnlyRootFilesystem"] is True
    assert restricted["capabilities"] == {"drop": ["ALL"]}
    assert restricted["allowPrivilegeEscalation"] is False
    assert running["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    name = running["metadata"]["name"]
    python = ("exec", name, "--", "python", "-c")
    assert installed.kubectl(*python, "import os; print(os.getuid())").strip() != "0"
    with pytest.raises(KubeError, match="Read-only file system"):
        installed.kubectl(*python, "open('/app/x', 'w')")

    nobody = Browser(installed, "client", {})
    assert nobody.ask("/")["status"] == 401
    assert nobody.ask("/healthz")["status"] == 200
    wrong = Browser(installed, "client", basic("ada", "wrong"))
    assert wrong.ask("/")["status"] == 401

    page = await dead_letter()
    viewer = Browser(installed, "client", basic("vic"))
    assert QUEUE in viewer.ask("/")["text"]
    assert "htps://shop.example" in viewer.ask(page)["text"]
    refused = viewer.send(page, f"{page}/replay")
    assert (refused["status"], "you are a viewer" in refused["text"]) == (403, True)

    operator = Browser(installed, "client", basic("ada"))
    shown = operator.ask(page)["text"]
    edited = re.search(r"<textarea[^>]*>\s*(.*?)</textarea>", shown, re.DOTALL)
    assert edited is not None
    body = edited[1].replace("&#34;", '"').replace("htps://", "https://")
    done = operator.send(page, f"{page}/replay", body=body)
    assert done["status"] == 303, done["text"]
    (audited,) = (
        each
        for each in json.loads(installed.meshhook("audit", "list", "--queue", QUEUE, "--json"))
        if each["action"] == "dead_letters.replayed"
    )
    assert (audited["actor"], audited["source"]) == ("ada", "console")

    def has_succeeded() -> bool:
        followed = operator.ask(done["headers"]["location"])["text"]
        assert "succeeded" in followed, followed
        return True

    await eventually(has_succeeded, timeout=60)

    await ends_with_0(installed, name, operator)
    installed.kubectl("rollout", "restart", f"deployment/{CONSOLE}")
    installed.kubectl("rollout", "status", f"deployment/{CONSOLE}", "--timeout=3m")
    assert operator.ask("/")["status"] == 200


async def ends_with_0(kube: Kube, name: str, visitor: Browser) -> None:
    """SIGTERM ends the console, with a page open that is updated live."""
    stream = {"url": f"{URL}/events", "headers": visitor._headers}
    script = (
        "python /pods/console_visit.py --stream </tmp/stream.json >/tmp/stream.log 2>&1 & "
        "for n in $(seq 900); do grep -q open /tmp/stream.log && exit 0; sleep 0.1; done; exit 1"
    )
    kube.kubectl(
        *("exec", "--stdin", "client", "--", "sh", "-c", f"cat >/tmp/stream.json; {script}"),
        stdin=json.dumps(stream),
    )
    kube.kubectl("exec", name, "--", "python", "-c", "import os; os.kill(1, 15)")

    def ended() -> Object:
        (status,) = kube.get("pod", name)["status"]["containerStatuses"]
        found: Object = status.get("lastState", {}).get("terminated", {})
        assert found, status
        assert status["ready"], status
        return found

    found = await eventually(ended, timeout=120)
    assert found["exitCode"] == 0, kube.kubectl("logs", name, "--previous")

    def is_told() -> bool:
        log = kube.kubectl("exec", "client", "--", "cat", "/tmp/stream.log")
        assert "ended" in log or "Incomplete" in log, log
        return True

    await eventually(is_told)


async def test_headers_are_believed_from_the_proxy_alone(
    installed: Kube, upgraded: Any, dead_letter: Any, image: str
):
    """A pod beside the proxy that sends its headers is refused; a reader's role changes nothing."""
    installed.apply(pod("proxy", image, ["sleep", "infinity"]))
    installed.kubectl("wait", "--for=condition=Ready", "pod/proxy", "--timeout=2m")
    address = installed.get("pod", "proxy")["status"]["podIP"]
    headers = {"x-forwarded-user": "ada@example.com", "x-forwarded-groups": "oncall"}
    proxy = {"addresses": [f"{address}/32"], "operatorGroups": ["oncall"]}
    await upgraded(authentication="proxy", proxy=proxy, readOnly=True)
    # The database's role is the second line: a console of theirs for once that lets them try.
    installed.kubectl("set", "env", f"deployment/{CONSOLE}", "MESHHOOK_CONSOLE_READ_ONLY=false")
    installed.kubectl("rollout", "status", f"deployment/{CONSOLE}", "--timeout=3m")
    try:
        page = await dead_letter()
        inside, outside = (Browser(installed, name, headers) for name in ("proxy", "client"))
        refused = outside.ask("/")
        assert refused["status"] == 403
        assert "reached through its proxy only" in refused["text"]
        assert QUEUE not in refused["text"]
        assert "ada@example.com" in inside.ask("/")["text"]
        assert inside.ask("/", headers={"x-forwarded-groups": "others"})["status"] == 200
        assert Browser(installed, "proxy", {}).ask("/")["status"] == 401
        # Operator by the proxy, but the database knows a reader.
        answer = inside.send(page, f"{page}/replay")
        assert answer["status"] == 403, answer
        assert "meshhook roles" in answer["text"]
    finally:
        installed.kubectl("delete", "pod", "proxy", "--wait=false")

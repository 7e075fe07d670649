"""What `helm test` runs: enqueue a job, and wait until a worker pod that was not there has done it.

python check.py QUEUE TIMEOUT_SECONDS
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

NOT_FOUND = 3  # the exit codes of `meshhook`
NO_DATABASE = 4


def main() -> int:
    """Return 0 if the job was done in time."""
    queue, seconds = sys.argv[1], float(sys.argv[2])
    started = time.monotonic()
    deadline = started + seconds

    def meshhook(*arguments: str) -> dict[str, Any]:
        """Run a command until it works: queue and database may be on their way still."""
        while True:
            done = subprocess.run(
                ["meshhook", *arguments, "--json"], check=False, capture_output=True, text=True
            )
            if done.returncode == 0:
                found: dict[str, Any] = json.loads(done.stdout)
                return found
            message = done.stderr.strip()
            if done.returncode not in {NOT_FOUND, NO_DATABASE} or time.monotonic() > deadline:
                sys.exit(f"meshhook {arguments[0]} failed: {message}")
            print(f"waiting: {message.splitlines()[0]}")
            time.sleep(1)

    body = json.dumps({"run_id": "helm-test", "workflow_id": "helm-test", "payload": {}})
    msg_id = meshhook("enqueue", queue, body)["msg_ids"][0]
    enqueued = time.monotonic()
    print(f"enqueued job {msg_id} into queue {queue}")
    state = "ready"
    while time.monotonic() < deadline:
        job = meshhook("jobs", "show", queue, str(msg_id))
        if job["state"] == "succeeded":
            worker = job["attempts"][-1]["worker"]
            print(f"job {msg_id}: done by {worker} after {time.monotonic() - enqueued:.1f} s")
            return 0
        if job["state"] != state:
            state = job["state"]
            print(f"job {msg_id}: {state}")
        time.sleep(0.5)
    print(
        f"job {msg_id} is still {state} after {seconds:g} s. Look at the JobQueue {queue} and its "
        "pods: kubectl describe jobqueue, and kubectl logs of the operator"
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())

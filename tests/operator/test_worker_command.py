"""What the pods of a JobQueue run, as a process of this machine."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from meshhook import QueueService
from meshhook.administration import create_queue
from meshhook.postgres.database import Database
from meshhook_operator.workers.manifests import worker_deployment
from support.jobqueues import jobqueue
from support.waiting import eventually

JOBS = """
from pathlib import Path

import meshhook

app = meshhook.App()

@app.job("emails")
def send(job: meshhook.Job) -> None:
    Path("sent").touch()

@app.job("letters")
def post(job: meshhook.Job) -> None:
    Path("posted").touch()
"""


@pytest.mark.parametrize("worker", [{"app": "jobs:app"}, {"handler": "jobs:send"}])
async def test_the_container_runs_the_jobs_of_its_queue(
    tmp_path: Path, database_url: str, pool: Any, worker: dict[str, str]
) -> None:
    """It gets its database from the environment, and leaves other queues of an app alone."""
    (tmp_path / "jobs.py").write_text(JOBS)
    manifest = worker_deployment(jobqueue(worker={"image": "shop:1"} | worker), replicas=1)
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    for queue in ("emails", "letters"):
        await create_queue(Database(pool), queue)
        await QueueService[Any](pool, queue).enqueue({})
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MESHHOOK_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *container["command"], *container["args"]),
        cwd=tmp_path,
        env=kept | {"MESHHOOK_DATABASE_URL": database_url},
    )
    try:
        await eventually((tmp_path / "sent").exists, timeout=60)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 60) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert await pool.fetchval("select count(*) from pgmq.q_emails") == 0
    assert await pool.fetchval("select count(*) from pgmq.q_letters") == 1
    assert not (tmp_path / "posted").exists()

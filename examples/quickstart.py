"""Producer, handler and worker in one program, built from separate parts instead of an app.

Needs MESHHOOK_DATABASE_URL and `meshhook migrate`; ends when all jobs are done.
"""

import asyncio
import os

from pydantic import BaseModel

from meshhook import (
    Database,
    Job,
    QueueService,
    Worker,
    WorkflowJob,
    create_job_handler,
    create_queue,
)


class Greeting(BaseModel):
    name: str


@create_job_handler(payload_model=Greeting)
async def greet(job: Job[Greeting]) -> None:
    print(f"hello {job.payload.name}, attempt {job.attempt} of {job.max_attempts}")


async def main() -> None:
    url = os.environ["MESHHOOK_DATABASE_URL"]
    database = await Database.connect(url)
    await create_queue(database)
    async with QueueService(database) as queue, Worker(url, handler=greet):
        for number, name in enumerate(["Ada", "Grace", "Barbara"]):
            payload = {"name": name}
            job = WorkflowJob(
                run_id=f"run-{number}", workflow_id="greet", project_id="demo", payload=payload
            )
            await queue.enqueue(job)
        while (await queue.get_queue_metrics()).queue_length:
            await asyncio.sleep(0.1)
    await database.close()


if __name__ == "__main__":
    asyncio.run(main())

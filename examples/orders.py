"""One handler and its queue: the README's first program.

Needs MESHHOOK_DATABASE_URL and `meshhook migrate`; `meshhook worker --app orders:app` runs it.
"""

from pydantic import BaseModel

import meshhook

app = meshhook.App()


class Order(BaseModel):
    order_id: int


@app.job("orders", max_retry_attempts=5)
async def ship(job: meshhook.Job[Order]) -> None:
    print("shipping order", job.payload.order_id)

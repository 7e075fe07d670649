"""Enqueues one job for `orders.py`: the README's first producer."""

import asyncio

from orders import Order, ship

asyncio.run(ship.enqueue(Order(order_id=1), run_id="run-1"))

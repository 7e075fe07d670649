"""A plain script: store the orders of a file, one item a line, and a job for each; all or none.

pip install "meshhook-queue[psycopg]"
export MESHHOOK_DATABASE_URL=postgresql://user:password@host:5432/name
meshhook migrate
meshhook queue create shipments
python import_orders.py < items.txt
"""

import os
import sys

import psycopg

from meshhook import SyncQueueService

shipments = SyncQueueService(queue="shipments")

with psycopg.connect(os.environ["MESHHOOK_DATABASE_URL"]) as connection:
    connection.execute(
        "create table if not exists orders "
        "(id int generated always as identity primary key, item text check (item <> ''))"
    )
    payloads = []
    for line in sys.stdin:
        [order_id] = connection.execute(
            "insert into orders (item) values (%s) returning id", [line.strip()]
        ).fetchone()
        payloads.append({"order_id": order_id})
    shipments.enqueue_many(payloads, connection=connection)

print(len(payloads), "orders")

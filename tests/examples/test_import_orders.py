"""The example of a plain script."""

import os
import subprocess
import sys
from pathlib import Path

from meshhook import create_queue

SCRIPT = Path(__file__).parents[2] / "examples" / "import_orders.py"


def run_script(url, text):
    """Run it with a file."""
    return subprocess.run(
        [sys.executable, str(SCRIPT)],
        env=os.environ | {"MESHHOOK_DATABASE_URL": url},
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def test_all_orders_are_imported_with_their_jobs(database_url, connection):
    """And none of a file with a line that cannot be stored."""
    await create_queue(connection, "shipments")
    done = run_script(database_url, "book\npen\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "2 orders\n", "")
    done = run_script(database_url, "ink\n\n")
    assert done.returncode == 1
    assert await connection.fetchval("select array_agg(item order by id) from orders") == [
        "book",
        "pen",
    ]
    rows = await connection.fetch("select message::text from pgmq.q_shipments order by msg_id")
    assert [row[0] for row in rows] == ['{"order_id": 1}', '{"order_id": 2}']

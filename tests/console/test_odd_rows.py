"""Every page that can be reached, over tables in which other clients have left anything."""

from __future__ import annotations

import html
import re
from typing import Any
from urllib.parse import urljoin, urlsplit

from meshhook.administration import set_queue_config
from support import odd_rows
from support.console import visiting

ODD = "\\x1b]0;title\\x07 <img src=x onerror=alert(1)> \u202e"
OTHER_ROWS = f"""
insert into meshhook.schedules (queue, name, cron, time_zone, message, key, error, failed_at)
values ('jobs', 'odd', E'{ODD}', E'{ODD}', '{{"a": 1e3000}}', E'{ODD}', E'{ODD}', 'infinity');
insert into meshhook.schedule_firings (queue, name, due_at, outcome, missed)
values ('jobs', 'odd', '-infinity', 'missed', -2147483648),
    ('jobs', 'odd', 'infinity', 'missed', 1);
insert into meshhook.job_attempts (queue, msg_id, attempt, outcome, run_id, worker, error_type,
    error_message, error_stack, trace_id, started_at, finished_at, retry_at)
values ('jobs', 777, 2147483647, 'retried', E'{ODD}', E'{ODD}', E'{ODD}', E'{ODD}', E'{ODD}',
    E'{ODD}', '-infinity', 'infinity', '4713-01-01 BC');
insert into meshhook.keys (queue, key, held_until, held_at, held_by, hold_reason)
values ('jobs', E'{ODD}', 'infinity', '-infinity', 'manual', E'{ODD}'),
    ('jobs', E'a\\nb', '294276-01-01', '4713-01-01 BC', 'manual', '');
insert into meshhook.breakers (queue, key, failures, failed_at, opened_at, probe_at, error_type)
values ('jobs', E'{ODD}2', 2147483647, 'infinity', '-infinity', 'infinity', E'{ODD}');
insert into meshhook.queue_scaling (queue, jobqueue_uid, jobqueue, deployment, state, reason,
    replicas, ready_replicas, desired_replicas, min_replicas, max_replicas, target_age_seconds,
    decided_at, scaled_at)
values ('jobs', 'u', E'{ODD}', E'{ODD}', E'{ODD}', E'{ODD}', 2147483647, 0, 0, 2147483647, 0, 1e9,
    '4713-01-01 BC', '294276-01-01');
select meshhook.audit(E'{ODD}', E'{ODD}', details => '[1e3000]');
"""
MAX_PAGES = 300


async def test_no_page_fails_over_odd_rows(pool: Any, connection: Any, queue_name: str) -> None:
    """Each is shown, and nothing in it is more than text."""
    await set_queue_config(pool, "jobs", keyed=True)
    for table in ("q_jobs", "q_jobs_dlq"):
        for sql, arguments in odd_rows.statements(table):
            await connection.execute(sql, *arguments)
    await connection.execute(odd_rows.HISTORY, list(odd_rows.MOMENTS))
    await connection.execute(odd_rows.WORKERS)
    await connection.execute(OTHER_ROWS)
    wanted = ["/", "/dead-letters", "/search?queue=jobs", "/workers", "/schedules", "/audit"]
    wanted += ["/doctor", "/queues/jobs/keys?by_name=1", "/queues/jobs/jobs/777"]
    seen: set[str] = set()
    failed: list[tuple[str, int]] = []
    async with visiting(pool, trace_url="https://traces.example/{trace_id}") as visitor:
        while wanted and len(seen) < MAX_PAGES:
            path = wanted.pop(0)
            if path in seen:
                continue
            seen.add(path)
            answer = await visitor.get(path, follow_redirects=True)
            if answer.status_code != 200:
                failed.append((path, answer.status_code))
            for hostile in ("\x1b", "\u202e", "<img") if ".csv" not in path else ():
                # What a form sends back is exact.
                shown = re.sub(r"<input [^>]*>", "", answer.text)
                assert hostile not in shown, path
            for link in re.findall(r'<a [^>]*href="([^"#]+)"', answer.text):
                found = urlsplit(urljoin(path, html.unescape(link)))
                if not found.netloc:
                    wanted.append(found.path + (f"?{found.query}" if found.query else ""))
    assert failed == []
    assert len(seen) > 80

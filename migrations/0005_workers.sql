-- The workers that live now and what each does, as they report it every few seconds: for people,
-- for the metrics of a fleet, and for the operator, which asks no worker anything.
-- Locks: none that others hold; the table is new. Time at size: milliseconds.

-- Unlogged: a report is worth nothing after a crash, and the next one is seconds away.
create unlogged table meshhook.workers (
    queue text not null,
    worker text not null,
    host text not null,
    concurrency integer not null check (concurrency > 0),
    running integer not null check (running >= 0),
    processed bigint not null check (processed >= 0),
    busy_seconds double precision not null check (busy_seconds >= 0),
    draining boolean not null default false,
    started_at timestamptz not null default now(),
    seen_at timestamptz not null default now(),
    primary key (queue, worker)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

comment on table meshhook.workers is
    'One row a worker and queue, written every few seconds and deleted when the worker stops.';
comment on column meshhook.workers.worker is
    'The name that stands in the history; a restarted process has a new one.';
comment on column meshhook.workers.host is
    'The host name: in Kubernetes the name of the pod.';
comment on column meshhook.workers.concurrency is
    'How many jobs of the queue the worker may run at once.';
comment on column meshhook.workers.running is
    'How many jobs of the queue it runs now.';
comment on column meshhook.workers.processed is
    'Attempts whose outcome it has recorded since it started.';
comment on column meshhook.workers.busy_seconds is
    'The time that its jobs ran since it started, added up over them all.';
comment on column meshhook.workers.draining is
    'Whether it has stopped claiming and waits for its running jobs.';
comment on column meshhook.workers.seen_at is
    'When it reported last; older than 30 seconds means that it is gone.';

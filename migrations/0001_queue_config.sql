-- The settings of every queue, one row a queue, and the word that workers listen for.
-- Locks: none that others hold; the tables are new. Time at size: milliseconds.

create table meshhook.queue_config (
    queue_name text primary key
        check (queue_name ~ '^[a-z0-9][a-z0-9_-]{0,42}$' and queue_name !~ '_dlq$'),
    visibility_timeout_seconds integer not null default 30
        check (visibility_timeout_seconds between 1 and 43200),
    max_retry_attempts integer not null default 5
        check (max_retry_attempts between 1 and 1000),
    retry_backoff_base_ms bigint not null default 1000
        check (retry_backoff_base_ms between 0 and 604800000),
    retry_backoff_max_ms bigint not null default 300000
        check (retry_backoff_max_ms between 0 and 604800000),
    retry_jitter double precision not null default 0.5
        check (retry_jitter between 0 and 1),
    job_timeout_seconds double precision default 300
        check (job_timeout_seconds > 0 and job_timeout_seconds <= 604800),
    dlq_enabled boolean not null default true,
    dlq_retention_days integer
        check (dlq_retention_days between 1 and 36500),
    history_retention_days integer not null default 7
        check (history_retention_days between 1 and 36500),
    max_payload_bytes integer not null default 1048576
        check (max_payload_bytes between 1024 and 104857600),
    paused boolean not null default false,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint retry_backoff_base_ms_at_most_max
        check (retry_backoff_base_ms <= retry_backoff_max_ms)
);

comment on table meshhook.queue_config is
    'The one source of settings of each queue; running workers follow a change.';
comment on column meshhook.queue_config.visibility_timeout_seconds is
    'How long a lease lasts; it is extended while the job runs.';
comment on column meshhook.queue_config.max_retry_attempts is
    'How many attempts a job has in all, the first one included.';
comment on column meshhook.queue_config.retry_jitter is
    'The share of each retry delay that is random.';
comment on column meshhook.queue_config.job_timeout_seconds is
    'How long one attempt may run; null means for ever.';
comment on column meshhook.queue_config.dlq_enabled is
    'Whether jobs that failed for good become dead letters; otherwise they are archived.';
comment on column meshhook.queue_config.dlq_retention_days is
    'How long dead letters are kept; null means for ever.';
comment on column meshhook.queue_config.history_retention_days is
    'How long attempts are kept.';
comment on column meshhook.queue_config.max_payload_bytes is
    'The longest message, in bytes of JSON, that the library enqueues.';
comment on column meshhook.queue_config.paused is
    'While true no worker claims; running jobs finish.';

create function meshhook.announce_queue_config() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if tg_op = 'UPDATE' then
        new.updated_at := now();
    end if;
    perform pg_notify('meshhook_config', coalesce(new.queue_name, old.queue_name));
    return coalesce(new, old);
end
$$;

create trigger announce_queue_config
    before insert or update or delete on meshhook.queue_config
    for each row execute function meshhook.announce_queue_config();

-- Counts what becomes of the due times of schedules, and finds when a schedule last had success.
-- Locks: ACCESS EXCLUSIVE on meshhook.schedules, briefly: no row is rewritten. Time at size:
-- milliseconds.

set local search_path = pg_catalog, pg_temp;

alter table meshhook.schedules
    add column enqueued_total bigint not null default 0,
    add column overlapped_total bigint not null default 0,
    add column missed_total bigint not null default 0,
    add column failed_total bigint not null default 0;

comment on column meshhook.schedules.enqueued_total is 'How many due times got a job.';
comment on column meshhook.schedules.overlapped_total is
    'How many got none since an earlier job was in the queue.';
comment on column meshhook.schedules.missed_total is
    'How many passed while no worker ran and got no job of their own; of one long outage, up to 100 '
    'are counted.';
comment on column meshhook.schedules.failed_total is 'How often it could not be fired.';

-- Counts the due times that the same transaction has noted, or a failure. Whoever may move a
-- schedule on counts, so that no role needs a right to the counters, and workers of the version
-- before count as well. Locks: none but the row. Index: schedule_firings_pkey.
create function meshhook.count_firings() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if new.failed_at is distinct from old.failed_at and new.failed_at is not null then
        new.failed_total := old.failed_total + 1;
    elsif new.next_at is distinct from old.next_at and old.next_at is not null then
        select old.enqueued_total + count(*) filter (where f.outcome = 'enqueued'),
               old.overlapped_total + count(*) filter (where f.outcome = 'overlapped'),
               old.missed_total + count(*) filter (where f.outcome = 'missed')
                   + coalesce(sum(f.missed), 0)
            into new.enqueued_total, new.overlapped_total, new.missed_total
            from meshhook.schedule_firings f
            where f.queue = new.queue and f.name = new.name and not f.is_manual
              and f.due_at >= old.next_at and f.fired_at = now();
    end if;
    return new;
end
$$;

create trigger count_firings
    before update of next_at, failed_at on meshhook.schedules
    for each row execute function meshhook.count_firings();

-- When a job of a schedule last succeeded, and since when none has: when the first job after that
-- was enqueued. Of its jobs, only the newest 40 are looked at. No row if the role may not read the
-- history, or there is no job.
-- Locks: none. Indexes: schedule_firings_pkey, job_attempts_job_idx of the days since each job.
create function meshhook.schedule_results(queue text, name text)
returns table (succeeded_at timestamptz, unsucceeded_since timestamptz)
language plpgsql stable rows 1 set search_path = pg_catalog, pg_temp as $$
declare
    job record;
begin
    if not has_table_privilege('meshhook.job_attempts', 'select') then
        return;
    end if;
    for job in
        select f.msg_id, f.fired_at from meshhook.schedule_firings f
        where f.queue = schedule_results.queue and f.name = schedule_results.name
          and f.msg_id is not null
        order by f.due_at desc
        limit 40
    loop
        select a.finished_at into succeeded_at from meshhook.job_attempts a
            where a.queue = schedule_results.queue and a.msg_id = job.msg_id
              and a.enqueued_at = job.fired_at and a.outcome = 'succeeded'
              and a.finished_at >= job.fired_at
            limit 1;
        exit when found;
        unsucceeded_since := job.fired_at;
    end loop;
    if num_nonnulls(succeeded_at, unsucceeded_since) > 0 then
        return next;
    end if;
end
$$;

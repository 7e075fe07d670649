-- Whole days of the history go as partitions, not row by row before their day is over.
-- Locks: none. Time at size: milliseconds.

-- Deletes up to `chunk` attempts that their own queue no longer keeps, and returns how many went:
-- call it until it returns none. Days are counted in UTC, as partitions are, so that nothing goes
-- this way that goes with its partition: only what a queue keeps shorter than the one that keeps
-- most, and what lies in the default partition.
-- Locks: the rows it deletes. Index: job_attempts_job_idx, newest days left out by partition.
create or replace function meshhook.delete_expired_attempts(chunk integer default 5000)
returns integer language plpgsql set timezone = 'UTC' as $$
declare
    config record;
    deleted integer := 0;
    gone integer;
begin
    for config in
        select q.queue_name,
            date_trunc('day', now()) - make_interval(days => q.history_retention_days) as keep_from
        from meshhook.queue_config q
    loop
        exit when deleted >= chunk;
        delete from meshhook.job_attempts a
        using (select tableoid as part, ctid as place from meshhook.job_attempts
               where queue = config.queue_name and finished_at < config.keep_from
               limit chunk - deleted) old
        where a.tableoid = old.part and a.ctid = old.place
          and a.queue = config.queue_name and a.finished_at < config.keep_from;
        get diagnostics gone = row_count;
        deleted := deleted + gone;
    end loop;
    return deleted;
end
$$;

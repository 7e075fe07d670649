-- Deadlines: a job that was not started before its deadline expires. That is an outcome of its own,
-- and its message moves to the archive, or becomes a dead letter.
-- Locks: ACCESS EXCLUSIVE on meshhook.queue_config, meshhook.job_attempts and its partitions, for new
-- columns and a check that is not validated yet; SHARE on the partitions for the new index, so that
-- settlements wait. Time at size: each attempt is read once, about half a second for 5 million.

set local search_path = pg_catalog, pg_temp;

-- Two grants on one table at once would fail: waits for whoever makes roles.
select pg_advisory_xact_lock(hashtext('meshhook.roles'));

alter table meshhook.queue_config
    add column job_expiry_seconds double precision
        check (job_expiry_seconds between 0.001 and 31622400),
    add column on_expiry text not null default 'archive'
        check (on_expiry in ('archive', 'dead_letter'));

comment on column meshhook.queue_config.job_expiry_seconds is
    'How long after it was enqueued a job may start; then it expires. Null means for ever.';
comment on column meshhook.queue_config.on_expiry is
    'What becomes of the message of a job that expires: archive or dead_letter.';

-- Every row satisfies it, since the old one was narrower: the next migration says so, without a lock
-- that settlements wait for.
alter table meshhook.job_attempts
    drop constraint job_attempts_outcome_check,
    add constraint job_attempts_outcome_check check (outcome in (
        'succeeded', 'retried', 'snoozed', 'dead_lettered', 'cancelled', 'archived', 'lost',
        'replayed', 'expired')) not valid;

-- job_attempts_outcome_idx would have to be built anew to hold these, too.
create index job_attempts_expired_idx on meshhook.job_attempts (queue, msg_id)
    where outcome = 'expired';

-- Checks a deadline of a job's own: the headers `meshhook-expires-at`, a time with its offset from
-- UTC, and `meshhook-expires-in`, seconds since it was enqueued. The error is MHQ07.
create function meshhook.check_deadline(headers jsonb) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    given text := headers ->> 'meshhook-expires-at';
    seconds jsonb := headers -> 'meshhook-expires-in';
    is_sound boolean := true;
begin
    if headers ? 'meshhook-expires-at' and headers ? 'meshhook-expires-in' then
        raise exception using errcode = 'MHQ07', message =
            'headers meshhook-expires-at and meshhook-expires-in were both given; leave one of '
            'them out';
    end if;
    if headers ? 'meshhook-expires-at' then
        begin
            is_sound := jsonb_typeof(headers -> 'meshhook-expires-at') = 'string' and given ~
                '^[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(:[0-9]{2}([.][0-9]{1,6})?)?'
                '(Z|[+-][0-9]{2}:[0-9]{2})$' and isfinite(given::timestamptz);
        exception when data_exception then
            is_sound := false;
        end;
        if not is_sound then
            raise exception using errcode = 'MHQ07', message = format(
                'header meshhook-expires-at: a time with its offset from UTC, as '
                '2030-01-31T08:00:00Z, got %s',
                left((headers -> 'meshhook-expires-at')::text, 100));
        end if;
    end if;
    if headers ? 'meshhook-expires-in' and not (jsonb_typeof(seconds) = 'number'
        and case when jsonb_typeof(seconds) = 'number'
            then seconds::numeric between 0.001 and 31622400 end)
    then
        raise exception using errcode = 'MHQ07', message = format(
            'header meshhook-expires-in: 0.001 to 31622400 seconds (366 days), got %s',
            left(seconds::text, 100));
    end if;
end
$$;

-- Checks headers, and returns those to store: null for none. The error is MHQ07. Of the names that
-- are the queue's own, only policies of a job may be given.
create or replace function meshhook.check_headers(headers jsonb) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    reserved text;
begin
    if jsonb_typeof(headers) not in ('object', 'null') then
        raise exception using errcode = 'MHQ07', message = format(
            'headers are a JSON object of names and values, got %s', left(headers::text, 100));
    end if;
    headers := case when headers in ('{}', 'null') then null else headers end;
    if headers is not null then
        select k into reserved from jsonb_object_keys(headers) as k
            where starts_with(k, 'meshhook-') and k not in ('meshhook-retry',
                'meshhook-expires-at', 'meshhook-expires-in')
            order by k limit 1;
        if found then
            raise exception using errcode = 'MHQ07', message = format(
                'header "%s": names that start with "meshhook-" are the queue''s own',
                left(reserved, 100));
        end if;
        if meshhook.excess_bytes(headers, 65536) is not null then
            raise exception using errcode = 'MHQ07', message = format(
                'the headers are %s bytes of JSON, at most 65536 are allowed',
                meshhook.json_bytes(headers)),
                hint = 'Put data into the message.';
        end if;
        if headers ? 'meshhook-retry' then
            perform meshhook.check_retry_policy(headers -> 'meshhook-retry');
        end if;
        if headers ?| array['meshhook-expires-at', 'meshhook-expires-in'] then
            perform meshhook.check_deadline(headers);
        end if;
    end if;
    return headers;
end
$$;

-- How the newest job with an id ended that has left its queue, by the history: no row if it does
-- not say. Locks: none. Index: job_attempts_job_idx.
create or replace function meshhook.final_outcome(queue text, msg_id bigint)
returns table (outcome text, finished_at timestamptz)
language sql stable set search_path = pg_catalog, pg_temp as $$
    select l.outcome, l.finished_at
    from (
        select a.outcome, a.finished_at from meshhook.job_attempts a
        where a.queue = $1 and a.msg_id = $2
        order by a.finished_at desc, a.attempt desc limit 1
    ) l
    where l.outcome in ('succeeded', 'dead_lettered', 'cancelled', 'archived', 'expired',
        'replayed')
$$;

-- Carries out the open requests of a queue whose job came back to wait, as after a retry or a lost
-- lease, and closes those whose job has left the queue. Workers do so while there are any.
-- Locks: these messages and requests, skipping locked ones. Indexes: cancellations_open_idx, the
-- primary key of the queue's table, job_attempts_job_idx.
create or replace function meshhook.carry_out_cancellations(queue text) returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    closed bigint;
begin
    execute format($query$
        select count(m.result) from (
            select array_agg(c.msg_id) as ids, array_agg(c.enqueued_at) as times,
                array_agg(c.reason) as reasons
            from (
                select c.msg_id, c.enqueued_at, c.reason
                from meshhook.cancellations c, pgmq.%I q
                where c.queue = $1 and c.ended_at is null
                  and q.msg_id = any (array[c.msg_id]) and q.enqueued_at = c.enqueued_at
                  and meshhook.message_state_now(q.vt, q.read_ct, q.headers) <> 'running'
                limit 1000) c
        ) p,
        lateral meshhook.cancel_messages($1, p.ids, p.times, p.reasons, null, null) m
        where p.ids is not null and m.result = 'cancelled'
        $query$, 'q_' || queue) using queue into closed;
    execute format($query$
        update meshhook.cancellations c
        set ended_at = clock_timestamp(), outcome = (
            select a.outcome from meshhook.job_attempts a
            where a.queue = $1 and a.msg_id = c.msg_id and a.enqueued_at = c.enqueued_at
              and a.outcome in ('succeeded', 'dead_lettered', 'cancelled', 'archived', 'expired')
            order by a.finished_at desc, a.attempt desc limit 1)
        where c.queue = $1 and c.msg_id = any (array(
            select o.msg_id from meshhook.cancellations o
            where o.queue = $1 and o.ended_at is null and not exists (
                select from pgmq.%I q
                where q.msg_id = any (array[o.msg_id]) and q.enqueued_at = o.enqueued_at)
            limit 1000 for update skip locked))
        $query$, 'q_' || queue) using queue;
    return closed;
end
$$;

-- Looks at groups that have not ended, those longest not looked at first, and ends those of which
-- no message is left: their jobs were settled by workers of an older version, which do not count
-- them, or deleted. Outcomes are taken from the history; a job without one is lost. A callback that
-- could not be enqueued is tried again. Returns how many were looked at.
-- A job that a settlement under way removes is still seen here, and counted there.
-- Locks: the groups, skipping locked ones. Indexes: job_groups_open_idx, the primary key of the
-- queue's table, job_attempts_job_idx.
create or replace function meshhook.repair_groups(
    queue text, not_since interval default '1 minute', max_groups integer default 100,
    only_name text default null)
returns integer
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    part record;
    seen integer := 0;
    has_messages boolean;
    found_counts record;
begin
    for part in
        select g.* from meshhook.job_groups g
        where g.queue = repair_groups.queue
          and (g.finished_at is null or (g.callback_queue is not null and g.callback_id is null))
          and g.checked_at <= clock_timestamp() - not_since
          and (only_name is null or g.name = only_name)
        order by g.checked_at
        limit max_groups
        for update skip locked
    loop
        seen := seen + 1;
        if part.finished_at is null then
            has_messages := false;
            if to_regclass(format('pgmq.%I', 'q_' || part.queue)) is not null then
                execute format(
                    'select exists (
                        select from unnest($1) as r (ids)
                        cross join lateral (
                            select from pgmq.%I q
                            where q.msg_id >= lower(r.ids) and q.msg_id < upper(r.ids)
                              and q.enqueued_at = $2
                            limit 1) found)', 'q_' || part.queue)
                    into has_messages using part.msg_ids, part.created_at;
            end if;
            if not has_messages then
                select count(*) filter (where o.outcome = 'succeeded')::integer as succeeded,
                    count(*) filter (where o.outcome = 'cancelled')::integer as cancelled,
                    count(*) filter (where o.outcome = 'failed')::integer
                        as failed
                    into found_counts
                    from unnest(part.msg_ids) as r (ids)
                    cross join lateral generate_series(lower(r.ids), upper(r.ids) - 1) as i (msg_id)
                    cross join lateral (
                        select meshhook.outcome_in_group(a.outcome, a.error_type) as outcome
                        from meshhook.job_attempts a
                        where a.queue = part.queue and a.msg_id = i.msg_id
                          and a.enqueued_at = part.created_at
                          and a.finished_at >= part.created_at - interval '1 minute'
                          and a.outcome in ('succeeded', 'dead_lettered', 'cancelled', 'archived',
                              'expired')
                        limit 1) o;
                -- What the history no longer has was counted; what was not counted, it has.
                update meshhook.job_groups g
                    set succeeded = greatest(g.succeeded, found_counts.succeeded),
                        cancelled = greatest(g.cancelled, found_counts.cancelled),
                        failed = greatest(g.total - greatest(g.succeeded, found_counts.succeeded)
                            - greatest(g.cancelled, found_counts.cancelled), 0),
                        lost = greatest(g.total - greatest(g.succeeded, found_counts.succeeded)
                            - greatest(g.cancelled, found_counts.cancelled)
                            - greatest(g.failed, found_counts.failed), 0),
                        finished_at = clock_timestamp()
                    where g.id = part.id;
                part.finished_at := clock_timestamp();
            end if;
        end if;
        if part.finished_at is not null then
            perform meshhook.enqueue_group_callback(part.id);
        end if;
        update meshhook.job_groups g set checked_at = clock_timestamp() where g.id = part.id;
    end loop;
    return seen;
end
$$;

-- Deletes jobs that do not run with everything about them: the message, a dead letter, the history.
-- For each job `result` is deleted, unchanged or not_found; and `was` its state or outcome.
-- A job whose message another transaction has locked counts as running; one whose dead letter is
-- locked is left alone. It waits for transactions that delete the same history, and for those in
-- which a job of the same group has ended.
-- Locks: the deleted rows, skipping locked messages, dead letters, unique keys and requests; the
-- groups, as meshhook.count_ended_jobs. Indexes: the primary key of the queue's table,
-- q_<queue>_dlq_origin_idx, job_attempts_job_idx, the primary keys.
create or replace function meshhook.erase_jobs(
    queue text, msg_ids bigint[], state text default null)
returns table (msg_id bigint, result text, was text)
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    perform meshhook.check_queue(queue);
    return query execute format($query$
        with wanted as materialized (
            select distinct u.msg_id from unnest($2) as u (msg_id)
        ), seen as materialized (
            select q.msg_id from wanted w, pgmq.%1$I q where q.msg_id = any (array[w.msg_id])
        ), locked as materialized (
            select q.msg_id, meshhook.message_state_now(q.vt, q.read_ct, q.headers) as state
            from wanted w, pgmq.%1$I q
            where q.msg_id = any (array[w.msg_id])
            for update of q skip locked
        ), dead as materialized (
            select w.msg_id, d.msg_id as letter_id from wanted w, pgmq.%2$I d
            where left(d.headers #>> '{meshhook-dead-letter,msg_id}', 20) = w.msg_id::text
              and coalesce(d.headers #>> '{meshhook-dead-letter,queue}', $1) = $1
        ), locked_dead as materialized (
            select d.msg_id as letter_id from dead e, pgmq.%2$I d
            where d.msg_id = any (array[e.letter_id])
            for update of d skip locked
        ), busy as materialized (
            -- Such as a dead letter that is being replayed.
            select e.msg_id from dead e
            where (e.letter_id in (select d.letter_id from locked_dead d)) is not true
        ), removed as (
            delete from pgmq.%1$I q using locked l
            where q.msg_id = any (array[l.msg_id]) and l.state <> 'running'
              and ($3 is null or l.state = $3)
              and (l.msg_id in (select b.msg_id from busy b)) is not true
            returning q.msg_id, q.enqueued_at, l.state,
                case when pg_column_size(q.headers) <= 80000
                    then meshhook.unique_key_of(q.headers) end as unique_key,
                case when pg_column_size(q.headers) <= 80000
                    then q.headers ->> 'meshhook-group' end as group_id
        ), counted as materialized (
            select meshhook.count_ended_jobs($1, array_agg(r.group_id), array_agg(r.msg_id),
                array_agg('cancelled'::text))
            from removed r
            where r.group_id is not null
            having count(*) > 0
        ), unlocked_keys as materialized (
            -- One that a sender has locked holds nothing once its message is gone.
            select u.key from removed r, meshhook.unique_keys u
            where u.queue = $1 and u.key = any (array[r.unique_key])
              and u.msg_id = any (array[r.msg_id]) and u.enqueued_at = any (array[r.enqueued_at])
            for update of u skip locked
        ), freed as (
            delete from meshhook.unique_keys u using unlocked_keys k
            where u.queue = $1 and u.key = any (array[k.key])
        ), erased as materialized (
            select w.msg_id from wanted w
            where w.msg_id in (select r.msg_id from removed r)
               or ($3 is null and w.msg_id not in (select s.msg_id from seen s)
                   and w.msg_id not in (select b.msg_id from busy b))
        ), buried as (
            delete from pgmq.%2$I d using dead e
            where d.msg_id = any (array[e.letter_id])
              and (e.msg_id in (select x.msg_id from erased x)) is true
            returning e.msg_id
        ), forgotten as (
            delete from meshhook.job_attempts a using erased e
            where a.queue = $1 and a.msg_id = any (array[e.msg_id])
            returning a.msg_id, a.outcome
        ), emptied as (
            delete from meshhook.finished_jobs k using erased e
            where k.queue = $1 and k.msg_id = any (array[e.msg_id])
            returning k.msg_id
        ), unlocked_requests as materialized (
            -- One that is being closed is deleted a day later.
            select c.msg_id from erased e, meshhook.cancellations c
            where c.queue = $1 and c.msg_id = any (array[e.msg_id])
            for update of c skip locked
        ), withdrawn as (
            delete from meshhook.cancellations c using unlocked_requests e
            where c.queue = $1 and c.msg_id = any (array[e.msg_id])
        )
        select w.msg_id, case
                when e.msg_id is null and s.msg_id is null and b.msg_id is null
                    and f.outcome is null then 'not_found'
                when e.msg_id is null then 'unchanged'
                when r.msg_id is not null or w.msg_id in (select u.msg_id from buried u)
                    or w.msg_id in (select o.msg_id from forgotten o)
                    or w.msg_id in (select k.msg_id from emptied k) then 'deleted'
                else 'not_found' end,
            case when r.msg_id is not null then r.state
                when s.msg_id is not null then coalesce(l.state, 'running')
                when b.msg_id is not null or w.msg_id in (select u.msg_id from buried u)
                    then 'dead_lettered'
                when e.msg_id is null then f.outcome
                else (select o.outcome from forgotten o where o.msg_id = w.msg_id
                      and o.outcome in ('succeeded', 'cancelled', 'archived', 'expired', 'replayed',
                          'dead_lettered') limit 1) end
        from wanted w
        left join erased e on e.msg_id = w.msg_id
        left join seen s on s.msg_id = w.msg_id
        left join (select distinct b.msg_id from busy b) b on b.msg_id = w.msg_id
        left join locked l on l.msg_id = w.msg_id
        left join removed r on r.msg_id = w.msg_id
        left join lateral meshhook.final_outcome($1, w.msg_id) f
            on e.msg_id is null and s.msg_id is null
        -- Asked for, so that it runs.
        where (select count(*) from counted) >= 0
        order by w.msg_id
        $query$, 'q_' || queue, 'q_' || queue || '_dlq')
        using queue, msg_ids, state;
end
$$;

-- Refuses arguments of find_jobs that are out of range, or do not go together.
create or replace function meshhook.check_search(
    key text, state text, error_type text, since timestamptz, until timestamptz,
    max_jobs integer, max_read integer)
returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    problem text := case
        when (max_jobs between 1 and 1000) is not true
            then format('max_jobs is 1 to 1000, got %s', coalesce(max_jobs::text, 'null'))
        when (max_read between 1 and 10000000) is not true
            then format('max_read is 1 to 10000000, got %s', coalesce(max_read::text, 'null'))
        when state not in ('ready', 'scheduled', 'running', 'retrying', 'lost', 'succeeded',
                'dead_lettered', 'cancelled', 'archived', 'expired', 'replayed')
            then format('state is ready, scheduled, running, retrying, lost, succeeded, '
                'dead_lettered, cancelled, archived, expired or replayed, got "%s"',
                left(state, 100))
        when since >= until
            then format('since is before until, got %s and %s', since, until)
        when key is not null and (error_type is not null or state in ('succeeded',
                'dead_lettered', 'cancelled', 'archived', 'expired', 'replayed'))
            then 'key: the history has no keys; leave out error_type, and states of jobs that '
                'have ended' end;
begin
    if problem is not null then
        raise exception using errcode = 'MHQ08', message = problem;
    end if;
end
$$;

-- The same of jobs with attempts that fit: each id once, and at most `max_read` attempts are looked
-- at, or those of one job. Locks: none. Index: job_attempts_run_idx for a run with no more of them,
-- job_attempts_error_idx, job_attempts_outcome_idx, job_attempts_expired_idx; else
-- job_attempts_job_idx.
create or replace function meshhook.find_recorded(
    queue text, run_id text, workflow_id text, project_id text, outcome text, error_type text,
    since timestamptz, until timestamptz, before_id bigint, max_jobs integer, max_read integer,
    out msg_ids bigint[], out read_from bigint)
language plpgsql stable set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
declare
    lowest_id constant bigint := -9223372036854775808;
    in_range text := 'a.queue = $1 and a.msg_id > $2 and a.msg_id < $3';
    in_order text := 'a.msg_id desc';
    nth text;
    first_id bigint;
    unread_id bigint;
begin
    if run_id is not null and max_read >= (
        select count(*) from (
            select from meshhook.job_attempts a where a.run_id = find_recorded.run_id
            limit max_read + 1) r)
    then
        -- No other index than that of the run serves such conditions.
        in_range := 'a.run_id = $4 and a.queue || '''' = $1 and a.msg_id + 0 > $2 '
            'and a.msg_id + 0 < $3';
        in_order := 'a.msg_id + 0 desc';
    elsif error_type is not null then
        in_range := in_range || ' and a.error_type = $8';
    elsif outcome in ('dead_lettered', 'cancelled', 'archived', 'replayed') then
        in_range := in_range || ' and a.outcome = $7 and a.outcome in (''dead_lettered'', '
            '''cancelled'', ''archived'', ''replayed'')';
    elsif outcome = 'expired' then
        in_range := in_range || ' and a.outcome = ''expired''';
    end if;
    in_range := in_range || ' and a.finished_at >= coalesce($9, ''-infinity'') '
        'and ($10 is null or a.finished_at < $10)';
    nth := format('select a.msg_id from meshhook.job_attempts a where %s order by %s '
        'offset $11 limit 1', in_range, in_order);
    execute nth into unread_id
        using queue, lowest_id, before_id, run_id, workflow_id, project_id, outcome, error_type,
            since, until, max_read;
    if unread_id is not null then
        execute nth into first_id
            using queue, lowest_id, before_id, run_id, workflow_id, project_id, outcome,
                error_type, since, until, 0;
        unread_id := least(unread_id, first_id - 1);
    end if;
    execute format($query$
        select array(
            select a.msg_id from meshhook.job_attempts a
            where %s
              and ($4 is null or a.run_id = $4)
              and ($5 is null or a.workflow_id = $5)
              and ($6 is null or a.project_id = $6)
              and ($7 is null or a.outcome = $7)
              and ($8 is null or a.error_type = $8)
            group by a.msg_id
            order by %s limit $11)
        $query$, in_range, in_order)
        into msg_ids
        using queue, coalesce(unread_id, lowest_id), before_id, run_id, workflow_id, project_id,
            outcome, error_type, since, until, max_jobs;
    read_from := case when cardinality(msg_ids) = max_jobs then msg_ids[max_jobs]
        else unread_id + 1 end;
end
$$;

-- Finds jobs of a queue, in it and in the history, by descending msg_id: up to `max_jobs` with ids
-- below `before_id`, or more where several have the last id. The next page is before the lowest
-- msg_id of this one; a page without rows is the end. It looks at no more than `max_read` messages
-- and as many attempts: if that was not all, and not enough was found, the last row is no job. Its
-- state is unread, and its msg_id the one before which the next page goes on.
-- Locks: none. Indexes: as find_messages and find_recorded; then the primary key of the queue's
-- table and job_attempts_job_idx for each job.
create or replace function meshhook.find_jobs(
    queue text, run_id text default null, workflow_id text default null,
    project_id text default null, key text default null, state text default null,
    error_type text default null, since timestamptz default null, until timestamptz default null,
    before_id bigint default null, max_jobs integer default 50, max_read integer default 100000)
returns setof meshhook.found_job
language plpgsql stable set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
declare
    finals constant text[] :=
        array['succeeded', 'dead_lettered', 'cancelled', 'archived', 'expired', 'replayed'];
    is_final boolean := coalesce(state = any (finals), false);
    found_ids bigint[] := '{}';
    read_from bigint;
    part record;
    found_jobs bigint;
begin
    perform meshhook.check_queue(queue);
    perform meshhook.check_search(key, state, error_type, since, until, max_jobs, max_read);
    run_id := left(run_id, 200);
    workflow_id := left(workflow_id, 200);
    project_id := left(project_id, 200);
    key := left(key, 200);
    before_id := coalesce(before_id, 9223372036854775807);
    -- Of those that are in their queue, the history knows which had an error, and the queue which
    -- has a key.
    if not is_final and error_type is null then
        select m.* into part from meshhook.find_messages(queue, run_id, workflow_id, project_id,
            key, state, since, until, before_id, max_jobs, max_read) m;
        found_ids := part.msg_ids;
        read_from := part.read_from;
    end if;
    if key is null and (is_final or state is null or error_type is not null) then
        select r.* into part from meshhook.find_recorded(queue, run_id, workflow_id, project_id,
            case when is_final then state end, error_type, since, until, before_id, max_jobs,
            max_read) r;
        found_ids := found_ids || part.msg_ids;
        read_from := greatest(read_from, part.read_from);
    end if;
    return query execute format($query$
        select j.msg_id, j.state, j.attempts, j.run_id, j.workflow_id, j.project_id,
            j.enqueued_at, j.ready_at, j.finished_at, j.error_type, j.error_message, j.replayed_as
        from (select distinct i.msg_id from unnest($1) as i (msg_id)
            where i.msg_id >= coalesce($2, i.msg_id)) c
        cross join lateral (
            select c.msg_id, case when f.outcome = any ($3) then f.outcome
                    else coalesce(l.state, f.outcome) end as state,
                coalesce(case when f.outcome = any ($3) then f.attempt end, l.attempts, f.attempt)
                    as attempts,
                coalesce(l.run_id, f.run_id) as run_id,
                coalesce(l.workflow_id, f.workflow_id) as workflow_id,
                coalesce(l.project_id, f.project_id) as project_id,
                coalesce(l.enqueued_at, f.enqueued_at) as enqueued_at,
                case when (f.outcome = any ($3)) is not true then l.vt end as ready_at,
                f.finished_at, f.error_type, f.error_message, f.replayed_as,
                l.state is not null as is_in_queue
            from (
                select meshhook.message_state(q.vt, q.read_ct, q.headers) as state,
                    meshhook.attempts_made(q.read_ct, q.headers) as attempts,
                    meshhook.message_id_text(q.message, 'run_id') as run_id,
                    meshhook.message_id_text(q.message, 'workflow_id') as workflow_id,
                    meshhook.message_id_text(q.message, 'project_id') as project_id,
                    q.enqueued_at, q.vt
                from pgmq.%I q
                where q.msg_id = any (array[c.msg_id])
            ) l
            full join (
                select distinct on (a.enqueued_at) a.outcome, a.attempt, a.run_id, a.workflow_id,
                    a.project_id, a.enqueued_at, a.finished_at, a.error_type, a.error_message,
                    a.replayed_as
                from meshhook.job_attempts a
                where a.queue = $4 and a.msg_id = any (array[c.msg_id])
                order by a.enqueued_at, a.finished_at desc, a.attempt desc
            ) f on f.enqueued_at = l.enqueued_at
        ) j
        where ($5 is null or j.run_id = $5)
          and ($6 is null or j.workflow_id = $6)
          and ($7 is null or j.project_id = $7)
          and ($8 is null or j.is_in_queue)
          and ($9 is null or j.state = $9)
          and ($10 is null or j.error_type = $10)
          and ($11 is null or case when j.state <> all ($3) and j.is_in_queue and $10 is null
                then j.enqueued_at else j.finished_at end >= $11)
          and ($12 is null or case when j.state <> all ($3) and j.is_in_queue and $10 is null
                then j.enqueued_at else j.finished_at end < $12)
        order by j.msg_id desc fetch first ($13) rows with ties
        $query$, 'q_' || queue)
        using found_ids, read_from, finals, queue, run_id, workflow_id, project_id, key, state,
            error_type, since, until, max_jobs;
    get diagnostics found_jobs = row_count;
    if found_jobs < max_jobs and read_from is not null then
        return next row(read_from, 'unread', null, null, null, null, null, null, null, null, null,
            null)::meshhook.found_job;
    end if;
end
$$;

-- What the attempts of the last 24 hours came to, a queue and an hour.
create or replace view meshhook.job_statistics as
select
    a.queue,
    date_trunc('hour', a.finished_at, 'UTC') as hour,
    count(*) filter (where a.outcome <> 'replayed') as attempts,
    count(*) filter (where a.outcome = 'succeeded') as succeeded,
    count(*) filter (where a.outcome = 'retried') as retried,
    count(*) filter (where a.outcome = 'snoozed') as snoozed,
    count(*) filter (where a.outcome = 'dead_lettered') as dead_lettered,
    count(*) filter (where a.outcome = 'cancelled') as cancelled,
    count(*) filter (where a.outcome = 'archived') as archived,
    count(*) filter (where a.outcome = 'lost') as lost,
    count(*) filter (where a.outcome = 'replayed') as replayed,
    avg(r.run_seconds) as mean_run_seconds,
    percentile_cont(0.5) within group (order by r.run_seconds) as p50_run_seconds,
    percentile_cont(0.95) within group (order by r.run_seconds) as p95_run_seconds,
    count(*) filter (where a.outcome = 'expired') as expired
from meshhook.job_attempts a
cross join lateral (
    select case when isfinite(a.started_at)
        then extract(epoch from a.finished_at - a.started_at) end as run_seconds
) r
where a.finished_at > now() - interval '24 hours' and a.finished_at < 'infinity'
group by a.queue, date_trunc('hour', a.finished_at, 'UTC');

-- * Roles made before
-- Whoever sets limits sets when jobs expire.

do $$
declare
    grantee record;
begin
    for grantee in
        select distinct r.rolname as name
        from pg_roles r, pg_attribute t, aclexplode(t.attacl) a
        where t.attrelid = 'meshhook.queue_config'::regclass and t.attname = 'max_running'
          and a.privilege_type = 'UPDATE' and a.grantee = r.oid
    loop
        execute format('grant update (job_expiry_seconds, on_expiry) on meshhook.queue_config '
            'to %I', grantee.name);
    end loop;
end
$$;

update meshhook.role_grants set columns = columns || array['job_expiry_seconds', 'on_expiry']
    where kind = 'oncall' and object = 'table meshhook.queue_config' and privilege = 'update'
      and not 'on_expiry' = any (columns);

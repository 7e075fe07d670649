-- Jobs are found from SQL by their priority, too, as the library finds them.
-- Locks: none that others hold. Time at size: milliseconds; no queue is touched.

set local search_path = pg_catalog, pg_temp;

drop function meshhook.find_jobs(
    text, text, text, text, text, text, text, timestamptz, timestamptz, bigint, integer, integer);
drop function meshhook.find_messages(
    text, text, text, text, text, text, timestamptz, timestamptz, bigint, integer, integer);

-- The ids of up to `max_jobs` messages of a queue that fit, with ids below `before_id`, the newest
-- first; and from which id up these are all: null if there are no others. At most `max_read` are
-- looked at. Locks: none. Index: that of the run, the workflow or the project, if the queue has it;
-- else the primary key.
create function meshhook.find_messages(
    queue text, run_id text, workflow_id text, project_id text, key text, state text,
    since timestamptz, until timestamptz, before_id bigint, max_jobs integer, max_read integer,
    band integer, out msg_ids bigint[], out read_from bigint)
language plpgsql stable set search_path = pg_catalog, pg_temp
-- Statistics of a queue are always old: it must read by its indexes all the same.
set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
declare
    lowest_id constant bigint := -9223372036854775808;
    key_names text[] := (
        select string_to_array(case when c.keyed then c.key_path end, '.')
        from meshhook.queue_config c where c.queue = find_messages.queue);
    lookup record;
    in_range text := 'q.msg_id > $1 and q.msg_id < $2';
    in_order text := 'q.msg_id desc';
    unread_id bigint;
begin
    select n.wanted, format('meshhook.indexed_id(q.message, %L) collate "C"', n.name) as id
        into lookup
        from unnest(array['run_id', 'workflow_id', 'project_id'],
            array[run_id, workflow_id, project_id]) with ordinality as n (name, wanted, place)
        where n.wanted is not null and n.name = any (meshhook.indexed_ids(queue))
        order by n.place limit 1;
    if lookup.id is not null then
        -- Not an =, with which the order would be that of the primary key as well.
        in_range := format('(%1$s, q.msg_id) > ($3, $1) and (%1$s, q.msg_id) < ($3, $2)',
            lookup.id);
        in_order := lookup.id || ' desc, q.msg_id desc';
    end if;
    execute format('select q.msg_id from pgmq.%I q where %s order by %s offset $4 limit 1',
            'q_' || queue, in_range, in_order)
        into unread_id using lowest_id, before_id, lookup.wanted, max_read;
    execute format($query$
        select array(
            select q.msg_id from pgmq.%I q
            where %s
              and ($4 is null or meshhook.message_id_text(q.message, 'run_id') = $4)
              and ($5 is null or meshhook.message_id_text(q.message, 'workflow_id') = $5)
              and ($6 is null or meshhook.message_id_text(q.message, 'project_id') = $6)
              and ($7 is null or meshhook.key_text(case when $8 is null
                    then q.headers ->> 'x-pgmq-group' else q.message #>> $8 end) = $7)
              and ($9 is null or meshhook.message_state(q.vt, q.read_ct, q.headers) = $9)
              and ($10 is null or q.enqueued_at >= $10)
              and ($11 is null or q.enqueued_at < $11)
              and ($13 is null or meshhook.priority_of(q.headers) = $13)
            order by %s limit $12)
        $query$, 'q_' || queue, in_range, in_order)
        into msg_ids
        using coalesce(unread_id, lowest_id), before_id, lookup.wanted, run_id, workflow_id,
            project_id, key, key_names, state, since, until, max_jobs, band;
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
create function meshhook.find_jobs(
    queue text, run_id text default null, workflow_id text default null,
    project_id text default null, key text default null, state text default null,
    error_type text default null, since timestamptz default null, until timestamptz default null,
    before_id bigint default null, max_jobs integer default 50, max_read integer default 100000,
    priority text default null)
returns setof meshhook.found_job
language plpgsql stable set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
declare
    finals constant text[] :=
        array['succeeded', 'dead_lettered', 'cancelled', 'archived', 'expired', 'replayed'];
    band constant integer := meshhook.priority_number(priority);
    is_final boolean := coalesce(state = any (finals), false);
    found_ids bigint[] := '{}';
    read_from bigint;
    part record;
    found_jobs bigint;
begin
    perform meshhook.check_queue(queue);
    perform meshhook.check_search(key, state, error_type, since, until, max_jobs, max_read);
    if band is not null and (error_type is not null or is_final) then
        raise exception using errcode = 'MHQ08', message =
            'priority: the history has no priorities; leave out error_type, and states of jobs '
            'that have ended';
    end if;
    run_id := left(run_id, 200);
    workflow_id := left(workflow_id, 200);
    project_id := left(project_id, 200);
    key := left(key, 200);
    before_id := coalesce(before_id, 9223372036854775807);
    -- Of those that are in their queue, the history knows which had an error, and the queue which
    -- has a key or a priority.
    if not is_final and error_type is null then
        select m.* into part from meshhook.find_messages(queue, run_id, workflow_id, project_id,
            key, state, since, until, before_id, max_jobs, max_read, band) m;
        found_ids := part.msg_ids;
        read_from := part.read_from;
    end if;
    if key is null and band is null and (is_final or state is null or error_type is not null) then
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
          and ($8 is null and $14 is null or j.is_in_queue)
          and ($9 is null or j.state = $9)
          and ($10 is null or j.error_type = $10)
          and ($11 is null or case when j.state <> all ($3) and j.is_in_queue and $10 is null
                then j.enqueued_at else j.finished_at end >= $11)
          and ($12 is null or case when j.state <> all ($3) and j.is_in_queue and $10 is null
                then j.enqueued_at else j.finished_at end < $12)
        order by j.msg_id desc fetch first ($13) rows with ties
        $query$, 'q_' || queue)
        using found_ids, read_from, finals, queue, run_id, workflow_id, project_id, key, state,
            error_type, since, until, max_jobs, band;
    get diagnostics found_jobs = row_count;
    if found_jobs < max_jobs and read_from is not null then
        return next row(read_from, 'unread', null, null, null, null, null, null, null, null, null,
            null)::meshhook.found_job;
    end if;
end
$$;

comment on function meshhook.find_jobs(
    text, text, text, text, text, text, text, timestamptz, timestamptz, bigint, integer, integer,
    text) is
    'Finds jobs of a queue, in it and in the history, by descending msg_id. Pass all but the first '
    'argument by name.';

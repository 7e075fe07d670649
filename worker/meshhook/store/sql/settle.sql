-- Records the outcome of a batch of attempts, each fenced by (msg_id, enqueued, read_ct), and
-- returns the positions of those whose lease still held and had no outcome yet; the rest change
-- nothing. An attempt of null is the one that `read_ct` counts.
-- Deletes, retries, dead letters, archives and history are one statement: all or nothing.
-- With breakers, it counts failures in a row of keys: $18 says which attempts have failed.
-- Where bodies are kept, it keeps those of jobs that succeeded or were cancelled.
-- With a budget, retries that are more than it are put off until there is room. Those whose lease
-- is lost spend none of it.
-- Locks: the settled rows; with a budget the queue's row of meshhook.starts; with breakers then
-- those of keys, in their order. Index: the primary key of the queue's table.{links}
-- With links, it does what hangs on the jobs that end, too: it frees their unique keys, counts them
-- in their groups, enqueues what follows them or their dead letters, keeps results, and tells
-- whoever waits for an end.
-- A key is freed unless it is kept for a time and the job succeeded. One that a sender has locked
-- is not waited for: it holds nothing once its message is gone.
-- $18 is for breakers, and $19 to $24 are the follow-ups: position of the job, queue, message,
-- headers, key, delay. $25 are results.
-- Locks, with links: the freed keys, too, skipping locked ones; the groups, in the order of their
-- ids. Indexes: the primary keys.{/links}
with item as materialized (
    select * from unnest(
        $2::bigint[], $3::int[], $4::float8[], $5::int[], $6::text[], $7::float8[], $8::float8[],
        $9::float8[], $10::text[], $11::text[], $12::text[], $13::text[], $14::text[], $15::text[],
        $16::text[]
    ) with ordinality as item (
        msg_id, read_ct, enqueued, attempt, outcome, started_at, finished_at, delay_seconds,
        run_id, workflow_id, project_id, error_type, error_message, error_stack, trace_id, position)
), removed as (
    delete from {queue_table} q using item
    -- Not a plain =, as in sql/claim.sql.
    where q.msg_id = any (array[item.msg_id]) and q.read_ct = item.read_ct
      and pg_catalog.date_part('epoch', q.enqueued_at) = item.enqueued
      and q.read_ct <> meshhook.settled_attempts(q.headers)
      and item.outcome in ('succeeded', 'dead_lettered', 'cancelled', 'archived', 'expired')
    returning item.*, q.enqueued_at, q.vt{breakers}, {key} as key{/breakers},{kept}
        q.message as whole_message, q.headers as whole_headers,{/kept}{links}
        case when pg_catalog.pg_column_size(q.headers) <= 80000
            then meshhook.unique_key_of(q.headers) end as unique_key,
        case when pg_catalog.pg_column_size(q.headers) <= 80000
            then q.headers ->> 'meshhook-group'::text end as group_id,{/links}
        case when item.outcome in ('dead_lettered', 'archived', 'expired')
            then q.message end as message,
        case when item.outcome in ('dead_lettered', 'archived', 'expired')
            then q.headers end as headers
){budget}, held as materialized (
    -- A retry whose lease is lost, or that was settled before, must spend nothing of the budget.
    select item.position, item.delay_seconds
    from item, {queue_table} q
    -- Not a plain =, as in sql/claim.sql.
    where q.msg_id = any (array[item.msg_id]) and q.read_ct = item.read_ct
      and pg_catalog.date_part('epoch', q.enqueued_at) = item.enqueued
      and q.read_ct <> meshhook.settled_attempts(q.headers)
      and item.outcome = 'retried'
    for update of q
), numbered as materialized (
    select h.position, pg_catalog.row_number() over (order by h.delay_seconds, h.position) as number
    from held h
), granted as materialized (
    select meshhook.grant_retries($17::text, pg_catalog.count(*)::int) as times from numbered
){/budget}, delayed as (
    update {queue_table} q
    set vt = {budget}coalesce((
            select g.times[n.number] from numbered n, granted g
            where n.position = item.position),
        {/budget}pg_catalog.clock_timestamp(){budget}){/budget}
        + pg_catalog.make_interval(secs => item.delay_seconds),
        read_ct = case item.outcome when 'snoozed' then q.read_ct - 1 else q.read_ct end,
        headers = case
            when pg_catalog.pg_column_size(q.headers) > 80000 then q.headers
            when item.outcome = 'snoozed' then meshhook.snoozed_headers(q.read_ct, q.headers)
            else meshhook.headers_object(q.headers)
                || pg_catalog.jsonb_build_object('meshhook-settled', q.read_ct) end
    from item
    -- Not a plain =, as in sql/claim.sql.
    where q.msg_id = any (array[item.msg_id]) and q.read_ct = item.read_ct
      and pg_catalog.date_part('epoch', q.enqueued_at) = item.enqueued
      and q.read_ct <> meshhook.settled_attempts(q.headers)
      and item.outcome in ('retried', 'snoozed')
    returning item.*, q.enqueued_at, q.vt{breakers}, {key} as key{/breakers}
), dead as (
    insert into {dlq_table} (vt, message, headers)
    select pg_catalog.clock_timestamp(), r.message,
        case when pg_catalog.pg_column_size(r.headers) > 80000
            then '{"meshhook-dropped-headers": "of more than 80000 bytes: see the archive"}'::jsonb
            else meshhook.headers_object(r.headers)
                - 'meshhook-settled'::text - 'meshhook-claim'::text end
        || pg_catalog.jsonb_build_object('meshhook-dead-letter', pg_catalog.jsonb_build_object(
            'queue', $17::text, 'msg_id', r.msg_id,
            'attempts', coalesce(r.attempt, r.read_ct)
                - (r.started_at is null and r.error_type = 'LeaseLost')::int,
            'error_type', r.error_type, 'error_message', r.error_message,
            'error_stack', r.error_stack, 'worker', $1::text,
            'first_enqueued_at', r.enqueued_at,
            'last_started_at', pg_catalog.to_timestamp(r.started_at), 'dead_at', pg_catalog.now()))
    from removed r
    where r.outcome = 'dead_lettered'
    order by r.position{links}
    returning msg_id, headers, meshhook.message_id_text(message, 'run_id'::text) as run_id,
        meshhook.message_id_text(message, 'workflow_id'::text) as workflow_id,
        meshhook.message_id_text(message, 'project_id'::text) as project_id{/links}
), archived as (
    insert into {archive_table} (msg_id, read_ct, enqueued_at, vt, message, headers)
    select r.msg_id, r.read_ct, r.enqueued_at, r.vt, r.message, r.headers
    from removed r
    -- To write headers anew that are larger may take seconds: as they are, they are kept here.
    where r.outcome in ('archived', 'expired') or pg_catalog.pg_column_size(r.headers) > 80000
), {kept}kept as (
    insert into meshhook.finished_jobs
        (queue, msg_id, enqueued_at, finished_at, outcome, message, headers)
    select $17::text, r.msg_id, r.enqueued_at,
        least(pg_catalog.to_timestamp(r.finished_at), pg_catalog.clock_timestamp()), r.outcome,
        r.whole_message, r.whole_headers
    from removed r
    where r.outcome in ('succeeded', 'cancelled')
      and meshhook.is_keepable(r.whole_message, r.whole_headers)
), {/kept}settled as (
    select position, msg_id, coalesce(attempt, read_ct) as attempt, outcome, delay_seconds,
        started_at, finished_at, run_id, workflow_id, project_id, error_type, error_message,
        error_stack, trace_id, enqueued_at,
        null::timestamptz as retry_at{breakers}, key{/breakers}
    from removed
    union all
    select position, msg_id, coalesce(attempt, read_ct) as attempt, outcome, delay_seconds,
        started_at, finished_at, run_id, workflow_id, project_id, error_type, error_message,
        error_stack, trace_id, enqueued_at, vt{breakers}, key{/breakers}
    from delayed
), recorded as (
    insert into meshhook.job_attempts (queue, msg_id, attempt, outcome, run_id, workflow_id,
        project_id, worker, enqueued_at, started_at, finished_at, error_type, error_message,
        error_stack, trace_id, retry_at{links}, result{/links})
    select $17::text, s.msg_id, s.attempt, s.outcome, s.run_id, s.workflow_id, s.project_id,
        $1::text, s.enqueued_at, pg_catalog.to_timestamp(s.started_at),
        least(pg_catalog.to_timestamp(s.finished_at), pg_catalog.clock_timestamp()),
        s.error_type, s.error_message, s.error_stack, s.trace_id, s.retry_at{links},
        case when s.outcome = 'succeeded' then ($25::text[])[s.position]::jsonb end{/links}
    from settled s{links}
), unlocked_keys as materialized (
    select u.key from removed r, meshhook.unique_keys u
    -- Not a plain =, as in sql/claim.sql.
    where u.queue = $17::text and u.key = any (array[r.unique_key])
      and u.msg_id = any (array[r.msg_id])
      and u.enqueued_at = any (array[r.enqueued_at])
      and (u.expires_at is null or r.outcome <> 'succeeded')
    for update of u skip locked
), freed as (
    -- A trigger deletes the row.
    update meshhook.unique_keys u set expires_at = '-infinity'
    from unlocked_keys k
    where u.queue = $17::text and u.key = any (array[k.key])
), counted as materialized (
    select meshhook.count_ended_jobs($17::text, pg_catalog.array_agg(r.group_id),
        pg_catalog.array_agg(r.msg_id),
        pg_catalog.array_agg(meshhook.outcome_in_group(r.outcome, r.error_type)))
    from removed r
    where r.group_id is not null
    having pg_catalog.count(*) > 0
), followed as materialized (
    select meshhook.enqueue_follow_ups(
        pg_catalog.array_agg(f.queue order by f.place),
        pg_catalog.array_agg(f.message order by f.place),
        pg_catalog.array_agg(f.headers order by f.place),
        pg_catalog.array_agg(f.key order by f.place),
        pg_catalog.array_agg(f.delay_seconds order by f.place))
    from unnest($19::bigint[], $20::text[], $21::text[], $22::text[], $23::text[], $24::float8[])
        with ordinality as f (position, queue, message, headers, key, delay_seconds, place)
    join removed r on r.position = f.position and r.outcome = 'succeeded'
    having pg_catalog.count(*) > 0
), mourned as materialized (
    select meshhook.follow_dead_letters($17::text,
        pg_catalog.array_agg(d.msg_id order by d.msg_id),
        pg_catalog.array_agg(d.headers order by d.msg_id),
        pg_catalog.array_agg(d.run_id order by d.msg_id),
        pg_catalog.array_agg(d.workflow_id order by d.msg_id),
        pg_catalog.array_agg(d.project_id order by d.msg_id))
    from dead d
    having pg_catalog.count(*) > 0
), announced as materialized (
    select meshhook.announce_ends($17::text) from removed limit 1{/links}
)
select position{budget}, (
        select pg_catalog.count(*) from granted g, unnest(g.times) as t (at)
        where t.at > pg_catalog.clock_timestamp()) as delayed{/budget}{breakers},
    (select {utf8 meshhook.record_key_failures($17::text, pg_catalog.array_agg(s.key),
        pg_catalog.array_agg(coalesce(s.started_at, s.finished_at)),
        pg_catalog.array_agg(s.error_type))}
    from settled s where ($18::boolean[])[s.position]) as opened,
    (select {utf8 meshhook.record_key_successes($17::text, pg_catalog.array_agg(s.key),
        pg_catalog.array_agg(s.started_at))}
    from settled s where s.outcome = 'succeeded') as closed{/breakers} from settled{links}
-- Asked for, so that they run. Without breakers, $18 has no other place.
where (select pg_catalog.count(*) from counted) + (select pg_catalog.count(*) from followed)
    + (select pg_catalog.count(*) from mourned) + (select pg_catalog.count(*) from announced)
    + coalesce(pg_catalog.cardinality($18::boolean[]), 0) >= 0{/links}

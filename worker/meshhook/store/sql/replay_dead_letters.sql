-- Moves the dead letters $1 to a queue as new messages, and returns (dead letter id, new msg_id) of
-- those that were there and that nobody else had locked. The history gets one row for each whose
-- origin is known, and is this queue. $2 is the queue that they died in. $3 says whether it is
-- the queue that they go to: if its keys are ordered, each keeps its place there. $4 is a new
-- body for them; null leaves each as it is.
-- One statement: a dead letter is moved once or stays. A new message's enqueued_at equals the
-- finished_at of that row, so that the history leads from one to the other in any queue.
-- Locks: the moved rows, skipping locked ones. Index: the primary key of the dead letters.
with moment as materialized (
    select pg_catalog.clock_timestamp() as at
), chosen as materialized (
    select d.msg_id from {dlq_table} d
    where d.msg_id = any ($1::bigint[])
    order by d.msg_id
    for update skip locked
), gone as (
    delete from {dlq_table} d using chosen c
    where d.msg_id = any (array[c.msg_id])
    returning d.msg_id, coalesce($4::jsonb, d.message) as message,
        meshhook.headers_object(d.headers) as headers
), dead as materialized (
    -- Whatever stands under our header, every one of these is null or a sound value.
    select g.msg_id, g.message, g.headers,
        case when pg_catalog.jsonb_typeof(died -> 'queue'::text) = 'string'
            then died ->> 'queue'::text end as queue,
        case when died ->> 'msg_id'::text ~ '^[0-9]{1,18}$'
            then (died ->> 'msg_id'::text)::bigint end as origin_msg_id,
        case when died ->> 'attempts'::text ~ '^[0-9]{1,9}$'
            then (died ->> 'attempts'::text)::int end as attempts,
        case when g.headers #>> '{meshhook-replayed-from,replays}'::text[] ~ '^[0-9]{1,9}$'
            then (g.headers #>> '{meshhook-replayed-from,replays}'::text[])::int
            else 0 end as replays,
        case when died ->> 'first_enqueued_at'::text ~ '^[12][0-9]{3}-' then (coalesce(
            pg_catalog.jsonb_path_query_first_tz(died, '$.first_enqueued_at.datetime(
                "YYYY-MM-DD\"T\"HH24:MI:SS.USTZH:TZM")', silent => true),
            pg_catalog.jsonb_path_query_first_tz(died, '$.first_enqueued_at.datetime(
                "YYYY-MM-DD\"T\"HH24:MI:SSTZH:TZM")', silent => true)
        ) #>> '{}'::text[])::timestamptz end as first_enqueued_at
    from gone g cross join lateral (select g.headers -> 'meshhook-dead-letter'::text) as d (died)
), sent as (
    insert into {target_table} (enqueued_at, vt, message, headers)
    select m.at, m.at, d.message,
        d.headers - 'meshhook-dead-letter'::text - 'meshhook-settled'::text - 'meshhook-claim'::text
            -- What is replayed is wanted now. A deadline in seconds begins anew.
            - 'meshhook-expires-at'::text
        || pg_catalog.jsonb_build_object('meshhook-replayed-from', pg_catalog.jsonb_build_object(
            'queue', coalesce(d.queue, $2::text), 'dead_letter_id', d.msg_id,
            'msg_id', d.origin_msg_id, 'replays', d.replays + 1)
            || case when $3::boolean and d.origin_msg_id is not null
                    and coalesce(d.queue, $2::text) = $2::text and (
                        select c.ordered from meshhook.queue_config c where c.queue = $2::text)
                then pg_catalog.jsonb_build_object(
                    'place', meshhook.place_in_order(d.origin_msg_id, d.headers))
                else '{}'::jsonb end)
    from dead d cross join moment m
    order by d.msg_id
    returning msg_id,
        (headers #>> '{meshhook-replayed-from,dead_letter_id}'::text[])::bigint as dead_letter_id
), recorded as (
    insert into meshhook.job_attempts (queue, msg_id, attempt, outcome, run_id, workflow_id,
        project_id, enqueued_at, finished_at, replayed_as)
    select $2::text, d.origin_msg_id, coalesce(d.attempts, 0), 'replayed',
        meshhook.message_id_text(d.message, 'run_id'),
        meshhook.message_id_text(d.message, 'workflow_id'),
        meshhook.message_id_text(d.message, 'project_id'),
        d.first_enqueued_at, m.at, s.msg_id
    from sent s join dead d on d.msg_id = s.dead_letter_id cross join moment m
    -- One that says it died in another queue proves nothing: its worker may have written that.
    where d.origin_msg_id is not null and coalesce(d.queue, $2::text) = $2::text
), written as materialized (
    select meshhook.audit('dead_letters.replayed', $2::text,
        pg_catalog.jsonb_build_object('dead_letter_ids', pg_catalog.to_jsonb(
            (pg_catalog.array_agg(s.dead_letter_id order by s.dead_letter_id))[1:100])),
        pg_catalog.count(*),
        case when $4::jsonb is not null then '{"body": "replaced"}'::jsonb end)
    from sent s
)
select s.dead_letter_id, s.msg_id from sent s
-- Asked for, so that it is written.
where (select pg_catalog.count(*) from written) >= 0::bigint
order by s.dead_letter_id

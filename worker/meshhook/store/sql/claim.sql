-- Leases up to $3 ready messages from $2 (null: all) to $5 (null: now), oldest first, all of one
-- class: 0 healthy; 1 lost once and with an attempt to spare; 2 lost more than that, taken alone.
-- The class is that of the oldest ready message, so that none waits for ever. An attempt that was
-- lost is added to the history in the same statement. $6 is the queue.
-- A message that is not short, or no UTF-8, has no body here, and is read apart. So has what comes
-- after half a second of making texts: a message of 2,000 bytes may be text of 16 MB. Headers are
-- '' where there are none, and null where they are read apart; the body is then, too.
-- Locks: the rows it looks at, skipping locked ones. Index: q_<queue>_vt_idx.
with looked_at as materialized (
    select q.msg_id, q.vt, case
        when q.read_ct > 0 and q.read_ct > meshhook.settled_attempts(q.headers)
            -- What is larger is unpacked nowhere here: it is read apart, and never runs.
            and coalesce(pg_catalog.pg_column_size(q.headers), 0) <= 80000
        then meshhook.claim_mark($6::text, q.msg_id, q.enqueued_at, q.read_ct, q.headers,
            (select c.adopted_msg_id from meshhook.queue_config c where c.queue = $6::text))
        end as mark
    from {queue_table} q
    where q.vt >= coalesce($2::timestamptz, '-infinity'::timestamptz)
        and q.vt <= least(pg_catalog.now(), $5::timestamptz)
    order by q.vt
    limit $3::int
    for update skip locked
), locked as materialized (
    select l.msg_id, l.vt, l.mark, case
        when l.mark is null or l.mark -> 'lost'::text = '0'::jsonb then 0
        when l.mark -> 'lost'::text = '1'::jsonb
            and (l.mark ->> 'attempt'::text)::int < $4::int then 1
        else 2 end as class
    from looked_at l
), head as materialized (
    select l.class, l.msg_id from locked l order by l.vt, l.msg_id limit 1
), chosen as materialized (
    select l.msg_id, l.vt, l.class, l.mark from locked l cross join head h
    where l.class = h.class and (h.class < 2 or l.msg_id = h.msg_id)
), claimed as (
    update {queue_table} q
    set read_ct = case when c.mark is null then greatest(q.read_ct, 0) + 1
            else (c.mark ->> 'read_ct'::text)::int end,
        {set_last_read_at} vt = pg_catalog.now() + pg_catalog.make_interval(secs => $1::float8),
        headers = case
            when c.mark is not null then
                case when c.mark ->> 'read_ct'::text = '1'::text
                    then meshhook.headers_object(q.headers) - 'meshhook-settled'::text
                    else meshhook.headers_object(q.headers) end
                || pg_catalog.jsonb_build_object('meshhook-claim'::text,
                    c.mark - 'is_recorded'::text)
            -- More settled attempts than reads is other clients' nonsense: settling would fail.
            when meshhook.settled_attempts(q.headers) > greatest(q.read_ct, 0)
                then q.headers - 'meshhook-settled'::text
            else q.headers end
    from chosen c
    -- A plain = would let the planner walk the whole index where it takes the table for empty.
    where q.msg_id = any (array[c.msg_id])
    returning q.msg_id, q.read_ct, q.enqueued_at, c.vt, c.class, q.message, case
        when q.headers is null then ''
        when pg_catalog.clock_timestamp() > (select
            pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => 0.5)) then null
        when pg_catalog.pg_column_size(q.headers) <= 1000
            and pg_catalog.pg_column_compression(q.headers) is null then {utf8 q.headers::text}
        else {utf8 meshhook.short_text(q.headers, false)} end as headers, c.mark
), lost as (
    insert into meshhook.job_attempts (queue, msg_id, attempt, outcome, run_id, workflow_id,
        project_id, enqueued_at, finished_at, error_type, error_message)
    select $6::text, c.msg_id, (c.mark ->> 'attempt'::text)::int - 1, 'lost',
        meshhook.message_id_text(c.message, 'run_id'::text),
        meshhook.message_id_text(c.message, 'workflow_id'::text),
        meshhook.message_id_text(c.message, 'project_id'::text),
        c.enqueued_at, pg_catalog.now(), 'LeaseLost', 'the lease ran out with no outcome'
    from claimed c
    where not (c.mark -> 'is_recorded'::text)::boolean
)
-- Times as seconds since 1970: the driver makes a time of each in ten times the time of a number.
-- What is said to have fallen due before it was there fell due when it came.
select c.msg_id, c.read_ct, pg_catalog.date_part('epoch'::text, c.enqueued_at) as enqueued,
    pg_catalog.date_part('epoch'::text, greatest(c.vt, c.enqueued_at)) as ready, c.class, case
        when c.headers is null then null
        -- As JSON it is null all the same.
        when c.message is null then 'null'
        when pg_catalog.clock_timestamp() > (select
            pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => 0.5)) then null
        when pg_catalog.pg_column_size(c.message) <= 2000
            and pg_catalog.pg_column_compression(c.message) is null then {utf8 c.message::text}
        else {utf8 meshhook.short_text(c.message, false)} end as body,
    c.headers, pg_catalog.date_part('epoch'::text, pg_catalog.now()) as claimed,
    not (c.mark -> 'is_recorded'::text)::boolean as is_new_loss
from claimed c

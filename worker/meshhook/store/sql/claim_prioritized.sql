-- Leases up to $3 ready messages of a queue whose messages have priorities, all of one class, as
-- sql/claim.sql. First come up to $8 of the aged ones: those from high to low that have been ready
-- for $7 seconds of their band, the latest first. Then the bands in their order up to band $9, and
-- in each the oldest. Each band is looked at from its time in $2 (null: all) to its time in $5
-- (null: now). $6 is the queue.
-- The class is that of the first in the order of the bands; but the latest aged message goes first
-- if it is a suspect, so that none waits for ever. However many are aged, they get no more than $8.
-- The columns beyond those of sql/claim.sql are the band, and whether a message was taken for its
-- age. The last row is no message: `claimed` is the time of the database.
-- Locks: the rows it looks at, skipping locked ones. Index: q_<queue>_priority_idx. It is compared
-- and sorted by its first column, too: with a plain =, the planner might walk q_<queue>_vt_idx.
with bounds as materialized (
    select b.band::int - 1 as band, coalesce(b.from_vt, '-infinity'::timestamptz) as from_vt,
        least(pg_catalog.now(), b.to_vt) as to_vt,
        least(pg_catalog.now() - pg_catalog.make_interval(secs => b.aged_seconds), b.to_vt)
            as aged_vt, b.aged_seconds
    from unnest($2::timestamptz[], $5::timestamptz[], $7::float8[])
        with ordinality as b (from_vt, to_vt, aged_seconds, band)
), aged as materialized (
    select a.msg_id, a.vt, a.read_ct, a.headers, a.enqueued_at, b.band,
        pg_catalog.row_number() over (
            order by a.vt + pg_catalog.make_interval(secs => b.aged_seconds), a.msg_id) as place
    from (select * from bounds b where b.band > 0 and b.band <= $9::int and $8::int > 0) b
    cross join lateral (
        select q.msg_id, q.vt, q.read_ct, q.headers, q.enqueued_at
        from {queue_table} q
        where (meshhook.priority_of(q.headers), q.vt) >= (b.band, b.from_vt)
          and (meshhook.priority_of(q.headers), q.vt) <= (b.band, b.aged_vt)
        order by meshhook.priority_of(q.headers), q.vt
        limit $8::int
        for update skip locked
    ) a
), urgent as materialized (
    {band 0}
), high as materialized (
    {band 1}
), normal as materialized (
    {band 2}
), low as materialized (
    {band 3}
), looked_at as materialized (
    select l.msg_id, l.vt, l.band, l.is_aged, case
        when l.read_ct > 0 and l.read_ct > meshhook.settled_attempts(l.headers)
            -- What is larger is unpacked nowhere here: it is read apart, and never runs.
            and coalesce(pg_catalog.pg_column_size(l.headers), 0) <= 80000
        then meshhook.claim_mark($6::text, l.msg_id, l.enqueued_at, l.read_ct, l.headers,
            (select c.adopted_msg_id from meshhook.queue_config c where c.queue = $6::text))
        end as mark
    from (
        select a.msg_id, a.vt, a.read_ct, a.headers, a.enqueued_at, a.band, true as is_aged
        from aged a where a.place <= $8::int
        union all select u.*, 0, false from urgent u
        union all select h.*, 1, false from high h
        union all select n.*, 2, false from normal n
        union all select o.*, 3, false from low o
    ) l
), locked as materialized (
    select l.msg_id, l.vt, l.band, l.is_aged, l.mark, case
        when l.mark is null or l.mark -> 'lost'::text = '0'::jsonb then 0
        when l.mark -> 'lost'::text = '1'::jsonb
            and (l.mark ->> 'attempt'::text)::int < $4::int then 1
        else 2 end as class
    from looked_at l
), head as materialized (
    select f.class, f.msg_id from (
        select l.class, l.msg_id, l.vt, l.band, 0 as rank from locked l
        where l.class > 0
          and (l.msg_id in (select a.msg_id from aged a where a.place = 1)) is true
        union all
        select l.class, l.msg_id, l.vt, l.band, 1 from locked l
    ) f
    order by f.rank, f.band, f.vt, f.msg_id limit 1
), chosen as materialized (
    select l.msg_id, l.vt, l.class, l.mark, l.band, l.is_aged from locked l cross join head h
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
        else {utf8 meshhook.short_text(q.headers, false)} end as headers, c.mark, c.band, c.is_aged
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
    not (c.mark -> 'is_recorded'::text)::boolean as is_new_loss, c.band, c.is_aged
from claimed c
union all
select null::bigint, null::int, null::float8, null::float8, null::int, null::text, null::text,
    pg_catalog.date_part('epoch'::text, pg_catalog.now()), null::boolean, null::int, null::boolean

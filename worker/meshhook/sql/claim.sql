-- Leases up to $3 ready messages from $2 to $5 (null: to now), oldest first, all of one class: 0
-- healthy; 1 lost once and with an attempt to spare; 2 lost more than that, taken alone. The class
-- is that of the oldest ready message, so that none waits for ever.
-- Locks: the rows it looks at, skipping locked ones. Index: q_<queue>_vt_idx.
with locked as materialized (
    select q.msg_id, q.vt, case
        when q.read_ct = 0 then 0
        when q.read_ct <= meshhook.settled_attempts(q.headers) then 0
        when q.read_ct = meshhook.settled_attempts(q.headers) + 1 and q.read_ct + 1 < $4::int then 1
        else 2 end as class
    from {queue_table} q
    where q.vt >= $2::timestamptz and q.vt <= least(now(), $5::timestamptz)
    order by q.vt
    limit $3::int
    for update skip locked
), head as materialized (
    select l.class, l.msg_id from locked l order by l.vt, l.msg_id limit 1
), chosen as materialized (
    select l.msg_id, l.vt, l.class from locked l cross join head h
    where l.class = h.class and (h.class < 2 or l.msg_id = h.msg_id)
)
update {queue_table} q
set read_ct = q.read_ct + 1, {set_last_read_at} vt = now() + make_interval(secs => $1::float8),
    -- More settled attempts than attempts is some other client's nonsense: settling would fail.
    headers = case when meshhook.settled_attempts(q.headers) > q.read_ct
        then q.headers - 'meshhook-settled' else q.headers end
from chosen c
-- A plain = would let the planner walk the whole index where it takes the table for empty.
where q.msg_id = any (array[c.msg_id])
-- Times as seconds since 1970: the driver makes a time of each in ten times the time of a number.
returning q.msg_id, q.read_ct, date_part('epoch', q.enqueued_at) as enqueued,
    date_part('epoch', c.vt) as ready, c.class,
    q.message::text as body, q.headers::text as headers,
    date_part('epoch', now()) as claimed

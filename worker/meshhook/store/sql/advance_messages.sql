-- Makes messages in the states $2 due $1 seconds earlier, as if that much time had passed, in the
-- same order, and returns which of them are due now. For meshhook.testing.
-- Locks: the rows it changes, skipping locked ones. Index: q_<queue>_vt_idx.
with chosen as materialized (
    select q.msg_id, q.vt, q.vt - pg_catalog.make_interval(secs => $1::float8) as earlier
    from {queue_table} q
    where q.vt > pg_catalog.now()
      and meshhook.message_state(q.vt, q.read_ct, q.headers) = any ($2::text[])
    for update skip locked
), placed as (
    select c.msg_id, c.earlier,
        pg_catalog.row_number() over (order by c.vt desc, c.msg_id desc) as place
    from chosen c
)
update {queue_table} q
set vt = greatest(p.earlier, pg_catalog.now()
    - pg_catalog.make_interval(secs => p.place::float8 * 0.000001::float8))
from placed p
-- Not a plain =, as in sql/claim.sql.
where q.msg_id = any (array[p.msg_id])
returning q.msg_id, q.vt <= pg_catalog.now() as is_due

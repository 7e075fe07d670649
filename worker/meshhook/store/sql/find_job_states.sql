-- The state of each of the jobs $2 of queue $1; of one that has left it how it ended, and when.
-- Nulls where nothing says. Locks: none. Indexes: the primary key, job_attempts_job_idx.
select w.msg_id, coalesce(q.state, f.outcome) as was, q.state is not null as is_live,
    case when q.state is null then {moment f.finished_at} end as at
from (select distinct u.msg_id from pg_catalog.unnest($2::bigint[]) as u (msg_id)) w
left join lateral (
    select meshhook.message_state_now(l.vt, l.read_ct, l.headers) as state
    from {queue_table} l
    -- Not a plain =, as in sql/claim.sql.
    where l.msg_id = any (array[w.msg_id])
) q on true
left join lateral meshhook.final_outcome($1::text, w.msg_id) f on q.state is null
order by w.msg_id

-- Locks the kept bodies of the jobs $2 of queue $1, and returns them with the follow-ups in their
-- headers and where each stands. Locks: the rows, skipping locked ones.
-- Index: finished_jobs_job_idx.
select k.msg_id, k.tableoid::bigint as part, k.ctid::text as place,
    case when k.message is null then 'null' else k.message::text end as body,
    f.queue as follow_up_queue, f.message::text as follow_up
from meshhook.finished_jobs k
cross join lateral (
    select k.headers #> '{meshhook-on-dead-letter,message}'::text[] as message,
        k.headers #>> '{meshhook-on-dead-letter,queue}'::text[] as queue
) f
where k.queue = $1::text and k.msg_id = any ($2::bigint[])
order by k.msg_id
for update of k skip locked

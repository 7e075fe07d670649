-- Locks the encrypted results of the jobs $2 of queue $1, and returns them and where each stands.
-- Locks: the rows, skipping locked ones. Index: job_attempts_job_idx.
select a.msg_id, a.tableoid::bigint as part, a.ctid::text as place, a.result::text as body
from meshhook.job_attempts a
where a.queue = $1::text and a.msg_id = any ($2::bigint[]) and meshhook.is_encrypted(a.result)
order by a.msg_id
for update of a skip locked

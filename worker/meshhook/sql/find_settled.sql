-- Says which attempts this worker has recorded already: read after a connection broke while they
-- were being settled. Locks: none. Index: job_attempts_job_idx.
select item.position
from unnest($3::bigint[], $4::int[]) with ordinality as item (msg_id, attempt, position)
where exists (
    select from meshhook.job_attempts a
    where a.queue = $1::text and a.msg_id = item.msg_id and a.attempt = item.attempt
      and a.worker = $2::text)

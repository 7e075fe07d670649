-- Deletes the jobs $2 of queue $1 that are in state $3 (null: any), with their dead letters and
-- their history.
-- Locks: the deleted rows, skipping locked messages. Indexes: see meshhook.delete_jobs.
select d.msg_id, d.result, d.was, null::timestamptz as at
from meshhook.delete_jobs($1::text, $2::bigint[], $3::text) as d

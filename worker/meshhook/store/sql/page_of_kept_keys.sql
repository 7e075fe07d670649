-- Returns up to $3 kept bodies of queue $1 above id $2 with the id of the key of each, null for
-- none. Locks: none. Index: finished_jobs_job_idx.
select f.msg_id,
    case when meshhook.is_encrypted(f.message)
        then meshhook.shown_text(pg_catalog.left(f.message -> 'enc'::text ->> 'key'::text, 60))
        end as key_id
from meshhook.finished_jobs f
where f.queue = $1::text and f.msg_id > $2::bigint
order by f.msg_id
limit $3::int

-- Returns up to $3 kept bodies of queue $1 above id $2 with the id of the key of each and of the
-- follow-up in its headers, null for none, and their size as stored. Locks: none.
-- Index: finished_jobs_job_idx.
select k.msg_id,
    case when meshhook.is_encrypted(k.message)
        then meshhook.shown_text(pg_catalog.left(k.message -> 'enc'::text ->> 'key'::text, 60))
        end as key_id,
    f.message is not null as has_follow_up,
    case when meshhook.is_encrypted(f.message)
        then meshhook.shown_text(pg_catalog.left(f.message -> 'enc'::text ->> 'key'::text, 60))
        end as follow_up_key_id,
    coalesce(pg_catalog.pg_column_size(k.message), 0) as size_bytes
from meshhook.finished_jobs k
cross join lateral (
    select case when pg_catalog.pg_column_size(k.headers) <= 80000
        then k.headers #> '{meshhook-on-dead-letter,message}'::text[] end as message
) f
where k.queue = $1::text and k.msg_id > $2::bigint
order by k.msg_id
limit $3::int

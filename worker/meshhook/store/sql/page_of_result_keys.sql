-- Returns up to $3 attempts of queue $1 above id $2, whether each has a result, the id of the key
-- of that, null for none, and its size as stored. Locks: none. Index: job_attempts_job_idx.
select a.msg_id, a.result is not null as has_result,
    case when meshhook.is_encrypted(a.result)
        then meshhook.shown_text(pg_catalog.left(a.result -> 'enc'::text ->> 'key'::text, 60))
        end as key_id,
    coalesce(pg_catalog.pg_column_size(a.result), 0) as size_bytes
from meshhook.job_attempts a
where a.queue = $1::text and a.msg_id > $2::bigint
order by a.msg_id
limit $3::int

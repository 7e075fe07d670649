-- Returns up to $2 messages above id $1 with the id of the key of each and of the follow-up in its
-- headers, null for none, and their size as stored. Locks: none. Index: the primary key.
select q.msg_id,
    case when meshhook.is_encrypted(q.message)
        then meshhook.shown_text(pg_catalog.left(q.message -> 'enc'::text ->> 'key'::text, 60))
        end as key_id,
    f.message is not null as has_follow_up,
    case when meshhook.is_encrypted(f.message)
        then meshhook.shown_text(pg_catalog.left(f.message -> 'enc'::text ->> 'key'::text, 60))
        end as follow_up_key_id,
    coalesce(pg_catalog.pg_column_size(q.message), 0) as size_bytes
from {stored_in} q
cross join lateral (
    select case when pg_catalog.pg_column_size(q.headers) <= 80000
        then q.headers #> '{meshhook-on-dead-letter,message}'::text[] end as message
) f
where q.msg_id > $1::bigint
order by q.msg_id
limit $2::int

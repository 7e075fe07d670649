-- Replaces the messages $1 by the bodies $2, and the follow-ups in their headers by $3; null leaves
-- one as it is. Writes to the audit log that messages of queue $4 in place $5 have key $6 now, and
-- returns how many. Locks: the rows. Index: the primary key.
with replaced as (
    update {stored_in} q
    set message = case when item.body is null then q.message else item.body::jsonb end,
        headers = case when item.follow_up is null then q.headers
            else pg_catalog.jsonb_set(q.headers, '{meshhook-on-dead-letter,message}'::text[],
                item.follow_up::jsonb, false) end
    from unnest($1::bigint[], $2::text[], $3::text[]) as item (msg_id, body, follow_up)
    where q.msg_id = any (array[item.msg_id])
    returning 1
), written as materialized (
    select meshhook.audit('encryption.rotated', $4::text,
        pg_catalog.jsonb_build_object('place', $5::text, 'key_id', $6::text), pg_catalog.count(*))
    from replaced
)
-- Asked for, so that it is written.
select pg_catalog.count(*) from replaced
where (select pg_catalog.count(*) from written) >= 0::bigint

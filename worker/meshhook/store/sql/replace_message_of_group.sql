-- Replaces the callback, for queue $1, of the group with id $2, if it still is $3, by $4, and the
-- follow-up in its headers by $5, unless that is null; returns whether it was. Writes to the audit
-- log that it has key $6 now. Locks: the row, unless it is locked. Index: the primary key.
with locked as (
    select g.id from meshhook.job_groups g
    where g.callback_queue = $1::text and g.id = $2::text::uuid and g.callback_id is null
      and g.callback_message = $3::text::jsonb
    for update skip locked
), replaced as (
    update meshhook.job_groups g
    set callback_message = $4::text::jsonb,
        callback_headers = case when $5::text is null then g.callback_headers
            else pg_catalog.jsonb_set(g.callback_headers,
                '{meshhook-on-dead-letter,message}'::text[], $5::text::jsonb, false) end
    from locked l
    where g.id = l.id
    returning 1
), written as materialized (
    select meshhook.audit('encryption.rotated', $1::text,
        pg_catalog.jsonb_build_object('place', 'groups', 'key_id', $6::text), pg_catalog.count(*))
    from replaced
)
-- Asked for, so that it is written.
select exists (select from replaced) and (select pg_catalog.count(*) from written) >= 0::bigint
    as is_replaced

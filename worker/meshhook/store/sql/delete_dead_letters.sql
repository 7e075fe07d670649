-- Deletes the dead letters $1 of queue $2 that nobody else has locked, and returns the ids of those
-- that went. Locks: the deleted rows, skipping locked ones. Index: the primary key.
with chosen as materialized (
    select d.msg_id from {dlq_table} d
    where d.msg_id = any ($1::bigint[])
    order by d.msg_id
    for update skip locked
), gone as (
    delete from {dlq_table} d using chosen c
    where d.msg_id = any (array[c.msg_id])
    returning d.msg_id
), written as materialized (
    select meshhook.audit('dead_letters.deleted', $2::text,
        pg_catalog.jsonb_build_object('dead_letter_ids', pg_catalog.to_jsonb(
            (pg_catalog.array_agg(g.msg_id order by g.msg_id))[1:100])),
        pg_catalog.count(*))
    from gone g
)
-- Asked for, so that it is written.
select g.msg_id from gone g where (select pg_catalog.count(*) from written) >= 0::bigint

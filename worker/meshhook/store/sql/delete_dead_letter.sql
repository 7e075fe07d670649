-- Deletes one dead letter of queue $2, and returns its id if it was there. Locks: its row.
-- Index: the primary key.
with gone as (
    delete from {dlq_table} d where d.msg_id = $1::bigint returning d.msg_id
), written as materialized (
    select meshhook.audit('dead_letters.deleted', $2::text,
        pg_catalog.jsonb_build_object('dead_letter_ids', pg_catalog.jsonb_agg(g.msg_id)),
        pg_catalog.count(*))
    from gone g
)
-- Asked for, so that it is written.
select g.msg_id from gone g where (select pg_catalog.count(*) from written) >= 0::bigint

-- Replaces the results of the jobs $2 of queue $1, which stand in the tables $3 at the places $4,
-- by $5. Writes to the audit log that they have key $6 now, and returns how many. Locks: the rows.
-- Index: job_attempts_job_idx.
with replaced as (
    update meshhook.job_attempts a
    set result = item.body::jsonb
    from unnest($2::bigint[], $3::bigint[], $4::text[], $5::text[])
        as item (msg_id, part, place, body)
    where a.queue = $1::text and a.msg_id = any (array[item.msg_id])
      and a.tableoid = item.part::oid and a.ctid = item.place::pg_catalog.tid
    returning 1
), written as materialized (
    select meshhook.audit('encryption.rotated', $1::text,
        pg_catalog.jsonb_build_object('place', 'results', 'key_id', $6::text), pg_catalog.count(*))
    from replaced
)
-- Asked for, so that it is written.
select pg_catalog.count(*) from replaced
where (select pg_catalog.count(*) from written) >= 0::bigint

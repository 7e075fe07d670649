-- Replaces the kept bodies of the jobs $2 of queue $1, which stand in the tables $3 at the places
-- $4, by $5, and the follow-ups in their headers by $6; null leaves one as it is. Writes to the
-- audit log that they have key $7 now, and returns how many. Locks: the rows.
-- Index: finished_jobs_job_idx.
with replaced as (
    update meshhook.finished_jobs k
    set message = case when item.body is null then k.message else item.body::jsonb end,
        headers = case when item.follow_up is null then k.headers
            else pg_catalog.jsonb_set(k.headers, '{meshhook-on-dead-letter,message}'::text[],
                item.follow_up::jsonb, false) end
    from unnest($2::bigint[], $3::bigint[], $4::text[], $5::text[], $6::text[])
        as item (msg_id, part, place, body, follow_up)
    where k.queue = $1::text and k.msg_id = any (array[item.msg_id])
      and k.tableoid = item.part::oid and k.ctid = item.place::pg_catalog.tid
    returning 1
), written as materialized (
    select meshhook.audit('encryption.rotated', $1::text,
        pg_catalog.jsonb_build_object('place', 'finished_jobs', 'key_id', $7::text),
        pg_catalog.count(*))
    from replaced
)
-- Asked for, so that it is written.
select pg_catalog.count(*) from replaced
where (select pg_catalog.count(*) from written) >= 0::bigint

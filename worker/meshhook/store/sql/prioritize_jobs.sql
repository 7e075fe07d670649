-- Sets the priority of the jobs $2 of queue $1 that wait in state $3 (null: any), or are dead
-- letters, to the number $4.
-- Locks: the messages and dead letters, skipping locked ones.
-- Indexes: see meshhook.prioritize_messages.
with changed as materialized (
    select p.* from meshhook.prioritize_messages($1::text, $2::bigint[], $4::int, $3::text) as p
), written as materialized (
    select meshhook.audit('jobs.reprioritized', $1::text,
        pg_catalog.jsonb_build_object('msg_ids', ($2::bigint[])[1:100], 'state', $3::text),
        pg_catalog.count(*) filter (where c.result = 'reprioritized'::text),
        pg_catalog.jsonb_build_object('priority', $4::int))
    from changed c
)
select c.msg_id, c.result, c.was, {moment c.at} as at from changed c
-- Asked for, so that it is written.
where (select pg_catalog.count(*) from written) >= 0::bigint
order by c.msg_id

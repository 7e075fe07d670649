-- Lets the jobs $2 of queue $1 that wait in state $3 (null: any) run at $4, or in $5 seconds; now
-- if both are null.
-- Locks: the messages, skipping locked ones. Index: see meshhook.move_messages.
with moved as materialized (
    select m.* from meshhook.move_messages($1::text, $2::bigint[],
        coalesce($4::timestamptz,
            pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => $5::float8)),
        $3::text) as m
), written as materialized (
    select meshhook.audit(
        case when pg_catalog.num_nonnulls($4::timestamptz, $5::float8) = 0 then 'jobs.run_now'
            else 'jobs.rescheduled' end, $1::text,
        pg_catalog.jsonb_build_object('msg_ids', ($2::bigint[])[1:100], 'state', $3::text),
        pg_catalog.count(*) filter (where m.result = 'rescheduled'::text))
    from moved m
)
select m.msg_id, m.result, m.was, {moment m.ready_at} as at from moved m
-- Asked for, so that it is written.
where (select pg_catalog.count(*) from written) >= 0::bigint
order by m.msg_id

-- Gives the keys $2 of queue $1 the weights $3 and the limits $4 and $5, one of each a key: null leaves
-- what there is, and a limit of 0 removes it. Returns how many keys were changed, and writes no others.
-- Locks: the rows that it changes. Index: keys_pkey.
with declared as (
    select d.key, coalesce(d.weight, k.weight) as weight,
        case when d.max_running is null then k.max_running
            when d.max_running > 0 then d.max_running end as max_running,
        case when d.max_starts is null then k.max_starts
            when d.max_starts > 0 then d.max_starts end as max_starts,
        k.weight as old_weight, k.max_running as old_max_running, k.max_starts as old_max_starts
    from unnest($2::pg_catalog.text[], $3::pg_catalog.float8[], $4::pg_catalog.int4[],
            $5::pg_catalog.int4[])
        as d (key, weight, max_running, max_starts)
    left join meshhook.keys k on k.queue = $1::pg_catalog.text and k.key = d.key
), written as (
    insert into meshhook.keys as k (queue, key, weight, max_running, max_starts)
    select $1::pg_catalog.text, d.key, d.weight, d.max_running, d.max_starts from declared d
    where (d.weight, d.max_running, d.max_starts)
        is distinct from (d.old_weight, d.old_max_running, d.old_max_starts)
    order by d.key
    on conflict (queue, key) do update set weight = excluded.weight,
        max_running = excluded.max_running, max_starts = excluded.max_starts
    returning 1
)
select pg_catalog.count(*) from written

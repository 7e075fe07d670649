-- A budget for retries: a queue has no more of them a second than its setting says, on all workers
-- together, so that an outage of what jobs depend on makes no storm of retries.
-- Locks: ACCESS EXCLUSIVE on meshhook.queue_config for the new column, which rewrites nothing.
-- Time at size: milliseconds; no queue is touched.

set local search_path = pg_catalog, pg_temp;

-- Two grants on one table at once would fail: waits for whoever makes roles.
select pg_advisory_xact_lock(hashtext('meshhook.roles'));

alter table meshhook.queue_config
    add column max_retries_per_second double precision
        check (max_retries_per_second between 0.001 and 1000000);

comment on column meshhook.queue_config.max_retries_per_second is
    'How many retries are let through in a second; more are put off. Null means any number.';

-- From when on the delays of so many retries count: now for those within the budget of the queue,
-- later for the rest, in order. The bucket (GCRA) holds a second's worth of retries, or one. It is a
-- row of meshhook.starts whose key no claim looks at; workers may write that table already.
-- The times lie as far apart as the budget says whoever asks, because the row is locked to the end
-- of the transaction.
-- Locks: the row. Index: starts_pkey, queue_config_queue_key.
create function meshhook.grant_retries(queue text, retries integer) returns timestamptz[]
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_variable
declare
    rate double precision := (
        select c.max_retries_per_second from meshhook.queue_config c
        where c.queue = grant_retries.queue);
    full_at timestamptz;
    asked_at timestamptz;
begin
    if retries = 0 or rate is null then
        return array_fill(clock_timestamp(), array[retries]);
    end if;
    insert into meshhook.starts as s (queue, is_of_queue, key, full_at)
        values (grant_retries.queue, true, 'retries', '-infinity')
        on conflict do nothing;
    select s.full_at into full_at from meshhook.starts s
        where s.queue = grant_retries.queue and s.is_of_queue and s.key = 'retries' for update;
    asked_at := clock_timestamp();
    full_at := greatest(full_at, asked_at);
    update meshhook.starts s set full_at = full_at + make_interval(secs => retries / rate)
        where s.queue = grant_retries.queue and s.is_of_queue and s.key = 'retries';
    return array(
        select greatest(asked_at, full_at
            + make_interval(secs => (n + 1 - greatest(ceil(rate), 1)) / rate))
        from generate_series(0, retries - 1) as n
        order by n);
end
$$;

-- * Roles made before
-- Whoever sets limits sets the budget.

do $$
declare
    grantee record;
begin
    for grantee in
        select distinct r.rolname as name
        from pg_roles r, pg_attribute t, aclexplode(t.attacl) a
        where t.attrelid = 'meshhook.queue_config'::regclass and t.attname = 'max_running'
          and a.privilege_type = 'UPDATE' and a.grantee = r.oid
    loop
        execute format('grant update (max_retries_per_second) on meshhook.queue_config to %I',
            grantee.name);
    end loop;
end
$$;

update meshhook.role_grants set columns = columns || array['max_retries_per_second']
    where kind = 'oncall' and object = 'table meshhook.queue_config' and privilege = 'update'
      and not 'max_retries_per_second' = any (columns);

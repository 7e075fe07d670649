-- Rates: how many jobs of a key, and of a queue, may start in a period, over the whole fleet and by
-- the database's clock.
-- Locks: ACCESS EXCLUSIVE on meshhook.queue_config and meshhook.keys for new columns, which
-- rewrites nothing. Time at size: milliseconds; no queue is touched.

set local search_path = pg_catalog, pg_temp;

-- Two grants on one table at once would fail: waits for whoever makes roles.
select pg_advisory_xact_lock(hashtext('meshhook.roles'));

alter table meshhook.queue_config
    add column max_starts integer check (max_starts between 1 and 1000000),
    add column max_starts_per_key integer check (max_starts_per_key between 1 and 1000000),
    add column starts_period_seconds double precision not null default 1
        check (starts_period_seconds between 0.1 and 86400),
    add constraint rates_need_keys check (
        keyed or (max_starts is null and max_starts_per_key is null));

comment on column meshhook.queue_config.max_starts is
    'How many jobs of the queue may start in each starts_period_seconds; null means any number.';
comment on column meshhook.queue_config.max_starts_per_key is
    'How many jobs of each key may start in each starts_period_seconds; null means any number.';
comment on column meshhook.queue_config.starts_period_seconds is
    'The period of max_starts and max_starts_per_key, in seconds.';

alter table meshhook.keys
    add column max_starts integer check (max_starts between 1 and 1000000);

comment on column meshhook.keys.max_starts is
    'How many jobs of the key may start in a period; null means the max_starts_per_key '
    'of its queue.';

create index keys_rate_idx on meshhook.keys (queue) where max_starts is not null;

create table meshhook.starts (
    queue text not null references meshhook.queue_config (queue_name) on delete cascade,
    is_of_queue boolean not null,
    key text collate "C" not null,
    full_at timestamptz not null,
    primary key (queue, is_of_queue, key)
);

comment on table meshhook.starts is
    'The token bucket of each key with a rate, and of each queue: claims write it.';
comment on column meshhook.starts.full_at is
    'When the bucket is full again; each start moves it on by a period divided by the rate.';

alter table meshhook.starts enable row level security;
create policy of_visible_queues on meshhook.starts
    using (exists (
        select from meshhook.queue_config c where c.queue_name = starts.queue))
    with check (exists (
        select from meshhook.queue_config c where c.queue_name = starts.queue));

-- How many jobs may start now, from a bucket that is full at this time, at a rate of `max_starts` a
-- period; null if there is no rate.
create function meshhook.free_starts(
    max_starts integer, period_seconds double precision, full_at timestamptz)
returns double precision
language sql stable parallel safe
return floor(max_starts::double precision
    - greatest(date_part('epoch'::text, full_at) - date_part('epoch'::text, now()), 0)
        * max_starts::double precision / period_seconds + 1e-6::double precision);

-- * Roles made before
-- Workers count starts; whoever is on call sets rates.

do $$
declare
    grantee record;
begin
    for grantee in
        select distinct r.rolname as name from pg_roles r
        where exists (
                select from meshhook.roles m where m.role = r.oid::regrole and m.kind = 'worker')
            or exists (
                select from pg_attribute t, aclexplode(t.attacl) a
                where t.attrelid = 'meshhook.workers'::regclass and t.attname = 'busy_seconds'
                  and a.privilege_type = 'UPDATE' and a.grantee = r.oid)
    loop
        execute format('grant select, insert, update (full_at) on meshhook.starts to %I',
            grantee.name);
    end loop;
    for grantee in
        select distinct r.rolname as name
        from pg_roles r, pg_attribute t, aclexplode(t.attacl) a
        where t.attrelid = 'meshhook.queue_config'::regclass and t.attname = 'max_running'
          and a.privilege_type = 'UPDATE' and a.grantee = r.oid
    loop
        execute format('grant update (max_starts, max_starts_per_key, starts_period_seconds) '
            'on meshhook.queue_config to %I', grantee.name);
    end loop;
end
$$;

update meshhook.role_grants
    set columns = columns || array['max_starts', 'max_starts_per_key', 'starts_period_seconds']
    where kind = 'oncall' and object = 'table meshhook.queue_config' and privilege = 'update'
      and not 'max_starts' = any (columns);

insert into meshhook.role_grants (role, kind, object, privilege, columns)
    select r.role, r.kind, 'table meshhook.starts', p.privilege, p.columns
    from meshhook.roles r
    cross join (values ('select', null), ('insert', null), ('update', array['full_at']))
        as p (privilege, columns)
    where r.kind = 'worker'
    on conflict do nothing;

-- Circuit breakers of keys: after so many failures in a row, the jobs of a key stay where they are
-- for a while; then one of them, the probe, shows whether the key works again. Breakers that
-- count nothing, or that no job has come to for a day, are deleted by the housekeeping of workers: a
-- queue may have a key for each of millions of users. And holds say who made them, when and why.
-- Locks: ACCESS EXCLUSIVE on meshhook.queue_config and meshhook.keys for new columns, which
-- rewrites nothing. Time at size: milliseconds; no queue is touched.

set local search_path = pg_catalog, pg_temp;

-- Two grants on one table at once would fail: waits for whoever makes roles.
select pg_advisory_xact_lock(hashtext('meshhook.roles'));

alter table meshhook.queue_config
    add column breaker_failures integer check (breaker_failures between 1 and 10000),
    add column breaker_pause_seconds double precision not null default 30
        check (breaker_pause_seconds between 0.1 and 86400),
    add column breaker_max_pause_seconds double precision not null default 600
        check (breaker_max_pause_seconds between 0.1 and 86400),
    add constraint breaker_pause_at_most_max check (
        breaker_pause_seconds <= breaker_max_pause_seconds),
    add constraint breakers_need_keys check (keyed or breaker_failures is null);

comment on column meshhook.queue_config.breaker_failures is
    'After how many failures in a row the breaker of a key opens; null means never.';
comment on column meshhook.queue_config.breaker_pause_seconds is
    'How long the breaker of a key stays open before its first probe, in seconds.';
comment on column meshhook.queue_config.breaker_max_pause_seconds is
    'The longest pause between two probes, in seconds: the pause doubles with each that fails.';

alter table meshhook.keys
    add column held_at timestamptz,
    add column held_by text check (held_by in ('manual', 'handler')),
    add column hold_reason text check (length(hold_reason) <= 500);

comment on column meshhook.keys.held_at is 'When the hold was made.';
comment on column meshhook.keys.held_by is
    'Who made the hold: manual means a command or a call, handler the outcome of a job.';
comment on column meshhook.keys.hold_reason is 'Why the key is held; null if nothing was said.';

create table meshhook.breakers (
    queue text not null references meshhook.queue_config (queue_name) on delete cascade,
    key text collate "C" not null check (length(key) <= 200),
    failures bigint not null default 0,
    failed_at timestamptz,
    error_type text,
    opened_at timestamptz,
    openings integer not null default 0,
    probe_at timestamptz,
    primary key (queue, key),
    constraint open_until_probe check ((opened_at is null) = (probe_at is null))
);

comment on table meshhook.breakers is
    'The circuit breaker of each key that has failed. It is closed if opened_at is null, open until '
    'probe_at, and half-open from then on: one job of the key runs at a time.';
comment on column meshhook.breakers.failures is 'How many failures in a row were recorded.';
comment on column meshhook.breakers.failed_at is 'When the last of them was recorded.';
comment on column meshhook.breakers.error_type is 'The error type of the last of them.';
comment on column meshhook.breakers.opened_at is
    'Since when it is not closed, half-open included; null if it is closed.';
comment on column meshhook.breakers.openings is
    'How often it opened since it was last closed: the pause doubles each time.';
comment on column meshhook.breakers.probe_at is 'From when on a probe may start.';

create index breakers_open_idx on meshhook.breakers (queue) where opened_at is not null;

-- Whoever sees a queue's settings sees its breakers.
alter table meshhook.breakers enable row level security;
create policy of_visible_queues on meshhook.breakers
    using (exists (
        select from meshhook.queue_config c where c.queue_name = breakers.queue))
    with check (exists (
        select from meshhook.queue_config c where c.queue_name = breakers.queue));

-- While one is open, claims take turns: workers are told when the first opens and the last closes.
create trigger announce_breakers
    after update of opened_at on meshhook.breakers
    for each row when ((old.opened_at is null) <> (new.opened_at is null))
    execute function meshhook.announce_keys();

-- Counts failed attempts of keys, one element each in the arrays, and opens the breakers that have
-- enough. Returns those that it opened, as a JSON array; null if it opened none. `started` is when
-- each attempt started, in seconds since 1970: what started before a breaker opened says nothing
-- about its probe. Called by the statement that records the attempts, so that a probe ends and its
-- breaker opens again at the same moment.
-- Locks: the rows of the keys, in their order; none of a breaker that is open. Index: breakers_pkey.
create function meshhook.record_key_failures(
    queue text, keys text[], started double precision[], error_types text[])
returns text
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    config record;
    failed record;
    breaker record;
    pause_seconds double precision;
    opened jsonb := '[]';
begin
    select c.breaker_failures, c.breaker_pause_seconds, c.breaker_max_pause_seconds into config
        from meshhook.queue_config c
        where c.queue_name = record_key_failures.queue and c.keyed
          and c.breaker_failures is not null;
    if not found then
        return null;
    end if;
    for failed in
        select f.key, count(*) as n, max(f.started) as last_started,
            (array_agg(f.error_type order by f.started desc))[1] as error_type
        from unnest(keys, started, error_types) as f (key, started, error_type)
        group by f.key order by f.key collate "C"
    loop
        -- Before a probe may start, nothing counts: what still ran when it opened fails as well.
        continue when exists (
            select from meshhook.breakers b
            where b.queue = record_key_failures.queue and b.key = failed.key
              and b.probe_at > clock_timestamp());
        insert into meshhook.breakers (queue, key)
            values (record_key_failures.queue, failed.key) on conflict do nothing;
        select b.* into breaker from meshhook.breakers b
            where b.queue = record_key_failures.queue and b.key = failed.key for update;
        continue when breaker.probe_at > clock_timestamp()
            or failed.last_started < extract(epoch from breaker.opened_at);
        breaker.failures := breaker.failures + failed.n;
        if breaker.opened_at is not null or breaker.failures >= config.breaker_failures then
            breaker.opened_at := coalesce(breaker.opened_at, clock_timestamp());
            -- Up to a fifth shorter, so that not all keys that failed together probe together.
            pause_seconds := (1 - 0.2 * random()) * least(config.breaker_max_pause_seconds,
                config.breaker_pause_seconds * power(2, least(breaker.openings, 30)));
            breaker.openings := least(breaker.openings + 1, 1000000);
            breaker.probe_at := clock_timestamp() + make_interval(secs => pause_seconds);
            opened := opened || jsonb_build_object('key', failed.key, 'failures', breaker.failures,
                'openings', breaker.openings, 'pause_seconds', pause_seconds);
        end if;
        update meshhook.breakers b
            set failures = breaker.failures, failed_at = clock_timestamp(),
                error_type = failed.error_type, opened_at = breaker.opened_at,
                openings = breaker.openings, probe_at = breaker.probe_at
            where b.queue = record_key_failures.queue and b.key = failed.key;
    end loop;
    return nullif(opened::text, '[]');
end
$$;

-- Notes attempts of keys that succeeded, one element each in the arrays: the failures in a row of
-- their keys end, and breakers that are open close if an attempt started after they opened. Returns
-- those that it closed, as a JSON array; null if it closed none. Keys without failures cost one look
-- into the index.
-- Locks: the rows of keys that have failures, in their order. Index: breakers_pkey.
create function meshhook.record_key_successes(
    queue text, keys text[], started double precision[])
returns text
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    breaker record;
    closed jsonb := '[]';
begin
    for breaker in
        select b.key, b.opened_at, b.failures from meshhook.breakers b
        where b.queue = record_key_successes.queue and b.key = any (record_key_successes.keys)
          and b.failures > 0
        order by b.key for update
    loop
        continue when breaker.opened_at is not null and not exists (
            select from unnest(keys, started) as s (key, started)
            where s.key = breaker.key and s.started >= extract(epoch from breaker.opened_at));
        update meshhook.breakers b
            set failures = 0, failed_at = null, error_type = null, opened_at = null, openings = 0,
                probe_at = null
            where b.queue = record_key_successes.queue and b.key = breaker.key;
        if breaker.opened_at is not null then
            closed := closed || jsonb_build_object('key', breaker.key,
                'open_seconds', extract(epoch from clock_timestamp() - breaker.opened_at));
        end if;
    end loop;
    return nullif(closed::text, '[]');
end
$$;

-- Deletes up to 5,000 breakers that are closed and count no failure, that were closed a day ago with
-- some, or whose probe has been due for a day: a key whose jobs are all gone stays open no longer. Runs
-- with its owner's rights: who may delete may lock a table against everyone.
-- Locks: the deleted rows, skipping locked ones.
create function meshhook.delete_idle_breakers() returns integer
language sql security definer set search_path = pg_catalog, pg_temp as $$
    with idle as (
        select b.queue, b.key from meshhook.breakers b
        where b.failures = 0 or coalesce(b.probe_at, b.failed_at) < now() - interval '1 day'
        limit 5000
        for update skip locked
    ), deleted as (
        delete from meshhook.breakers b using idle i where b.queue = i.queue and b.key = i.key
        returning 1
    )
    select count(*)::integer from deleted
$$;

-- * Roles made before
-- Workers count failures and keep house, whether `meshhook roles` granted to them or an administrator
-- did; whoever is on call sets breakers and closes them; all see them.

revoke execute on function meshhook.delete_idle_breakers() from public;

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
        execute format('grant insert (held_at, held_by, hold_reason), '
            'update (held_at, held_by, hold_reason) on meshhook.keys to %I', grantee.name);
        execute format('grant select, insert, '
            'update (failures, failed_at, error_type, opened_at, openings, probe_at) '
            'on meshhook.breakers to %I', grantee.name);
        execute format('grant execute on function meshhook.delete_idle_breakers() to %I',
            grantee.name);
    end loop;
    for grantee in
        select distinct r.rolname as name
        from pg_roles r, pg_attribute t, aclexplode(t.attacl) a
        where t.attrelid = 'meshhook.queue_config'::regclass and t.attname = 'max_running'
          and a.privilege_type = 'UPDATE' and a.grantee = r.oid
    loop
        execute format('grant update (breaker_failures, breaker_pause_seconds, '
            'breaker_max_pause_seconds) on meshhook.queue_config to %I', grantee.name);
    end loop;
    for grantee in
        select case a.grantee when 0 then 'public' else format('%I', a.grantee::regrole) end as name,
            a.privilege_type
        from pg_class c, aclexplode(c.relacl) a
        where c.oid = 'meshhook.keys'::regclass and a.privilege_type in ('SELECT', 'UPDATE')
          and a.grantee <> c.relowner
    loop
        execute format('grant %s on meshhook.breakers to %s', case grantee.privilege_type
            when 'UPDATE' then 'update (failures, failed_at, error_type, opened_at, openings, '
                'probe_at)' else 'select' end, grantee.name);
    end loop;
end
$$;

update meshhook.role_grants
    set columns = columns || array[
        'breaker_failures', 'breaker_pause_seconds', 'breaker_max_pause_seconds']
    where kind = 'oncall' and object = 'table meshhook.queue_config' and privilege = 'update'
      and not 'breaker_failures' = any (columns);

update meshhook.role_grants
    set columns = columns || array['held_at', 'held_by', 'hold_reason']
    where kind = 'worker' and object = 'table meshhook.keys' and privilege in ('insert', 'update')
      and not 'held_by' = any (columns);

insert into meshhook.role_grants (role, kind, object, privilege, columns)
    select r.role, r.kind, 'table meshhook.breakers', p.privilege, p.columns
    from meshhook.roles r
    cross join (values ('select', null), ('insert', null), ('update', array[
            'failures', 'failed_at', 'error_type', 'opened_at', 'openings', 'probe_at']))
        as p (privilege, columns)
    where r.kind <> 'owner' and (p.privilege = 'select' or r.kind = 'worker'
        or (p.privilege = 'update' and r.kind in ('oncall', 'operator')))
    on conflict do nothing;

insert into meshhook.role_grants (role, kind, object, privilege)
    select r.role, r.kind, 'function meshhook.delete_idle_breakers()', 'execute'
    from meshhook.roles r
    where r.kind = 'worker'
    on conflict do nothing;

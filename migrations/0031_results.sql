-- Results: what a handler returned is kept with its attempt, in queues whose setting `results` is on.
-- Whoever waits for the end of a job is told of it, while somebody waits.
-- Locks: ACCESS EXCLUSIVE on meshhook.queue_config and on meshhook.job_attempts with its partitions,
-- for new columns, which rewrites nothing. Time at size: milliseconds.

set local search_path = pg_catalog, pg_temp;

-- Two grants on one table at once would fail: waits for whoever makes roles.
select pg_advisory_xact_lock(hashtext('meshhook.roles'));

alter table meshhook.queue_config add column results boolean not null default false;
comment on column meshhook.queue_config.results is
    'Whether what handlers return is kept, up to 64 KiB of JSON a job, as long as the history.';

alter table meshhook.job_attempts add column result jsonb;
comment on column meshhook.job_attempts.result is
    'What the handler returned, if its queue keeps results.';

-- Until when somebody waits for the end of a job, in milliseconds since 1970: a word of shared state,
-- as the sequences that say until when workers wait.
create sequence meshhook.awaited_ends minvalue 0 start 0;

-- Says that somebody waits for the end of a job, for the next 15 seconds. Runs with its owner's
-- rights, so that nobody needs any: at worst, workers notify in vain for as long.
create function meshhook.await_ends() returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
    until bigint := extract(epoch from clock_timestamp())::bigint * 1000 + 15000;
begin
    perform setval('meshhook.awaited_ends', until);
end
$$;

-- Whether somebody waits for the end of a job. Runs with its owner's rights, so that a worker needs
-- none on the sequence.
create function meshhook.ends_are_awaited() returns boolean
language sql volatile security definer set search_path = pg_catalog, pg_temp as $$
    select s.last_value > extract(epoch from clock_timestamp()) * 1000 from meshhook.awaited_ends s
$$;

-- Tells whoever waits for the end of a job of a queue that some have ended; costs nothing while
-- nobody waits.
create function meshhook.announce_ends(queue text) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
    if meshhook.ends_are_awaited() and meshhook.may_notify() then
        perform pg_notify('meshhook_ends', queue);
    end if;
end
$$;

-- Functions that run with their owner's rights are for those who need them: `meshhook roles check`
-- names every other right of PUBLIC.
revoke execute on function meshhook.ends_are_awaited(), meshhook.await_ends() from public;

-- * Roles made before
-- Workers settle, and they and those who may read the history wait, whether `meshhook roles` granted
-- to them or an administrator did; whoever sets limits sets results.

do $$
declare
    grantee record;
begin
    for grantee in
        select r.rolname as name,
            exists (
                select from meshhook.roles m where m.role = r.oid::regrole and m.kind = 'worker')
            or has_table_privilege(r.oid, 'meshhook.job_attempts', 'insert') as settles
        from pg_roles r
        where exists (
                select from meshhook.roles m
                where m.role = r.oid::regrole and m.kind in ('worker', 'reader', 'oncall'))
            or exists (
                select from pg_class t, aclexplode(t.relacl) a
                where t.oid = 'meshhook.job_attempts'::regclass
                  and a.privilege_type in ('SELECT', 'INSERT') and a.grantee = r.oid)
    loop
        execute format('grant execute on function meshhook.await_ends() to %I', grantee.name);
        if grantee.settles then
            execute format(
                'grant execute on function meshhook.ends_are_awaited() to %I', grantee.name);
        end if;
    end loop;
    for grantee in
        select distinct r.rolname as name
        from pg_roles r, pg_attribute t, aclexplode(t.attacl) a
        where t.attrelid = 'meshhook.queue_config'::regclass and t.attname = 'max_running'
          and a.privilege_type = 'UPDATE' and a.grantee = r.oid
    loop
        execute format('grant update (results) on meshhook.queue_config to %I', grantee.name);
    end loop;
end
$$;

update meshhook.role_grants set columns = columns || array['results']
    where kind = 'oncall' and object = 'table meshhook.queue_config' and privilege = 'update'
      and not 'results' = any (columns);

insert into meshhook.role_grants (role, kind, object, privilege)
    select r.role, r.kind, g.object, 'execute'
    from meshhook.roles r
    join (values
        ('worker', 'function meshhook.ends_are_awaited()'),
        ('worker', 'function meshhook.await_ends()'),
        ('oncall', 'function meshhook.ends_are_awaited()'),
        ('oncall', 'function meshhook.await_ends()'),
        ('reader', 'function meshhook.await_ends()')) as g (kind, object) on g.kind = r.kind
    on conflict do nothing;

-- Functions that run with their owner's rights are for those who need them: `meshhook roles check`
-- names every other right of PUBLIC.
-- Locks: none that others wait for. Time at size: milliseconds.

set local search_path = pg_catalog, pg_temp;

-- Two grants on one table at once would fail: waits for whoever makes roles.
select pg_advisory_xact_lock(hashtext('meshhook.roles'));

-- Whether somebody waits for the end of a job. Runs with its owner's rights, so that a worker needs
-- none on the sequence.
create function meshhook.ends_are_awaited() returns boolean
language sql volatile security definer set search_path = pg_catalog, pg_temp as $$
    select s.last_value > extract(epoch from clock_timestamp()) * 1000 from meshhook.awaited_ends s
$$;

-- Tells whoever waits for the end of a job of a queue that some have ended; costs nothing while
-- nobody waits.
create or replace function meshhook.announce_ends(queue text) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
    if meshhook.ends_are_awaited() and meshhook.may_notify() then
        perform pg_notify('meshhook_ends', queue);
    end if;
end
$$;

revoke execute on function meshhook.ends_are_awaited() from public;
revoke execute on function meshhook.await_ends() from public;

-- Roles made before: workers settle, and they and those who may read the history wait, whether
-- `meshhook roles` granted to them or an administrator did.
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
end
$$;

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

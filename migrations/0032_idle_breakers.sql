-- Breakers of keys that count nothing, or that no job has come to for a day, are deleted by the
-- housekeeping of workers: a queue may have a key for each of millions of users.
-- Locks: none that others hold. Time at size: milliseconds; no queue is touched.

set local search_path = pg_catalog, pg_temp;

-- Two grants on one table at once would fail: waits for whoever makes roles.
select pg_advisory_xact_lock(hashtext('meshhook.roles'));

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
-- Workers keep house, whether `meshhook roles` granted to them or an administrator did.

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
        execute format('grant execute on function meshhook.delete_idle_breakers() to %I',
            grantee.name);
    end loop;
end
$$;

insert into meshhook.role_grants (role, kind, object, privilege)
    select r.role, r.kind, 'function meshhook.delete_idle_breakers()', 'execute'
    from meshhook.roles r
    where r.kind = 'worker'
    on conflict do nothing;

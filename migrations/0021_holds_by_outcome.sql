-- Holds by outcome: a handler may say that the key of its job is to be held. Workers write it; and
-- whether any key has a limit or is held is found by index, however many keys have a row.
-- Locks: SHARE on meshhook.keys for its indexes, which has one row a key with something set.
-- Time at size: milliseconds.

set local search_path = pg_catalog, pg_temp;

-- Two grants on one table at once would fail: waits for whoever makes roles.
select pg_advisory_xact_lock(hashtext('meshhook.roles'));

create index keys_limit_idx on meshhook.keys (queue) where max_running is not null;
create index keys_hold_idx on meshhook.keys (queue, held_until) where held_until is not null;

-- * Roles made before
-- Workers hold keys, whether `meshhook roles` granted to them or an administrator did.

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
        execute format('grant insert (queue, key, held_until), update (held_until) '
            'on meshhook.keys to %I', grantee.name);
    end loop;
end
$$;

insert into meshhook.role_grants (role, kind, object, privilege, columns)
    select r.role, r.kind, 'table meshhook.keys', p.privilege, p.columns
    from meshhook.roles r
    cross join (values ('insert', array['queue', 'key', 'held_until']),
                       ('update', array['held_until'])) as p (privilege, columns)
    where r.kind = 'worker'
    on conflict do nothing;

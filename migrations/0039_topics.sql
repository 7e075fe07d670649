-- Topics: operators bind queues to PGMQ's topics, where the installed PGMQ has them.
-- Locks: none that others hold. Time at size: milliseconds.

set local search_path = pg_catalog, pg_temp;

-- Two grants on one table at once would fail: waits for whoever makes roles.
select pg_advisory_xact_lock(hashtext('meshhook.roles'));

insert into meshhook.role_grants (role, kind, object, privilege)
    select r.role, r.kind, 'table pgmq.topic_bindings', p.privilege
    from meshhook.roles r
    cross join (values ('select'), ('insert'), ('delete')) as p (privilege)
    where r.kind = 'operator'
    on conflict do nothing;

do $$
declare
    grantee record;
begin
    for grantee in
        select r.role::regrole as name
        from meshhook.roles r
        join pg_class c on c.oid = to_regclass('pgmq.topic_bindings')
        where r.kind = 'operator' and c.relowner <> r.role::oid
          and pg_has_role(c.relowner, 'usage')
    loop
        execute format('grant select, insert, delete on pgmq.topic_bindings to %s', grantee.name);
    end loop;
end
$$;

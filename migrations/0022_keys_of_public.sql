-- Whoever reads settings by a grant to PUBLIC reads the limits of keys as well: producers and workers
-- read both.
-- Locks: none that others hold. Time at size: milliseconds.

set local search_path = pg_catalog, pg_temp;

-- Two grants on one table at once would fail: waits for whoever makes roles.
select pg_advisory_xact_lock(hashtext('meshhook.roles'));

do $$
begin
    if exists (
        select from pg_class c, aclexplode(c.relacl) a
        where c.oid = 'meshhook.queue_config'::regclass
          and a.grantee = 0 and a.privilege_type = 'SELECT')
    then
        grant select on meshhook.keys to public;
    end if;
end
$$;

-- The tables that queues share where row level security may apply to role $1, whether it does, and
-- the condition of each policy that applies; one row with none for a table without. Locks: none.
-- Index: pg_policy_polrelid_polname_index.
select c.relname::text as table_name, c.relrowsecurity as is_on, p.polname::text as policy,
    pg_catalog.pg_get_expr(p.polqual, p.polrelid) as condition
from pg_catalog.pg_class c
join pg_catalog.pg_namespace n on n.oid = c.relnamespace and n.nspname = 'meshhook'
left join pg_catalog.pg_policy p on p.polrelid = c.oid and p.polpermissive and exists (
    select from pg_catalog.unnest(p.polroles) as r (oid)
    where r.oid = 0::oid or pg_catalog.pg_has_role($1::oid, r.oid, 'usage'::text))
where c.relname in ('queue_config', 'job_attempts', 'workers')
  and not pg_catalog.pg_has_role($1::oid, c.relowner, 'usage'::text)
order by c.relname, p.polname

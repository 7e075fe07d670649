-- How old the oldest transaction id and multixact id of this database are. Locks: none.
-- Index: pg_database_datname_index.
select d.datname::text as name, i.kind, i.age
from pg_catalog.pg_database d
cross join lateral (values
    ('transaction', pg_catalog.age(d.datfrozenxid)::bigint),
    ('multixact', pg_catalog.mxid_age(d.datminmxid)::bigint)) as i (kind, age)
where d.datname = pg_catalog.current_database()

-- Which schema each worker was made for, as the number of its newest migration: for whoever wonders
-- whether all workers have been replaced after an upgrade. Workers of versions before write none.
-- Locks: meshhook.workers, ACCESS EXCLUSIVE, for the new column; reports wait, and no job does.
-- Time at size: milliseconds.

set local search_path = pg_catalog, pg_temp;

alter table meshhook.workers add column schema_version integer check (schema_version > 0);

comment on column meshhook.workers.schema_version is
    'The newest migration that the worker''s version of the library has; null if it does not say.';

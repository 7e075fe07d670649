-- Large bodies are compressed with lz4 where the server has it and the library sends them.
-- Locks: none that others hold; no table is touched. Time at size: milliseconds.

set local search_path = pg_catalog, pg_temp;

-- Lets the rest of the transaction compress with lz4 what it stores in columns without a method of
-- their own, if the server was built with it, and returns whether it does. What was stored before
-- stays as it is, and all of it is read alike. meshhook.lz4, a setting of a transaction, session,
-- role, database or server, prevents it if it is off.
create function meshhook.prefer_lz4() returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
    if lower(current_setting('meshhook.lz4', true)) in ('off', 'false', 'no', '0') then
        return false;
    end if;
    perform set_config('default_toast_compression', 'lz4', true);
    return true;
exception when invalid_parameter_value or undefined_object then
    -- A server without lz4, or from before PostgreSQL 14.
    return false;
end
$$;

comment on function meshhook.prefer_lz4() is
    'Lets the rest of the transaction compress large values with lz4, if the server has it.';

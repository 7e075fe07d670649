-- Claims of queues that have limits are planned once for each session, not each time.
-- Locks: none on tables. Time at size: milliseconds.

set local search_path = pg_catalog, pg_temp;

-- As in 0019: runs a claim of a queue that has limits, after all others of the queue that began
-- before. The statement is sql/claim_keyed.sql; it has the rights of its caller. Sessions whose plans
-- are good at every depth, as workers' are, keep it prepared; in others it is planned each time.
-- Locks: the turn of the queue, until the transaction ends.
create or replace function meshhook.claim_in_turn(
    queue text, statement text, lease_seconds double precision, from_vt timestamptz,
    max_messages integer, max_attempts integer, to_vt timestamptz, from_key text, key_path text)
returns table (
    msg_id bigint, read_ct integer, enqueued double precision, ready double precision,
    class integer, body text, headers text, claimed double precision, is_new_loss boolean,
    oldest_due double precision, next_key text)
language plpgsql volatile
-- The times are handed on as text.
set search_path = pg_catalog, pg_temp set datestyle = 'ISO' as $$
declare
    prepared text;
begin
    perform pg_advisory_xact_lock(hashtext('meshhook.keys'), hashtext(queue));
    if current_setting('plan_cache_mode') <> 'force_generic_plan' then
        return query execute statement
            using lease_seconds, from_vt, max_messages, max_attempts, to_vt, queue, from_key,
                key_path, true;
        return;
    end if;
    prepared := 'meshhook_claim_' || hashtextextended(statement, 0);
    if not exists (select from pg_prepared_statements p where p.name = prepared) then
        execute format('prepare %I (double precision, timestamptz, integer, integer, timestamptz, '
            'text, text, text, boolean) as %s', prepared, statement);
    end if;
    return query execute format('execute %I (%L, %L, %L, %L, %L, %L, %L, %L, true)',
        prepared, lease_seconds, from_vt, max_messages, max_attempts, to_vt, queue, from_key,
        key_path);
end
$$;

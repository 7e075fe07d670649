-- Every function means the same whatever the search_path of its caller: nobody who may create
-- functions or operators in a schema of that path takes over who runs it. Those that the planner
-- puts into the calling statement are parsed when they are created, and can be put there still;
-- the others have a path of their own. (meshhook.given_back and meshhook.snoozed_headers, which have
-- one already, are not immutable inside, and so cannot be put there.)
-- Locks: none that others hold. Time at size: milliseconds.

set local search_path = pg_catalog, pg_temp;

-- * Parsed when they are created: such a body names functions and operators, not text

create or replace function meshhook.settled_attempts(headers jsonb) returns integer
language sql immutable parallel safe
return case when jsonb_typeof(headers -> 'meshhook-settled') = 'number'
    then least(greatest((headers ->> 'meshhook-settled')::numeric, 0), 1000000000)::integer
    else 0 end;

create or replace function meshhook.headers_object(headers jsonb) returns jsonb
language sql immutable parallel safe
return case
    when headers is null or jsonb_typeof(headers) = 'null' then '{}'::jsonb
    when jsonb_typeof(headers) = 'object' then headers
    -- jsonb_build_object is not immutable, which would keep this out of the calling statement.
    else jsonb_set('{}', '{meshhook-foreign-headers}', headers) end;

create or replace function meshhook.message_state(vt timestamptz, read_ct integer, headers jsonb)
returns text
language sql stable parallel safe
return case
    when vt <= now() then
        case when read_ct > 0 and read_ct > meshhook.settled_attempts(headers)
            then 'lost' else 'ready' end
    when read_ct = 0 then 'scheduled'
    when read_ct > meshhook.settled_attempts(headers) then 'running'
    else 'retrying' end;

create or replace function meshhook.message_id_text(message jsonb, key text) returns text
language sql immutable parallel safe
return case when jsonb_typeof(message -> key) in ('string', 'number')
    then left(message ->> key, 200) end;

create or replace function meshhook.json_count(object jsonb, key text) returns integer
language sql immutable parallel safe
return case when jsonb_typeof(object -> key) = 'number' then
    case when (object ->> key)::numeric between 0 and 1000000000
            and (object ->> key)::numeric = trunc((object ->> key)::numeric)
        then (object ->> key)::numeric::integer end
end;

create or replace function meshhook.attempts_made(read_ct integer, headers jsonb) returns integer
language sql immutable parallel safe
return coalesce(
    meshhook.json_count(headers -> 'meshhook-claim', 'attempt') + read_ct
        - meshhook.json_count(headers -> 'meshhook-claim', 'read_ct')
        - coalesce(headers #>> '{meshhook-claim,is_given_back}' = 'true', false)::integer,
    read_ct);

create or replace function meshhook.age_seconds(moment timestamptz) returns double precision
language sql stable parallel safe
return case when isfinite(moment) then date_part('epoch', now() - moment) end;

create or replace function meshhook.job_attempts_partition_name(day date) returns text
language sql immutable
return 'job_attempts_' || to_char(day, 'YYYYMMDD');

-- * With a path of their own

alter function meshhook.check_queue_name(text) set search_path = pg_catalog, pg_temp;
alter function meshhook.delete_expired_attempts(integer) set search_path = pg_catalog, pg_temp;
alter function meshhook.drop_expired_attempt_partitions() set search_path = pg_catalog, pg_temp;
alter function meshhook.live_jobs(text, integer) set search_path = pg_catalog, pg_temp;

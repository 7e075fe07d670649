-- Attempts are counted from what workers did, not from `read_ct` alone: other clients read
-- messages, and write numbers of their own.
-- Locks: ACCESS EXCLUSIVE on queue_config for the new column, which rewrites nothing. Time at size:
-- milliseconds.

alter table meshhook.queue_config add column adopted_msg_id bigint not null default 0;

comment on column meshhook.queue_config.adopted_msg_id is
    'The newest message that was there when the queue was adopted; 0 for one that was made new. '
    'Reads of messages up to it are not attempts, until a worker has claimed them.';

create function meshhook.note_adopted_messages() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if to_regclass(format('pgmq.%I', 'q_' || new.queue_name)) is not null then
        execute format('select coalesce(max(msg_id), 0) from pgmq.%I', 'q_' || new.queue_name)
            into new.adopted_msg_id;
    end if;
    return new;
end
$$;

create trigger note_adopted_messages
    before insert on meshhook.queue_config
    for each row execute function meshhook.note_adopted_messages();

-- A whole number from 0 to a thousand million out of a JSON object; null where there is none, or
-- where some other client wrote nonsense under its name.
create function meshhook.json_count(object jsonb, key text) returns integer
language sql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
    select case when jsonb_typeof(object -> key) = 'number' then
        case when (object ->> key)::numeric between 0 and 1000000000
                and (object ->> key)::numeric = trunc((object ->> key)::numeric)
            then (object ->> key)::numeric::integer end
    end
$$;

-- What the claim of a message is to be marked with that was read since its last recorded outcome,
-- so that `read_ct` alone does not say which attempt comes next:
--   read_ct   what the claim sets `read_ct` to;
--   attempt   which attempt the claim makes, from 1;
--   lost      how many attempts in a row, just before this one, ended with no outcome;
--   is_recorded  whether the last of these stands in the history already, if there is one.
-- At most one of the reads that no mark explains was an attempt: every later claim would have left
-- a mark. The rest were other clients', or those of workers of an older version, of which the
-- history tells. Without one of these, a message that was there when its queue was adopted was
-- never attempted. Costs the same whatever number stands in `read_ct`.
-- Locks: none. Index: job_attempts_job_idx.
create function meshhook.claim_mark(
    queue_name text, msg_id bigint, enqueued_at timestamptz, read_ct integer, headers jsonb,
    adopted_msg_id bigint)
returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    settled integer := meshhook.settled_attempts(headers);
    mark jsonb := headers -> 'meshhook-claim';
    marked_read_ct integer := meshhook.json_count(mark, 'read_ct');
    marked_attempt integer := meshhook.json_count(mark, 'attempt');
    marked_lost integer := meshhook.json_count(mark, 'lost');
    is_marked boolean := marked_read_ct > 0 and marked_attempt > 0 and marked_lost >= 0;
    settled_attempt integer := settled;
    attempt integer;
    lost integer;
    last_lost integer;
    all_lost integer;
    is_recorded boolean := false;
begin
    is_marked := coalesce(is_marked, false);
    if is_marked and marked_read_ct > settled then
        is_recorded := read_ct = marked_read_ct
            and coalesce(mark -> 'is_given_back' = 'true', false);
        attempt := marked_attempt + (not is_recorded)::integer;
        lost := marked_lost + (not is_recorded)::integer;
    elsif not is_marked and settled = 0 and msg_id <= adopted_msg_id then
        is_recorded := true;
        attempt := 1;
        lost := 0;
    else
        if is_marked then
            settled_attempt := marked_attempt + settled - marked_read_ct;
        end if;
        attempt := settled_attempt + 2;
        lost := 1;
        if read_ct - settled > 1 then
            select max(a.attempt), count(*) into last_lost, all_lost
                from meshhook.job_attempts a
                where a.queue = claim_mark.queue_name and a.msg_id = claim_mark.msg_id
                  and a.enqueued_at = claim_mark.enqueued_at and a.outcome = 'lost'
                  and a.attempt > settled_attempt;
            if all_lost > 0 then
                attempt := last_lost + 2;
                lost := all_lost + 1;
            end if;
        end if;
    end if;
    return jsonb_build_object(
        'read_ct', case when read_ct < 1000000000 then read_ct + 1 else 1 end,
        'attempt', attempt, 'lost', lost, 'is_recorded', is_recorded);
end
$$;

-- How many attempts a message has had, the one that is running included.
create function meshhook.attempts_made(read_ct integer, headers jsonb) returns integer
language sql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
    select coalesce(
        meshhook.json_count(headers -> 'meshhook-claim', 'attempt') + read_ct
            - meshhook.json_count(headers -> 'meshhook-claim', 'read_ct')
            - coalesce(headers #> '{meshhook-claim,is_given_back}' = 'true', false)::integer,
        read_ct)
$$;

-- The headers of a message whose lease is given back unused, where its claim left a mark; null
-- where it left none. Then `read_ct` becomes one more instead of one less: a lease that was lost
-- before would hold again otherwise.
create function meshhook.given_back(read_ct integer, headers jsonb) returns jsonb
language sql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
    select case when meshhook.json_count(headers -> 'meshhook-claim', 'read_ct') = read_ct
        then jsonb_set(headers, '{meshhook-claim}', headers -> 'meshhook-claim'
            || jsonb_build_object('read_ct', read_ct + 1, 'is_given_back', true)) end
$$;

-- The headers of a message that is put off with its attempt unspent: `read_ct` becomes one less.
create function meshhook.snoozed_headers(read_ct integer, headers jsonb) returns jsonb
language sql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
    select case
        when jsonb_typeof(headers -> 'meshhook-claim') = 'object' then
            headers || jsonb_build_object('meshhook-settled', read_ct - 1,
                'meshhook-claim', jsonb_build_object('read_ct', read_ct - 1, 'lost', 0,
                    'attempt', meshhook.attempts_made(read_ct, headers) - 1))
        when read_ct = 1 then headers
        else meshhook.headers_object(headers)
            || jsonb_build_object('meshhook-settled', read_ct - 1) end
$$;

-- As before, with attempts in the place of reads.
create or replace function meshhook.live_jobs(only_queue text default null, row_limit integer default null)
returns table (
    queue text, msg_id bigint, state text, attempts integer, run_id text, workflow_id text,
    project_id text, enqueued_at timestamptz, vt timestamptz, headers jsonb)
language plpgsql stable as $$
declare
    name text;
begin
    for name in
        select c.queue_name from meshhook.queue_config c
        where only_queue is null or c.queue_name = only_queue
        order by c.queue_name
    loop
        continue when to_regclass(format('pgmq.%I', 'q_' || name)) is null;
        return query execute format($query$
            select %L::text, q.msg_id, meshhook.message_state(q.vt, q.read_ct, q.headers),
                   meshhook.attempts_made(q.read_ct, q.headers),
                   meshhook.message_id_text(q.message, 'run_id'),
                   meshhook.message_id_text(q.message, 'workflow_id'),
                   meshhook.message_id_text(q.message, 'project_id'),
                   q.enqueued_at, q.vt, q.headers
            from pgmq.%I q order by q.msg_id limit $1
            $query$, name, 'q_' || name) using row_limit;
    end loop;
end
$$;

-- Policies of a job's own in SQL as named arguments: functions that make the headers, so that the
-- functions that enqueue, publish or schedule keep their arguments.
-- Locks: none that others hold. Time at size: milliseconds; no queue is touched.

set local search_path = pg_catalog, pg_temp;

-- Returns the headers with policies of a job's own, for the argument `headers` of whatever stores
-- jobs. What is not given is as the settings of the queue say. The error is MHQ07.
create function meshhook.job_policy(
    max_attempts integer default null, backoff text default null, base_ms bigint default null,
    max_ms bigint default null, delays_ms bigint[] default null,
    jitter double precision default null, expires_at timestamptz default null,
    expires_in interval default null, on_dead_letter jsonb default null)
returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    retry jsonb := jsonb_strip_nulls(jsonb_build_object(
        'max_attempts', max_attempts, 'backoff', backoff, 'base_ms', base_ms, 'max_ms', max_ms,
        'delays_ms', delays_ms, 'jitter', jitter));
begin
    return coalesce(meshhook.check_headers(
        case when retry = '{}' then '{}' else jsonb_build_object('meshhook-retry', retry) end
        || jsonb_strip_nulls(jsonb_build_object(
            -- What no header can say is refused as it was given.
            'meshhook-expires-at', case
                when expires_at between '0001-01-01 00:00+00' and '9999-12-31 23:59:59.999999+00'
                then to_char(expires_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
                else expires_at::text end,
            'meshhook-expires-in', extract(epoch from expires_in)::double precision))
        || case when on_dead_letter is null then '{}'
            else jsonb_build_object('meshhook-on-dead-letter', on_dead_letter) end), '{}');
end
$$;

-- Returns a job to enqueue if another one becomes a dead letter: `on_dead_letter` of job_policy. The
-- error is MHQ07, and MHQ08 for a delay. Whether the queue exists is not asked.
create function meshhook.follow_up(
    queue text, message jsonb default '{}', headers jsonb default null,
    delay interval default null, key text default null, priority text default null)
returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    stored jsonb;
    found jsonb;
begin
    if message is null then
        raise exception using errcode = 'MHQ07', message = 'the message is null',
            hint = 'The null of JSON is ''null''::jsonb.';
    end if;
    if coalesce(extract(epoch from delay), 0) not between 0 and 31622400 then
        raise exception using errcode = 'MHQ08',
            message = format('a delay is 0 to 366 days, got %s', delay);
    end if;
    stored := meshhook.check_headers(meshhook.headers_with_priority(headers, priority));
    found := jsonb_build_object('queue', queue, 'message', message)
        || jsonb_strip_nulls(jsonb_build_object(
            'key', key,
            'delay_seconds', nullif(extract(epoch from delay), 0)::double precision))
        || case when stored is null then '{}' else jsonb_build_object('headers', stored) end;
    perform meshhook.check_follow_up(found);
    return found;
end
$$;

comment on function meshhook.job_policy(
    integer, text, bigint, bigint, bigint[], double precision, timestamptz, interval, jsonb) is
    'Returns the headers with retries, a deadline and a follow-up of a job''s own, for the argument '
    '"headers" of meshhook.enqueue and its neighbours. Arguments may be added: pass them by name.';
comment on function meshhook.follow_up(text, jsonb, jsonb, interval, text, text) is
    'Returns a job to enqueue if another one becomes a dead letter: on_dead_letter of '
    'meshhook.job_policy. Arguments may be added: pass all but the first two by name.';

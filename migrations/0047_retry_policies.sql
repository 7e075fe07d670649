-- Retry policies: a queue names its backoff, and a job may have a policy of its own in the header
-- `meshhook-retry`, which SQL checks as the library does.
-- Locks: ACCESS EXCLUSIVE on meshhook.queue_config for the new columns, which rewrites nothing.
-- Time at size: milliseconds; no queue is touched.

set local search_path = pg_catalog, pg_temp;

-- Two grants on one table at once would fail: waits for whoever makes roles.
select pg_advisory_xact_lock(hashtext('meshhook.roles'));

alter table meshhook.queue_config
    add column retry_backoff text not null default 'exponential'
        check (retry_backoff in ('exponential', 'fixed', 'list')),
    add column retry_delays_ms bigint[] not null default '{}' check (
        coalesce(array_ndims(retry_delays_ms), 1) = 1 and cardinality(retry_delays_ms) <= 100
        and array_position(retry_delays_ms, null) is null
        and 0 <= all (retry_delays_ms) and 604800000 >= all (retry_delays_ms)),
    add constraint retry_backoff_list_has_delays
        check (retry_backoff <> 'list' or cardinality(retry_delays_ms) > 0);

comment on column meshhook.queue_config.retry_backoff is
    'How delays grow: exponential, doubled with each failure; fixed, always retry_backoff_base_ms; '
    'list, as retry_delays_ms says.';
comment on column meshhook.queue_config.retry_delays_ms is
    'The delays of the backoff list; the last one repeats.';

-- Checks a retry policy of a job's own: the header `meshhook-retry`. The error is MHQ07.
create function meshhook.check_retry_policy(policy jsonb) returns void
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
    field record;
    problem text;
begin
    if jsonb_typeof(policy) <> 'object' then
        raise exception using errcode = 'MHQ07', message = format(
            'header meshhook-retry: a retry policy is an object, got %s', left(policy::text, 100));
    end if;
    for field in
        select p.key, p.value,
            case when jsonb_typeof(p.value) = 'number' then p.value::numeric end as number
        from jsonb_each(policy) as p order by p.key
    loop
        problem := case field.key
            when 'max_attempts' then
                case when field.number between 1 and 1000 and field.number = trunc(field.number)
                    then null else 'is a whole number from 1 to 1000' end
            when 'base_ms' then
                case when field.number between 0 and 604800000
                    and field.number = trunc(field.number)
                    then null else 'is a whole number from 0 to 604800000' end
            when 'max_ms' then
                case when field.number between 0 and 604800000
                    and field.number = trunc(field.number)
                    then null else 'is a whole number from 0 to 604800000' end
            when 'jitter' then
                case when field.number between 0 and 1
                    then null else 'is a number from 0 to 1' end
            when 'backoff' then
                case when field.value in ('"exponential"', '"fixed"', '"list"')
                    then null else 'is one of exponential, fixed, list' end
            when 'delays_ms' then
                case when jsonb_typeof(field.value) = 'array'
                    and jsonb_array_length(field.value) between 1 and 100
                    and not jsonb_path_exists(field.value, 'strict $[*] ? (
                        !(@.type() == "number" && @ >= 0 && @ <= 604800000 && @ == @.floor()))')
                    then null
                    else 'is a list of 1 to 100 whole numbers from 0 to 604800000' end
            else 'is no field; there are backoff, base_ms, delays_ms, jitter, max_attempts, max_ms'
            end;
        if problem is not null then
            raise exception using errcode = 'MHQ07', message = format(
                'header meshhook-retry: %s %s, got %s', left(field.key, 100), problem,
                left(field.value::text, 100));
        end if;
    end loop;
    if policy ? 'base_ms' and policy ? 'max_ms'
        and (policy -> 'base_ms')::numeric > (policy -> 'max_ms')::numeric
    then
        raise exception using errcode = 'MHQ07', message = format(
            'header meshhook-retry: base_ms (%s) is more than max_ms (%s)',
            policy -> 'base_ms', policy -> 'max_ms');
    end if;
    if policy ? 'delays_ms' and policy ->> 'backoff' <> 'list' then
        raise exception using errcode = 'MHQ07', message = format(
            'header meshhook-retry: delays_ms is for the backoff list, got backoff=%s',
            policy ->> 'backoff');
    end if;
end
$$;

-- Checks headers, and returns those to store: null for none. The error is MHQ07. Of the names that
-- are the queue's own, only policies of a job may be given.
create or replace function meshhook.check_headers(headers jsonb) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    reserved text;
begin
    if jsonb_typeof(headers) not in ('object', 'null') then
        raise exception using errcode = 'MHQ07', message = format(
            'headers are a JSON object of names and values, got %s', left(headers::text, 100));
    end if;
    headers := case when headers in ('{}', 'null') then null else headers end;
    if headers is not null then
        select k into reserved from jsonb_object_keys(headers) as k
            where starts_with(k, 'meshhook-') and k <> 'meshhook-retry'
            order by k limit 1;
        if found then
            raise exception using errcode = 'MHQ07', message = format(
                'header "%s": names that start with "meshhook-" are the queue''s own',
                left(reserved, 100));
        end if;
        if meshhook.excess_bytes(headers, 65536) is not null then
            raise exception using errcode = 'MHQ07', message = format(
                'the headers are %s bytes of JSON, at most 65536 are allowed',
                meshhook.json_bytes(headers)),
                hint = 'Put data into the message.';
        end if;
        if headers ? 'meshhook-retry' then
            perform meshhook.check_retry_policy(headers -> 'meshhook-retry');
        end if;
    end if;
    return headers;
end
$$;

-- * Roles made before
-- Whoever sets limits sets how retries are delayed.

do $$
declare
    grantee record;
begin
    for grantee in
        select distinct r.rolname as name
        from pg_roles r, pg_attribute t, aclexplode(t.attacl) a
        where t.attrelid = 'meshhook.queue_config'::regclass and t.attname = 'max_running'
          and a.privilege_type = 'UPDATE' and a.grantee = r.oid
    loop
        execute format('grant update (retry_backoff, retry_delays_ms) on meshhook.queue_config '
            'to %I', grantee.name);
    end loop;
end
$$;

update meshhook.role_grants set columns = columns || array['retry_backoff', 'retry_delays_ms']
    where kind = 'oncall' and object = 'table meshhook.queue_config' and privilege = 'update'
      and not 'retry_backoff' = any (columns);

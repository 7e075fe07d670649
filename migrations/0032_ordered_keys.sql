-- Ordered keys: of each key of a queue whose setting `ordered` is on one job runs at a time, in the
-- order in which the messages were stored. A third index of the queue's table knows the order.
-- Locks: ACCESS EXCLUSIVE on meshhook.queue_config for the new column and the trigger, which
-- rewrites nothing. Time at size: milliseconds; no queue is touched.

set local search_path = pg_catalog, pg_temp;

alter table meshhook.queue_config
    add column ordered boolean not null default false,
    add constraint order_needs_keys check (keyed or not ordered);

comment on column meshhook.queue_config.ordered is
    'Whether one job of each key runs at a time, in the order of msg_id. meshhook queue set builds '
    'the index that this needs.';

-- Where a message stands among those of its key: at its msg_id, or, if it was replayed, at that of
-- the job that died first. An index of each ordered queue is made of it: changed, it would have to be
-- built anew.
create function meshhook.place_in_order(msg_id bigint, headers jsonb) returns bigint
language sql immutable parallel safe
return case when jsonb_typeof(headers #> '{meshhook-replayed-from,place}') = 'number'
    then least(greatest((headers #> '{meshhook-replayed-from,place}')::numeric, 0), msg_id)::bigint
    else msg_id end;

drop function meshhook.key_index_statements(text, boolean, text, boolean);

-- The statements that bring the indexes of a queue's keys to what its settings are to be, in their
-- order; none if they are there, or gone. Run them one by one. Where the queue `is_in_use` they build
-- beside others, and take no transaction; else others wait. What an interrupted run left behind is
-- dropped and built anew. Null for `ordered` leaves the index of the order as it is.
-- Locks: none.
create function meshhook.key_index_statements(
    queue text, keyed boolean, key_path text, is_in_use boolean, ordered boolean default null)
returns setof text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    how text := case when is_in_use then ' concurrently' else '' end;
    key text := case when key_path is null then
            'meshhook.key_text(headers operator(pg_catalog.->>) ''x-pgmq-group''::pg_catalog.text)'
        else format('meshhook.key_text(message operator(pg_catalog.#>>) %L::pg_catalog.text[])',
            string_to_array(key_path, '.')) end;
    purpose text := 'The keys of messages: '
        || coalesce('the path ' || key_path, 'the header x-pgmq-group');
    part record;
begin
    perform meshhook.check_queue_name(queue);
    if not is_in_use and pg_relation_size(to_regclass(format('pgmq.%I', 'q_' || queue)))
        > 8388608
    then
        raise exception using errcode = 'MHQ09', message = format(
            'queue "%s" is too large to build its indexes for keys inside a transaction, in which '
            'nobody could write to it', queue),
            hint = format('Outside of one: meshhook queue set %s keyed=true', queue);
    end if;
    for part in
        select i.name, i.definition, i.is_needed, c.oid is not null as exists,
            c.oid is not null and x.indisvalid
                and obj_description(c.oid, 'pg_class') is not distinct from purpose as is_usable
        from (values
            ('q_' || queue || '_key_idx', format('((%s) collate pg_catalog."C"), vt', key), keyed),
            ('q_' || queue || '_running_idx', format(
                '((case when meshhook.has_open_attempt(read_ct, headers) then %1$s end) '
                'collate pg_catalog."C"), vt) where (case when meshhook.has_open_attempt(read_ct, headers) '
                'then %1$s end) is not null', key), keyed),
            ('q_' || queue || '_order_idx', format('((%s) collate pg_catalog."C"), '
                '(meshhook.place_in_order(msg_id, headers)), msg_id', key),
                case when keyed then ordered else false end)
        ) as i (name, definition, is_needed)
        left join pg_class c on c.oid = to_regclass(format('pgmq.%I', i.name))
        left join pg_index x on x.indexrelid = c.oid
    loop
        continue when part.is_needed is null or (part.is_needed and part.is_usable);
        if part.exists then
            return next format('drop index%s pgmq.%I', how, part.name);
        end if;
        if part.is_needed then
            return next format('create index%s %I on pgmq.%I (%s%s', how, part.name,
                'q_' || queue, part.definition,
                case when part.definition like '% where %' then '' else ')' end);
            return next format('comment on index pgmq.%I is %L', part.name, purpose);
        end if;
    end loop;
end
$$;

-- Refuses a queue that is keyed, or ordered, without the indexes: each claim would read the whole table.
create or replace function meshhook.check_keys() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if new.keyed and exists (
        select from meshhook.key_index_statements(new.queue_name, true, new.key_path, true,
            nullif(new.ordered, false)))
    then
        raise exception using errcode = 'MHQ09', message = format(
            'queue "%s" has no indexes for %s of %s yet', new.queue_name,
            case when new.ordered then 'ordered keys' else 'keys' end,
            coalesce('the path ' || new.key_path, 'the header x-pgmq-group')),
            hint = format('Build them: meshhook queue set %s keyed=true', new.queue_name)
                || coalesce(' key_path=' || new.key_path, '')
                || case when new.ordered then ' ordered=true' else '' end;
    end if;
    return new;
end
$$;

-- When the last outcome of a job was recorded; null if none is, or the role may not read the history.
-- Locks: none. Index: job_attempts_job_idx.
create function meshhook.last_outcome_at(queue text, msg_id bigint, enqueued_at timestamptz)
returns timestamptz
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    if not has_table_privilege('meshhook.job_attempts', 'select') then
        return null;
    end if;
    return (select max(a.finished_at) from meshhook.job_attempts a
        where a.queue = last_outcome_at.queue and a.msg_id = last_outcome_at.msg_id
          and a.enqueued_at = last_outcome_at.enqueued_at);
end
$$;

drop trigger check_keys on meshhook.queue_config;

create trigger check_keys
    before insert or update of keyed, key_path, ordered on meshhook.queue_config
    for each row when (new.keyed) execute function meshhook.check_keys();

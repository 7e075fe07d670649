-- Messages are found by run_id, workflow_id or project_id through indexes of the queue's table,
-- where its setting `lookup_by` names them. Turning one on builds its index, turning it off drops
-- it. meshhook.matching_messages, which cancels and the like, uses them as well.
-- Locks: ACCESS EXCLUSIVE on meshhook.queue_config for the new column and the trigger, which
-- rewrites nothing. Time at size: milliseconds; no queue is touched.

set local search_path = pg_catalog, pg_temp;

alter table meshhook.queue_config
    add column lookup_by text[] not null default '{}' check (
        lookup_by <@ array['run_id', 'workflow_id', 'project_id']
        and coalesce(array_ndims(lookup_by), 1) = 1);

comment on column meshhook.queue_config.lookup_by is
    'The ids by which messages are found through an index: run_id, workflow_id, project_id. '
    'meshhook queue set builds the indexes.';

-- An identifier in a message as its index has it: the first 200 characters. As with
-- meshhook.message_id_text, which says null of more messages and is asked again; but an index may
-- ask no size, so that large messages are unpacked, once. It never fails: a number is written out
-- only if that is short. Indexes are made of it: changed, they would have to be built anew.
create function meshhook.indexed_id(message jsonb, name text) returns text
language sql immutable parallel safe
return left(jsonb_path_query_first(message, case name
    when 'run_id' then 'strict $.run_id ? (
        @.type() == "string" || @.type() == "number" && @.abs() < 1e400)'::jsonpath
    when 'workflow_id' then 'strict $.workflow_id ? (
        @.type() == "string" || @.type() == "number" && @.abs() < 1e400)'::jsonpath
    when 'project_id' then 'strict $.project_id ? (
        @.type() == "string" || @.type() == "number" && @.abs() < 1e400)'::jsonpath
    end, '{}'::jsonb, true) #>> '{}'::text[], 200);

-- The ids by which messages of a queue are found through an index that is there and complete. Where
-- the database checks no bytes there are none: what is shown of an id may differ from what is
-- stored. Locks: none.
create function meshhook.indexed_ids(queue text) returns text[]
language sql stable set search_path = pg_catalog, pg_temp as $$
    select array(
        select n.name
        from unnest(array['run_id', 'workflow_id', 'project_id'])
            with ordinality as n (name, place)
        join pg_index i on i.indexrelid
            = to_regclass(format('pgmq.%I', 'q_' || $1 || '_' || n.name || '_idx'))
        where i.indisvalid
          and obj_description(i.indexrelid, 'pg_class') = 'Finds messages by ' || n.name
          and getdatabaseencoding() <> 'SQL_ASCII'::name
        order by n.place)
$$;

-- The statements that bring the indexes of a queue's ids to what its setting is to be, in their
-- order; none if they are there, or gone. Run them one by one. Where the queue `is_in_use` they
-- build beside others, and take no transaction; else others wait. What an interrupted run left
-- behind is dropped and built anew. Locks: none.
create function meshhook.lookup_index_statements(
    queue text, lookup_by text[], is_in_use boolean)
returns setof text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    how text := case when is_in_use then ' concurrently' else '' end;
    usable text[] := meshhook.indexed_ids(queue);
    wrong text := (
        select coalesce(i.name, 'null') from unnest(lookup_by) as i (name)
        where (i.name in ('run_id', 'workflow_id', 'project_id')) is not true limit 1);
    part record;
begin
    perform meshhook.check_queue_name(queue);
    if wrong is not null then
        raise exception using errcode = 'MHQ08', message = format(
            'lookup_by names run_id, workflow_id or project_id, got "%s"', left(wrong, 100));
    end if;
    if cardinality(lookup_by) > 0 and getdatabaseencoding() = 'SQL_ASCII'::name then
        raise exception using errcode = 'MHQ09',
            message = 'lookup_by needs a database that checks bytes; the encoding is SQL_ASCII',
            hint = 'Use a database with the encoding UTF8.';
    end if;
    if not is_in_use and not lookup_by <@ usable
        and pg_relation_size(to_regclass(format('pgmq.%I', 'q_' || queue))) > 8388608
    then
        raise exception using errcode = 'MHQ09', message = format(
            'queue "%s" is too large to build its indexes for lookup_by inside a transaction, in '
            'which nobody could write to it', queue),
            hint = format('Outside of one: meshhook queue set %s lookup_by=%s', queue,
                array_to_string(lookup_by, ','));
    end if;
    for part in
        select n.name as id, 'q_' || queue || '_' || n.name || '_idx' as index_name,
            n.name = any (lookup_by) as is_needed, n.name = any (usable) as is_usable
        from unnest(array['run_id', 'workflow_id', 'project_id'])
            with ordinality as n (name, place)
        order by n.place
    loop
        continue when part.is_needed and part.is_usable;
        if to_regclass(format('pgmq.%I', part.index_name)) is not null then
            return next format('drop index%s pgmq.%I', how, part.index_name);
        end if;
        if part.is_needed then
            return next format(
                'create index%s %I on pgmq.%I ((meshhook.indexed_id(message, %L::pg_catalog.text)) '
                'collate pg_catalog."C", msg_id)', how, part.index_name, 'q_' || queue, part.id);
            return next format('comment on index pgmq.%I is %L', part.index_name,
                'Finds messages by ' || part.id);
        end if;
    end loop;
end
$$;

-- Refuses the setting without the indexes.
create function meshhook.check_lookups() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if not new.lookup_by <@ meshhook.indexed_ids(new.queue_name) then
        raise exception using errcode = 'MHQ09', message = format(
            'queue "%s" has no index of %s yet', new.queue_name, (
                select i.name from unnest(new.lookup_by) as i (name)
                where i.name <> all (meshhook.indexed_ids(new.queue_name)) limit 1)),
            hint = format('Build it: meshhook queue set %s lookup_by=%s', new.queue_name,
                array_to_string(new.lookup_by, ','));
    end if;
    return new;
end
$$;

create trigger check_lookups
    before insert or update of lookup_by on meshhook.queue_config
    for each row when (cardinality(new.lookup_by) > 0) execute function meshhook.check_lookups();

-- Topics: operators bind queues to PGMQ's topics, where the installed PGMQ has them.
-- Locks: none that others hold. Time at size: milliseconds.

set local search_path = pg_catalog, pg_temp;

-- PGMQ's own functions use the operators of the caller's search path.

-- Lets PGMQ route messages whose topic matches a pattern to a queue; returns whether that is new.
-- Locks: the new row. Index: topic_bindings_unique_pattern_queue.
create function meshhook.bind_topic(queue text, pattern text) returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    is_bound boolean := exists (
        select from pgmq.topic_bindings b
        where b.queue_name = bind_topic.queue and b.pattern = bind_topic.pattern);
begin
    perform pgmq.bind_topic(bind_topic.pattern, bind_topic.queue);
    return not is_bound;
end
$$;

-- Lets PGMQ route no more messages to a queue for a pattern; returns whether it did.
-- Locks: the row. Index: topic_bindings_unique_pattern_queue.
create function meshhook.unbind_topic(queue text, pattern text) returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
    return pgmq.unbind_topic(unbind_topic.pattern, unbind_topic.queue);
end
$$;

-- Two grants on one table at once would fail: waits for whoever makes roles.
select pg_advisory_xact_lock(hashtext('meshhook.roles'));

insert into meshhook.role_grants (role, kind, object, privilege)
    select r.role, r.kind, 'table pgmq.topic_bindings', p.privilege
    from meshhook.roles r
    cross join (values ('select'), ('insert'), ('delete')) as p (privilege)
    where r.kind = 'operator'
    on conflict do nothing;

do $$
declare
    grantee record;
begin
    for grantee in
        select r.role::regrole as name
        from meshhook.roles r
        join pg_class c on c.oid = to_regclass('pgmq.topic_bindings')
        where r.kind = 'operator' and c.relowner <> r.role::oid
          and pg_has_role(c.relowner, 'usage')
    loop
        execute format('grant select, insert, delete on pgmq.topic_bindings to %s', grantee.name);
    end loop;
end
$$;

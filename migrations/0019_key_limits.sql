-- Limits and weights of keys: how many jobs of a key, and how many of a queue, may run at once over
-- the whole fleet. What runs is counted from the messages themselves, so that nothing can leak.
-- Locks: ACCESS EXCLUSIVE on meshhook.queue_config for the new columns, which rewrites nothing.
-- Time at size: milliseconds; no queue is touched.

set local search_path = pg_catalog, pg_temp;

-- Two grants on one table at once would fail: waits for whoever makes roles.
select pg_advisory_xact_lock(hashtext('meshhook.roles'));

alter table meshhook.queue_config
    add column max_running integer check (max_running between 1 and 1000000),
    add column max_running_per_key integer check (max_running_per_key between 1 and 1000000),
    add constraint limits_need_keys check (
        keyed or (max_running is null and max_running_per_key is null));

comment on column meshhook.queue_config.max_running is
    'How many jobs of the queue may run at once, on all workers together; null means any number.';
comment on column meshhook.queue_config.max_running_per_key is
    'How many jobs of each key may run at once, on all workers together; null means any number.';

create table meshhook.keys (
    queue text not null references meshhook.queue_config (queue_name) on delete cascade,
    key text collate "C" not null check (length(key) <= 200),
    weight double precision check (weight between 0.001 and 1000),
    max_running integer check (max_running between 1 and 1000000),
    primary key (queue, key)
);

comment on table meshhook.keys is
    'Keys with a weight or a limit of their own. The empty key is that of messages without one.';
comment on column meshhook.keys.weight is
    'How many jobs of the key run for each job of a key with weight 1; null means 1.';
comment on column meshhook.keys.max_running is
    'How many jobs of the key may run at once; null means the max_running_per_key of the queue.';

-- Whoever sees a queue's settings sees its keys.
alter table meshhook.keys enable row level security;
create policy of_visible_queues on meshhook.keys
    using (exists (
        select from meshhook.queue_config c where c.queue_name = keys.queue))
    with check (exists (
        select from meshhook.queue_config c where c.queue_name = keys.queue));

-- Tells workers of a change, as changes of settings do.
create function meshhook.announce_keys() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if meshhook.may_notify() then
        perform pg_notify('meshhook_config', coalesce(new.queue, old.queue));
    end if;
    return null;
end
$$;

create trigger announce_keys
    after insert or update or delete on meshhook.keys
    for each row execute function meshhook.announce_keys();

-- Runs a claim of a queue that has limits, after all others of the queue that began before: the
-- statement counts what runs, so that what they leased must be committed before its snapshot. The
-- statement is sql/claim_keyed.sql; it has the rights of its caller.
-- Locks: the turn of the queue, until the transaction ends.
create function meshhook.claim_in_turn(
    queue text, statement text, lease_seconds double precision, from_vt timestamptz,
    max_messages integer, max_attempts integer, to_vt timestamptz, from_key text, key_path text)
returns table (
    msg_id bigint, read_ct integer, enqueued double precision, ready double precision,
    class integer, body text, headers text, claimed double precision, is_new_loss boolean,
    oldest_due double precision, next_key text)
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
    perform pg_advisory_xact_lock(hashtext('meshhook.keys'), hashtext(queue));
    return query execute statement
        using lease_seconds, from_vt, max_messages, max_attempts, to_vt, queue, from_key, key_path,
            true;
end
$$;

-- Runs an extension of leases of a queue that has limits. A lease that has ended must not begin
-- anew: a claim may have counted it as ended, and have leased another job in its place. Extensions
-- run beside each other, but not beside claims. The statement is sql/extend.sql.
-- Locks: the turn of the queue, shared, until the transaction ends.
create function meshhook.extend_in_turn(
    queue text, statement text, msg_ids bigint[], read_cts integer[], enqueued double precision[],
    lease_seconds double precision)
returns table ("position" bigint, is_extended boolean)
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
    perform pg_advisory_xact_lock_shared(hashtext('meshhook.keys'), hashtext(queue));
    return query execute statement using msg_ids, read_cts, enqueued, lease_seconds, true;
end
$$;

-- * Roles made before
-- Workers read limits; operators and whoever is on call set them, whether `meshhook roles` granted
-- to them or an administrator did.

do $$
declare
    grantee record;
begin
    for grantee in
        select r.rolname as name,
            case when has_column_privilege(r.oid, 'meshhook.queue_config', 'paused', 'update')
                then 'select, insert, update, delete' else 'select' end as privileges,
            has_column_privilege(r.oid, 'meshhook.queue_config', 'paused', 'update') as may_set
        from pg_roles r, pg_class c
        where c.oid = 'meshhook.queue_config'::regclass and c.relowner <> r.oid and (
            exists (select from aclexplode(c.relacl) a where a.grantee = r.oid)
            or exists (select from pg_attribute t, aclexplode(t.attacl) a
                where t.attrelid = c.oid and a.grantee = r.oid))
    loop
        execute format('grant %s on meshhook.keys to %I', grantee.privileges, grantee.name);
        if grantee.may_set then
            execute format('grant update (max_running, max_running_per_key) '
                'on meshhook.queue_config to %I', grantee.name);
        end if;
    end loop;
end
$$;

update meshhook.role_grants
    set columns = columns || array['max_running', 'max_running_per_key']
    where kind = 'oncall' and object = 'table meshhook.queue_config' and privilege = 'update'
      and not 'max_running' = any (columns);

insert into meshhook.role_grants (role, kind, object, privilege)
    select r.role, r.kind, 'table meshhook.keys', p.privilege
    from meshhook.roles r
    cross join (values ('select'), ('insert'), ('update'), ('delete')) as p (privilege)
    where r.kind <> 'owner' and (p.privilege = 'select' or r.kind in ('oncall', 'operator'))
    on conflict do nothing;

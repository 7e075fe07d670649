-- Unique keys: a job may have a key that no other job of its queue has until it is done, until it has
-- started, or for some time. A row says which job took a key; it holds the key only as long as that
-- job's message is there, so that whatever ends a message frees its key, too.
-- Locks: SHARE ROW EXCLUSIVE on meshhook.queue_config for its trigger. Time at size: milliseconds; no
-- queue is touched.

set local search_path = pg_catalog, pg_temp;

-- Two grants on one table at once would fail: waits for whoever makes roles.
select pg_advisory_xact_lock(hashtext('meshhook.roles'));

create table meshhook.unique_keys (
    queue text not null,
    key text collate "C" not null,
    msg_id bigint not null,
    enqueued_at timestamptz not null,
    until_started boolean not null default false,
    expires_at timestamptz,
    primary key (queue, key)
) with (fillfactor = 80);

comment on table meshhook.unique_keys is
    'Which job of a queue took each unique key. Rows whose job is gone hold nothing.';
comment on column meshhook.unique_keys.enqueued_at is
    'When that job was enqueued: with msg_id its identity, since ids may be used again.';
comment on column meshhook.unique_keys.until_started is
    'Whether the job holds the key only until its first attempt starts.';
comment on column meshhook.unique_keys.expires_at is
    'When the key is free again, whatever has become of the job; null means when it is done. '
    '-infinity frees the key and deletes the row.';

alter table meshhook.unique_keys enable row level security;
create policy of_visible_queues on meshhook.unique_keys
    using (exists (
        select from meshhook.queue_config c where c.queue_name = unique_keys.queue))
    with check (exists (
        select from meshhook.queue_config c where c.queue_name = unique_keys.queue));

-- The unique key that a message says it has; null if none.
create function meshhook.unique_key_of(headers jsonb) returns text
language sql immutable parallel safe
return case when jsonb_typeof(headers #> '{meshhook-unique,key}'::text[]) = 'string'::text
    then headers #>> '{meshhook-unique,key}'::text[] end;

-- Deletes a key that was freed. Who may delete from a table may also lock it against everybody: so
-- no worker may, and frees keys by an update.
create function meshhook.delete_freed_key() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    if tg_relid = 'meshhook.unique_keys'::regclass then
        delete from meshhook.unique_keys u
            where u.queue = new.queue and u.key = new.key and u.expires_at = '-infinity';
    end if;
    return null;
end
$$;

create trigger delete_freed_key
    after update on meshhook.unique_keys
    for each row when (new.expires_at = '-infinity')
    execute function meshhook.delete_freed_key();

-- Forgets the unique keys of a queue that is dropped.
create function meshhook.forget_unique_keys() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    if tg_relid = 'meshhook.queue_config'::regclass then
        delete from meshhook.unique_keys u where u.queue = old.queue_name;
    end if;
    return null;
end
$$;

create trigger forget_unique_keys
    after delete on meshhook.queue_config
    for each row execute function meshhook.forget_unique_keys();

revoke execute on function meshhook.delete_freed_key(), meshhook.forget_unique_keys() from public;

-- * Roles made before
-- Workers free keys. Whoever enqueues takes them.

do $$
declare
    grantee record;
begin
    for grantee in
        select distinct r.rolname as name from pg_roles r
        where exists (
                select from meshhook.roles m where m.role = r.oid::regrole and m.kind = 'worker')
            or exists (
                select from pg_attribute t, aclexplode(t.attacl) a
                where t.attrelid = 'meshhook.workers'::regclass and t.attname = 'busy_seconds'
                  and a.privilege_type = 'UPDATE' and a.grantee = r.oid)
    loop
        execute format('grant select, update (expires_at) on meshhook.unique_keys to %I',
            grantee.name);
    end loop;
end
$$;

insert into meshhook.role_grants (role, kind, object, privilege, columns)
    select r.role, r.kind, 'table meshhook.unique_keys', p.privilege, p.columns
    from meshhook.roles r
    cross join (values ('select', null), ('update', array['expires_at'])) as p (privilege, columns)
    where r.kind = 'worker'
    on conflict do nothing;

-- Where an ordered queue says so, a dead letter holds its key: until it is replayed or deleted, or the
-- key is resumed. Two triggers of the queue's dead letters do it, so that it holds in the transaction
-- in which the job dies, whoever settles it; the setting makes and drops them.
-- Locks: ACCESS EXCLUSIVE on meshhook.queue_config and meshhook.keys for new columns, which
-- rewrites nothing; the checks read them, a row a queue and a row a key with something set.
-- Time at size: milliseconds; no queue is touched.

set local search_path = pg_catalog, pg_temp;

-- Two grants on one table at once would fail: waits for whoever makes roles.
select pg_advisory_xact_lock(hashtext('meshhook.roles'));

alter table meshhook.queue_config
    add column on_dead_letter text not null default 'continue'
        check (on_dead_letter in ('continue', 'block')),
    add constraint blocks_need_order check (ordered or on_dead_letter = 'continue');

comment on column meshhook.queue_config.on_dead_letter is
    'What a dead letter does to its key, if keys are ordered: continue means that the next job '
    'starts, block that the key is held. meshhook queue set makes the triggers that this needs.';

alter table meshhook.keys
    drop constraint keys_held_by_check,
    add constraint keys_held_by_check check (held_by in ('manual', 'handler', 'dead_letter')),
    add column held_by_dead_letter bigint,
    add column held_by_job bigint;

comment on column meshhook.keys.held_by is
    'Who made the hold: manual means a command or a call, handler the outcome of a job, dead_letter '
    'a job of an ordered queue that died.';
comment on column meshhook.keys.held_by_dead_letter is
    'Which dead letter made the hold: it ends when that is gone.';
comment on column meshhook.keys.held_by_job is 'The msg_id of the job that died.';

create index keys_dead_letter_idx on meshhook.keys (queue, held_by_dead_letter)
    where held_by_dead_letter is not null;

-- Holds the key of a job that died, in the queue that is the trigger's argument. A hold without an
-- end stays as it is. A dead letter that another client has put there holds nothing, nor does one
-- whose headers, and its key with them, were too large to keep.
create function meshhook.hold_key_of_dead_letter() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    died jsonb := new.headers -> 'meshhook-dead-letter';
    config record;
begin
    select c.key_path into config from meshhook.queue_config c
        where c.queue_name = tg_argv[0] and c.ordered and c.on_dead_letter = 'block';
    if not found or jsonb_typeof(died) is distinct from 'object'
        or (config.key_path is null and new.headers ? 'meshhook-dropped-headers')
    then
        return null;
    end if;
    insert into meshhook.keys as k (queue, key, held_until, held_at, held_by, hold_reason,
        held_by_dead_letter, held_by_job)
    values (tg_argv[0], meshhook.key_text(case when config.key_path is null
            then new.headers ->> 'x-pgmq-group'
            else new.message #>> string_to_array(config.key_path, '.') end),
        'infinity', now(), 'dead_letter',
        format('its job %s is dead letter %s', died ->> 'msg_id', new.msg_id), new.msg_id,
        case when died ->> 'msg_id' ~ '^[0-9]{1,18}$' then (died ->> 'msg_id')::bigint end)
    on conflict (queue, key) do update
        set held_until = excluded.held_until, held_at = excluded.held_at,
            held_by = excluded.held_by, hold_reason = excluded.hold_reason,
            held_by_dead_letter = excluded.held_by_dead_letter, held_by_job = excluded.held_by_job
        where k.held_until is null or k.held_until < 'infinity';
    return null;
end
$$;

-- Ends what dead letters hold that are gone; all of the queue where its dead letters were truncated.
create function meshhook.resume_keys_of_dead_letters() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if tg_op = 'TRUNCATE' then
        update meshhook.keys k set held_until = null, held_at = null, held_by = null,
            hold_reason = null, held_by_dead_letter = null, held_by_job = null
        where k.queue = tg_argv[0] and k.held_by_dead_letter is not null;
        return null;
    end if;
    update meshhook.keys k set held_until = null, held_at = null, held_by = null,
        hold_reason = null, held_by_dead_letter = null, held_by_job = null
    from gone g
    where k.queue = tg_argv[0] and k.held_by_dead_letter = g.msg_id;
    return null;
end
$$;

create function meshhook.resume_keys_of_queue() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    update meshhook.keys k set held_until = null, held_at = null, held_by = null,
        hold_reason = null, held_by_dead_letter = null, held_by_job = null
    where k.queue = new.queue_name and k.held_by_dead_letter is not null;
    return null;
end
$$;

create trigger resume_keys_of_queue
    after update of on_dead_letter on meshhook.queue_config
    for each row when (old.on_dead_letter = 'block' and new.on_dead_letter = 'continue')
    execute function meshhook.resume_keys_of_queue();

-- Whether the dead letters of a queue have the triggers that hold keys.
create function meshhook.has_block_triggers(queue text) returns boolean
language sql stable set search_path = pg_catalog, pg_temp
return 3 = (
    select count(*) from pg_trigger t
    where t.tgrelid = to_regclass(format('pgmq.%I', 'q_' || queue || '_dlq'))
      and t.tgname in ('meshhook_hold_key', 'meshhook_resume_keys', 'meshhook_resume_all_keys'));

-- Makes the triggers with which the dead letters of a queue hold keys, or drops them; what is as it is
-- to be is not touched.
-- Locks: SHARE ROW EXCLUSIVE or ACCESS EXCLUSIVE on the dead letters; waits at most a second.
create function meshhook.set_block_triggers(queue text, is_on boolean) returns void
language plpgsql set lock_timeout = '1s' set search_path = pg_catalog, pg_temp as $$
declare
    dead_letters text := format('pgmq.%I', 'q_' || queue || '_dlq');
    name text;
begin
    perform meshhook.check_queue_name(queue);
    if is_on and meshhook.has_block_triggers(queue) then
        return;
    end if;
    for name in
        select t.tgname from pg_trigger t where t.tgrelid = to_regclass(dead_letters)
          and t.tgname in ('meshhook_hold_key', 'meshhook_resume_keys', 'meshhook_resume_all_keys')
    loop
        execute format('drop trigger %I on %s', name, dead_letters);
    end loop;
    if is_on then
        execute format('create trigger meshhook_hold_key after insert on %s for each row '
            'execute function meshhook.hold_key_of_dead_letter(%L)', dead_letters, queue);
        execute format('create trigger meshhook_resume_keys after delete on %s '
            'referencing old table as gone for each statement '
            'execute function meshhook.resume_keys_of_dead_letters(%L)', dead_letters, queue);
        execute format('create trigger meshhook_resume_all_keys after truncate on %s '
            'for each statement '
            'execute function meshhook.resume_keys_of_dead_letters(%L)', dead_letters, queue);
    end if;
end
$$;

-- Refuses a queue whose dead letters are to hold keys and have no triggers for it.
create function meshhook.check_blocks() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if not meshhook.has_block_triggers(new.queue_name) then
        raise exception using errcode = 'MHQ09', message = format(
            'the dead letters of queue "%s" have no triggers that hold keys yet', new.queue_name),
            hint = format('Make them: meshhook queue set %s on_dead_letter=block', new.queue_name);
    end if;
    return new;
end
$$;

create trigger check_blocks
    before insert or update of on_dead_letter on meshhook.queue_config
    for each row when (new.on_dead_letter = 'block') execute function meshhook.check_blocks();

-- * Roles made before
-- Workers write which dead letter holds a key, whether `meshhook roles` granted to them or an
-- administrator did.

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
        execute format('grant insert (held_by_dead_letter, held_by_job), '
            'update (held_by_dead_letter, held_by_job) on meshhook.keys to %I', grantee.name);
    end loop;
end
$$;

update meshhook.role_grants
    set columns = columns || array['held_by_dead_letter', 'held_by_job']
    where kind = 'worker' and object = 'table meshhook.keys' and privilege in ('insert', 'update')
      and not 'held_by_dead_letter' = any (columns);

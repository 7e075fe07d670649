-- How operators scale the workers of each queue: replicas, target and the last decision, for the
-- console, the command line and whoever asks the database. Locks: none that others hold; the table is
-- new. Time at size: milliseconds.

set local search_path = pg_catalog, pg_temp;

-- Two grants on one table at once would fail: waits for whoever makes roles.
select pg_advisory_xact_lock(hashtext('meshhook.roles'));

-- One row for each JobQueue, by its uid: JobQueues of two clusters may have one name, and serve one
-- queue. Nothing depends on it, and an operator that may not write it scales all the same.
create table meshhook.queue_scaling (
    queue text not null references meshhook.queue_config (queue_name) on delete cascade,
    jobqueue_uid text not null check (length(jobqueue_uid) between 1 and 100),
    jobqueue text not null check (length(jobqueue) between 1 and 600),
    deployment text check (length(deployment) <= 300),
    target_age_seconds double precision not null check (target_age_seconds between 0 and 1e9),
    min_replicas integer not null check (min_replicas >= 0),
    max_replicas integer not null check (max_replicas >= 0),
    replicas integer not null check (replicas >= 0),
    ready_replicas integer not null check (ready_replicas >= 0),
    desired_replicas integer check (desired_replicas >= 0),
    state text check (length(state) <= 100),
    reason text check (length(reason) <= 4000),
    decided_at timestamptz check (isfinite(decided_at)),
    scaled_at timestamptz check (isfinite(scaled_at)),
    written_at timestamptz not null default now() check (isfinite(written_at)),
    primary key (queue, jobqueue_uid)
) with (fillfactor = 50);

comment on table meshhook.queue_scaling is
    'One row a JobQueue: how an operator scales the workers of its queue. Written when that changes '
    'and every minute, deleted with the JobQueue.';
comment on column meshhook.queue_scaling.jobqueue is
    'The JobQueue, as namespace/name.';
comment on column meshhook.queue_scaling.deployment is
    'The name of the Deployment that is scaled; null if there is none.';
comment on column meshhook.queue_scaling.target_age_seconds is
    'How long a job may wait: its spec.scaling.targetAgeSeconds.';
comment on column meshhook.queue_scaling.desired_replicas is
    'How many replicas the last decision asked for; null before the first.';
comment on column meshhook.queue_scaling.state is
    'The state of the JobQueue in a word: Operating, or what matters most.';
comment on column meshhook.queue_scaling.reason is
    'What was measured, how many replicas that calls for, and what limits them, in sentences.';
comment on column meshhook.queue_scaling.decided_at is
    'Since when the decision has been to have as many replicas as desired_replicas.';
comment on column meshhook.queue_scaling.scaled_at is
    'When the operator last changed the number of replicas; null if it never did.';
comment on column meshhook.queue_scaling.written_at is
    'When it was written; older than three minutes means that no operator looks after it.';

-- Whoever sees a queue's settings sees how it is scaled.
alter table meshhook.queue_scaling enable row level security;
create policy of_visible_queues on meshhook.queue_scaling
    using (exists (
        select from meshhook.queue_config c where c.queue_name = queue_scaling.queue))
    with check (exists (
        select from meshhook.queue_config c where c.queue_name = queue_scaling.queue));

-- * Roles made before

insert into meshhook.role_grants (role, kind, object, privilege)
    select r.role, r.kind, 'table meshhook.queue_scaling', g.privilege
    from meshhook.roles r
    join (values ('reader', 'select'), ('oncall', 'select'), ('operator', 'select'),
        ('operator', 'insert'), ('operator', 'update'), ('operator', 'delete')
    ) as g (kind, privilege) on g.kind = r.kind
    on conflict do nothing;

do $$
declare
    part record;
begin
    for part in
        select a.rolname as name, g.privilege
        from meshhook.role_grants g join pg_roles a on a.oid = g.role
        where g.object = 'table meshhook.queue_scaling'
        union
        -- Operators that were granted their rights by hand.
        select r.rolname, p.privilege
        from pg_roles r, pg_class t, aclexplode(t.relacl) a,
            unnest(array['select', 'insert', 'update', 'delete']) as p (privilege)
        where t.oid = 'meshhook.queue_config'::regclass and a.privilege_type = 'INSERT'
          and a.grantee = r.oid and a.grantee <> t.relowner
    loop
        execute format('grant %s on meshhook.queue_scaling to %I', part.privilege, part.name);
    end loop;
end
$$;

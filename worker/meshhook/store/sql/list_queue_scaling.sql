-- How operators scale the workers of queue $1, or of all (null); what nobody has written for a week
-- is left out. In a queue with priorities it is planned for their targets.
-- Locks: none. Index: queue_config_pkey; the other table is small.
select s.queue, s.jobqueue, s.jobqueue_uid, s.deployment, s.target_age_seconds, s.min_replicas,
    s.max_replicas, s.replicas, s.ready_replicas, s.desired_replicas,
    meshhook.shown_text(s.state) as state, meshhook.shown_text(s.reason) as reason,
    {moment s.decided_at} as decided_at, {moment s.scaled_at} as scaled_at,
    {moment s.written_at} as written_at,
    s.written_at < pg_catalog.now() - pg_catalog.make_interval(secs => $2::float8) as is_stale,
    case when c.prioritized then c.priority_target_seconds else '{}' end as priority_target_seconds
from meshhook.queue_scaling s
left join meshhook.queue_config c on c.queue_name = s.queue
where ($1::text is null or s.queue = $1::text)
  and s.written_at >= pg_catalog.now() - interval '7 days'
order by s.queue, s.jobqueue, s.jobqueue_uid

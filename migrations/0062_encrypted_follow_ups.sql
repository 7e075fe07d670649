-- What follows a dead letter may be encrypted: it is enqueued as it is.
-- Locks: none on tables. Time at size: milliseconds.

set local search_path = pg_catalog, pg_temp;

-- Enqueues what follows dead letters, in the statement that made them. A job's own follow-up counts
-- before that of its queue. What follows knows how many dead letters lie before it in a row: after
-- five nothing follows any more, so that queues that follow each other come to an end.
-- A follow-up that is refused, such as for a queue that was dropped, keeps no dead letter from being
-- made: a warning is written to the log of the server. What may pass, such as a deadlock, fails the
-- settlement, which is tried again.
-- Locks: the new rows. Index: queue_config_queue_key.
create or replace function meshhook.follow_dead_letters(
    queue text, ids bigint[], headers jsonb[], run_ids text[], workflow_ids text[],
    project_ids text[])
returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    queue_follow_up text := (
        select c.dead_letter_follow_up from meshhook.queue_config c
        where c.queue = follow_dead_letters.queue);
    dead record;
    own jsonb;
    died jsonb;
    details jsonb;
    job_ids jsonb;
    message jsonb;
    depth integer;
begin
    for dead in
        select d.id, d.headers, d.run_id, d.workflow_id, d.project_id
        from unnest(ids, headers, run_ids, workflow_ids, project_ids)
            as d (id, headers, run_id, workflow_id, project_id)
        where queue_follow_up is not null or d.headers ? 'meshhook-on-dead-letter'
        order by d.id
    loop
        own := dead.headers -> 'meshhook-on-dead-letter';
        died := dead.headers -> 'meshhook-dead-letter';
        depth := case when dead.headers #>> '{meshhook-failed-job,depth}' ~ '^[0-9]{1,3}$'
            then (dead.headers #>> '{meshhook-failed-job,depth}')::integer else 0 end + 1;
        if depth > 5 then
            raise warning 'dead letter % of queue "%" is the sixth in a row of jobs that follow '
                'dead letters: nothing follows it', dead.id, follow_dead_letters.queue;
            continue;
        end if;
        details := jsonb_build_object(
            'queue', follow_dead_letters.queue, 'msg_id', died -> 'msg_id',
            'dead_letter_id', dead.id, 'error_type', coalesce(died ->> 'error_type', ''),
            'error_message', coalesce(died ->> 'error_message', ''),
            'attempts', died -> 'attempts');
        job_ids := jsonb_strip_nulls(jsonb_build_object('run_id', dead.run_id,
            'workflow_id', dead.workflow_id, 'project_id', dead.project_id));
        begin
            if own is not null then
                perform meshhook.check_follow_up(own);
                message := own -> 'message';
                if meshhook.is_encrypted(message) then
                    -- What it says is authenticated: its producer gave it the job's identifiers.
                    null;
                elsif jsonb_typeof(message) = 'object' and message ? 'payload'
                    and message - array['payload', 'run_id', 'workflow_id', 'project_id'] = '{}'
                then
                    message := job_ids || message;
                elsif job_ids <> '{}' then
                    message := job_ids || jsonb_build_object('payload', message);
                end if;
            else
                message := job_ids || jsonb_build_object('payload', details);
            end if;
            perform meshhook.enqueue_follow_ups(
                array[coalesce(own ->> 'queue', queue_follow_up)], array[message::text],
                array[(coalesce(nullif(own -> 'headers', 'null'), '{}') || jsonb_build_object(
                    'meshhook-failed-job', details || jsonb_build_object('depth', depth)))::text],
                array[own ->> 'key'],
                array[coalesce((own ->> 'delay_seconds')::double precision, 0)]);
        exception when others then
            if sqlstate ~ '^(08|25|40|53|55|57|58|XX)' then
                raise;
            end if;
            raise warning 'nothing follows dead letter % of queue "%": %', dead.id,
                follow_dead_letters.queue, sqlerrm;
        end;
    end loop;
end
$$;

-- One dead letter, without a body of more than 16 MiB. Locks: none. Index: the primary key.
select d.msg_id, {moment d.enqueued_at} as enqueued_at,
    case when d.message is null then 'null' else meshhook.shown_text(b.body) end as body,
    meshhook.shown_text(case when d.headers is null then null else coalesce(
        meshhook.short_text(d.headers, true),
        case when pg_catalog.pg_column_size(d.headers) <= 120000 then
            meshhook.short_text(pg_catalog.jsonb_build_object('meshhook-dead-letter'::text,
                d.headers -> 'meshhook-dead-letter'::text), true) end,
        '{"meshhook-unread-headers": true}') end) as headers,
    meshhook.message_id_text(d.message, 'run_id') as run_id,
    meshhook.message_id_text(d.message, 'workflow_id') as workflow_id,
    meshhook.message_id_text(d.message, 'project_id') as project_id
from {dlq_table} d
cross join lateral meshhook.bounded_text(d.message, 16777216::bigint) b
where d.msg_id = $1::bigint

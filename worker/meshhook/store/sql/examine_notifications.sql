-- Whether workers are woken, why not, and how full the server's queue of notifications is.
-- Locks: none.
select meshhook.may_notify() as may_notify, pg_catalog.pg_notification_queue_usage() as usage,
    case when pg_catalog.lower(pg_catalog.current_setting('meshhook.notify', true))
            in ('off', 'false', 'no', '0') then 'meshhook.notify is off'
        else 'max_prepared_transactions is not 0, and a prepared transaction may not notify'
    end as reason

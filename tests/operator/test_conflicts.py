"""Conflicts: which JobQueue yields to which."""

from __future__ import annotations

import dataclasses
from typing import Any

from meshhook_operator.api.jobqueue import JobQueue, ObjectKey
from meshhook_operator.databases.registry import known_by_one_name
from meshhook_operator.reconciliation.conflicts import Claims
from support.jobqueues import jobqueue

DATABASE, OTHER_DATABASE = "database", "other database"


def aged(name: str, created_at: float, **spec: Any) -> JobQueue:
    """Return a JobQueue of that age, with a uid of its own."""
    return dataclasses.replace(jobqueue(name, **spec), uid=name, created_at=created_at)


def referring(name: str, created_at: float, target: str) -> JobQueue:
    """Return a JobQueue of that age, for a queue of its own, that scales somebody's Deployment."""
    return aged(name, created_at, queueName=name, worker=None, deploymentRef={"name": target})


def test_the_younger_yields_a_deployment():
    """Of two JobQueues with one Deployment the older one keeps it, whatever their order."""
    old, young = referring("old", 1, "mail"), referring("young", 2, "mail")
    for order in ([(old, DATABASE), (young, DATABASE)], [(young, DATABASE), (old, DATABASE)]):
        claims = Claims(order, {})
        assert claims.conflict_of(old, DATABASE) is None
        conflict = claims.conflict_of(young, DATABASE)
        assert conflict is not None
        assert "shop/old" in conflict.message
        assert not conflict.is_about_queue


def test_the_younger_yields_a_queue():
    """Two JobQueues for one queue of one database would undo each other's settings."""
    old, young = aged("old", 1), aged("young", 2)
    claims = Claims([(old, DATABASE), (young, DATABASE)], {})
    assert claims.conflict_of(old, DATABASE) is None
    conflict = claims.conflict_of(young, DATABASE)
    assert conflict is not None
    assert conflict.is_about_queue


def test_one_name_in_two_databases_is_no_conflict():
    """Queues of one name in different databases have nothing to do with each other."""
    old, young = aged("old", 1), aged("young", 2)
    claims = Claims([(old, DATABASE), (young, OTHER_DATABASE)], {})
    assert claims.conflict_of(young, OTHER_DATABASE) is None


def test_urls_that_lead_to_one_database_are_one():
    """A URL with another user or through a pooler leads to the same database."""
    names = known_by_one_name({"direct": ["a"], "other": ["b"], "pooled": ["a"], "unread": []})
    assert (names["direct"], names["pooled"]) == ("direct", "direct")
    assert (names["other"], names["unread"]) == ("other", "unread")


def test_a_restart_is_noticed_by_one_after_the_other():
    """One address still knows the server by its old start, and another only by the new one."""
    names = known_by_one_name({"late": ["old"], "new": ["new"], "first": ["old", "new"]})
    assert len(set(names.values())) == 1


def test_an_unknown_database_is_no_conflict():
    """Until its Secret has been read, a JobQueue does not claim its queue."""
    old, young = aged("old", 1), aged("young", 2)
    claims = Claims([(old, None), (young, None)], {})
    assert claims.conflict_of(young, None) is None


def test_an_autoscaler_on_the_deployment():
    """A HorizontalPodAutoscaler on the target is named, and the operator does not scale."""
    mine = referring("mine", 1, "mail")
    claims = Claims([(mine, DATABASE)], {ObjectKey("shop", "mail"): ["mail-hpa"]})
    conflict = claims.conflict_of(mine, DATABASE)
    assert conflict is not None
    assert "mail-hpa" in conflict.message
    deleted = {(ObjectKey("shop", "mail"), "mail-hpa")}
    gone = Claims([(mine, DATABASE)], {ObjectKey("shop", "mail"): ["mail-hpa"]}, deleted)
    assert gone.conflict_of(mine, DATABASE) is None
    elsewhere = Claims([(mine, DATABASE)], {ObjectKey("other", "mail"): ["mail-hpa"]})
    assert elsewhere.conflict_of(mine, DATABASE) is None


def test_an_invalid_spec_claims_nothing():
    """A JobQueue with an invalid spec must not block another one."""
    invalid, young = aged("old", 1, scaling={}), aged("young", 2)
    assert invalid.spec is None
    claims = Claims([(invalid, DATABASE), (young, DATABASE)], {})
    assert claims.conflict_of(young, DATABASE) is None
    assert claims.conflict_of(invalid, DATABASE) is None

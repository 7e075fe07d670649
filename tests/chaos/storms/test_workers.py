"""Storms over the workers."""

from __future__ import annotations

import random

import pytest

from support.chaos.counts import CLEAN
from support.chaos.faults import at_moments
from support.chaos.fleet import MakeFleet
from support.chaos.servers import MakeServer

pytestmark = pytest.mark.chaos


def test_workers_are_killed_again_and_again(make_server: MakeServer, make_fleet: MakeFleet) -> None:
    """Five workers in a row are killed in the middle of their work, and replaced."""
    chance = random.Random(4)
    fleet = make_fleet(make_server())
    fleet.start_workers(3)
    fleet.produce(1_000, per_second=80)
    fleet.wait_for_progress()
    for _ in at_moments(seed=4, count=5, least=1, most=2):
        fleet.kill(chance.choice(fleet.workers))
        fleet.start_workers()
    assert fleet.finish() == CLEAN

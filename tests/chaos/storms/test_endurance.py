"""A steady load for a while: `make soak` in short."""

from __future__ import annotations

import pytest

from support.chaos.fleet import MakeFleet
from support.chaos.servers import MakeServer
from support.chaos.soak import Soaker

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]


def test_nothing_grows_under_a_steady_load(make_server: MakeServer, make_fleet: MakeFleet) -> None:
    """Five hundred jobs a second, with retries, dead letters and expiring history, for a minute."""
    with make_fleet(make_server(), workers=0, jobs=0) as fleet:
        soak = Soaker(fleet, minutes=1, per_second=500).run()
        assert soak.wrong() == {}

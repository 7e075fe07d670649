"""How several processes of pytest-xdist share the tests: by files, and by what there is one of."""

from __future__ import annotations

from typing import Any

from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

LANES = {
    "tests/e2e/": "node",
    "tests/image/": "node",
    "tests/cluster/": "control plane",
    "tests/search_path/": "search path",
}
"""Folders whose tests share what a machine has one of, or what is slow to start."""

FIRST = (
    "node",
    "tests/bench/test_bench.py",
    "tests/grafana/test_live.py",
    "tests/chaos/test_whole.py",
    "tests/cli/test_worker_processes.py",
    "control plane",
    "tests/cli/test_processes.py",
    "tests/chart/test_first_install.py",
    "tests/bench/test_adapter.py",
    "tests/test_embedded.py",
)
"""What begins first: long things, so that none is left alone at the end. The control plane begins
some minutes after the node: each is a Kubernetes of its own, and slow to start."""


class Lanes(LoadScopeScheduling):  # type: ignore[misc]  # it has no types
    """Gives each process a file at a time, or a whole lane."""

    def __init__(self, config: Any, log: Any) -> None:
        """Keep the order of `FIRST`, not that by the number of tests."""
        config.option.loadscopereorder = False
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        return lane_of(nodeid)

    def _assign_work_unit(self, node: Any) -> None:
        # Units that have the same rank stay in their order.
        self.workqueue.move_to_end(min(self.workqueue, key=rank), last=False)
        super()._assign_work_unit(node)


def lane_of(nodeid: str) -> str:
    """Return what a test belongs to: its lane, or its file."""
    for folder, lane in LANES.items():
        if nodeid.startswith(folder):
            return lane
    return nodeid.partition("::")[0]


def rank(lane: str) -> int:
    """Return the place of a lane in the order, from 0."""
    return FIRST.index(lane) if lane in FIRST else len(FIRST)

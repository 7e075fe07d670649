"""The benchmark on a real node: what becomes of a trace that fails, and of those beside it."""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

import pytest

from bench.node import lanes
from bench.node.observations import Load, Observations
from bench.node.player import TraceError
from bench.node.report import FORMAT, read_report, write_report
from bench.node.run import _chosen, _left
from bench.scaling.node_traces import node_traces

LOAD = Load(cpu_percent=1.0, others_percent=0.0, waiting_percent=None, load_average=0.1)


class Player:
    """Plays nothing: fails as often as it was told for a trace."""

    def __init__(self, failures: dict[str, list[Exception]]) -> None:
        self.failures = failures
        self.played: list[str] = []

    async def play(self, trace: Any) -> Observations:
        """Note it, and fail or return nothing in particular."""
        await asyncio.sleep(0)
        self.played.append(trace.name)
        if waiting := self.failures.get(trace.name):
            raise waiting.pop()
        return Observations(seconds=1.0, sent=0, left=0, dead_letters=0, load=LOAD)


async def play(tmp_path: Any, names: list[str], player: Any) -> dict[str, Any]:
    """Play traces in one lane, and return the report that is in the file."""
    file = tmp_path / "report.json"
    report: dict[str, Any] = {"format": FORMAT, "traces": {}, "failed": {}}
    write_report(report, file)
    line: asyncio.Queue[Any] = asyncio.Queue()
    for trace in node_traces():
        if trace.name in names:
            line.put_nowait((trace, 1))
    options = argparse.Namespace(json=file, raw=tmp_path / "raw")
    await lanes._lane(0, line, player, report, options)
    return read_report(file)


@pytest.mark.parametrize(
    "error",
    [
        TraceError("its queue is gone"),
        ExceptionGroup("tasks", [ConnectionResetError("reset")]),
        TimeoutError(),
    ],
)
async def test_a_trace_that_fails_is_played_again_after_the_others(tmp_path, error):
    """Its second try counts, and nothing says that it failed."""
    player = Player({"ramp": [error]})
    report = await play(tmp_path, ["ramp", "steady"], player)
    assert player.played == ["ramp", "steady", "ramp"]
    assert set(report["traces"]) == {"ramp", "steady"}
    assert report["failed"] == {}


async def test_a_trace_that_fails_twice_is_left_out(tmp_path):
    """The report says why, and `--resume` would play it again."""
    player = Player({"ramp": [TraceError("not ready"), TraceError("not ready")]})
    report = await play(tmp_path, ["ramp", "steady"], player)
    assert set(report["traces"]) == {"steady"}
    assert report["failed"] == {"ramp": "TraceError: not ready"}
    assert _left(["ramp", "steady"], report) == ["ramp"]
    assert [each.name for each in (tmp_path / "raw").iterdir()] == ["steady.json"]


def test_traces_are_chosen_by_name_or_pattern():
    """In the order in which they are played; a pattern that matches none is refused."""
    assert _chosen(None) == [trace.name for trace in node_traces()]
    assert _chosen(["steady", "slow*"]) == ["slow pods, 30 s", "slow pods, 90 s", "steady"]
    with pytest.raises(ValueError, match="no trace is called 'stedy'; there are: 60 s jobs"):
        _chosen(["stedy"])

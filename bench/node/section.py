"""The figures as a section in Markdown, the node beside the simulator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.marked import MarkedPart

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench.node.prediction import Prediction
    from bench.node.report import Report
    from bench.scaling.jobs import JobTrace

PART = MarkedPart("bench/node/run.py")
LATE_SHARE = 0.001
IDLE_SHARE = 0.23
QUIET_PERCENT = 10.0


def section(
    report: Report,
    traces: tuple[JobTrace, ...],
    predict: Callable[[JobTrace], Prediction | None],
) -> str:
    """Return the section."""
    played = [trace for trace in traces if trace.name in report["traces"]]
    rows = []
    for trace in played:
        entry = report["traces"][trace.name]
        rows.append(_Row(trace, entry, predict(trace.until(entry["seconds"]))))
    return "\n".join(_lines(report, rows)) + "\n"


class _Row:
    """A trace: what was measured of it, and what was predicted."""

    def __init__(
        self, trace: JobTrace, entry: dict[str, Any], prediction: Prediction | None
    ) -> None:
        self.trace = trace
        self.figures: dict[str, Any] = entry["figures"]
        self.is_whole = entry["seconds"] == trace.seconds
        self.prediction = prediction

    @property
    def must_be_in_time(self) -> bool:
        """Whether the target holds for it: its pods are ready after at most half the target age."""
        return self.trace.lead.longest_seconds <= self.trace.target_age_seconds / 2

    @property
    def others_percent(self) -> float:
        """What other programs used of the processors meanwhile."""
        return float(self.figures["load"]["others_percent"])


def _lines(report: Report, rows: list[_Row]) -> Iterator[str]:
    machine = report["machine"]
    yield (
        f"Measured at {report['revision']} on {machine['cores']} processors with Kubernetes "
        f"{report['kubernetes']}, {report['lanes']} traces at a time."
    )
    yield from _conditions(report, rows)
    yield ""
    yield from _verdicts(rows)
    yield ""
    has_predictions = any(row.prediction for row in rows)
    yield from _load_table(rows)
    yield ""
    yield from _result_table(rows, has_predictions=has_predictions)
    if retried := [row for row in rows if row.figures["retries"]]:
        yield ""
        for row in retried:
            figures = row.figures
            yield (
                f"Of {figures['retries']:,} retries in `{row.trace.name}`, "
                f"{_percent(figures['late_retry_share'])} started later than the target age after "
                f"they fell due; the longest wait was "
                f"{figures['longest_retry_wait_seconds']:.0f} s."
            )


def _conditions(report: Report, rows: list[_Row]) -> Iterator[str]:
    noisy = [row for row in rows if row.others_percent > QUIET_PERCENT]
    if noisy:
        names = ", ".join(f"{row.trace.name} {row.others_percent:.0f}%" for row in noisy)
        yield f"Other programs used the processors meanwhile: {names}."
    elif rows:
        most = max(row.others_percent for row in rows)
        yield f"Other programs used at most {most:.0f}% of the processors meanwhile."
    if short := [row.trace.name for row in rows if not row.is_whole]:
        yield f"Only the beginning was played of: {', '.join(short)}."
    for name, message in report["failed"].items():
        yield f"`{name}` could not be played: {message}."


def _verdicts(rows: list[_Row]) -> Iterator[str]:
    timely = [row for row in rows if row.must_be_in_time]
    kept = [row for row in timely if row.figures["late_share"] <= LATE_SHARE]
    steady = [row for row in rows if row.trace.is_steady]
    cheap = [row for row in steady if row.figures["idle_share"] <= IDLE_SHARE]
    stops = sum(row.figures["stops"] for row in rows)
    wrong = sum(row.figures["wrong_stops"] for row in rows)
    lost = sum(row.figures["lost"] for row in rows)
    yield (
        f"- At most 0.1% late: {len(kept)} of the {len(timely)} traces whose pods are ready within "
        f"half of the target age{_except(timely, kept)}."
    )
    yield (
        f"- Ready pods idle for at most 23% of the time: {len(cheap)} of the {len(steady)} steady "
        f"traces{_except(steady, cheap)}."
    )
    yield (
        f"- Of {stops} pods that were stopped, {wrong} had been busy while an idle one was left."
    )
    yield f"- {lost} jobs were lost."


def _except(rows: list[_Row], good: list[_Row]) -> str:
    missed = ", ".join(row.trace.name for row in rows if row not in good)
    return f" (not: {missed})" if missed else ""


def _load_table(rows: list[_Row]) -> Iterator[str]:
    yield "| trace | what arrives | jobs | target age | slots a replica | 90% of pods ready in |"
    yield "|---|---|---:|---:|---:|---:|"
    for row in rows:
        trace, lead = row.trace, row.figures["lead_p90_seconds"]
        yield (
            f"| {trace.name}{' (steady)' if trace.is_steady else ''} | {trace.about} |"
            f" {row.figures['jobs']:,} | {trace.target_age_seconds} s | {trace.concurrency} |"
            f" {'none started' if lead is None else f'{lead:.0f} s'} |"
        )


def _result_table(rows: list[_Row], *, has_predictions: bool) -> Iterator[str]:
    columns = ["late", "p99 wait", "most replicas", "idle"]
    heads = [
        part
        for name in columns
        for part in ((name, f"{name}, simulated") if has_predictions else (name,))
    ]
    heads += ["slots used", "changes", "busy pods stopped, an idle one left", "interrupted"]
    yield f"| trace | {' | '.join(heads)} |"
    yield f"|---|{'---:|' * len(heads)}"
    for row in rows:
        figures, said = row.figures, row.prediction
        measured = [
            _percent(figures["late_share"]),
            f"{figures['p99_wait_seconds']:.0f} s",
            str(figures["most_replicas"]),
            f"{figures['idle_share']:.0%}",
        ]
        predicted = (
            ["", "", "", ""]
            if said is None
            else [
                _percent(said.late_share),
                f"{said.p99_wait_seconds:.0f} s",
                str(said.most_replicas),
                f"{said.idle_share:.0%}",
            ]
        )
        cells = [
            cell
            for pair in zip(measured, predicted, strict=True)
            for cell in (pair if has_predictions else pair[:1])
        ]
        cells += [
            f"{figures['busy_slot_share']:.0%}",
            str(figures["scale_events"]),
            str(figures["wrong_stops"]),
            str(figures["interrupted"]),
        ]
        yield f"| {row.trace.name} | {' | '.join(cells)} |"


def _percent(share: float) -> str:
    return f"{share:.2%}"

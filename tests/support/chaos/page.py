"""The part of docs/reliability.md that programs write, from docs/reliability.json.

`python -m support.chaos.page` writes it anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from support.chaos.processes import TESTS

DOCS = TESTS.parent / "docs"
RESULTS = DOCS / "reliability.json"
PAGE = DOCS / "reliability.md"
END = "<!-- end -->"

Results = dict[str, Any]

GROUPS = {
    "test_servers": "The server",
    "test_networks": "The network",
    "test_failovers": "Another server, or older data",
    "test_workers": "Workers",
    "test_upkeep": "Upkeep",
}
_FACTS = {
    "confirmed": "confirmed",
    "uncertain": "uncertain",
    "refused": "refused",
    "rolled_back": "rolled back",
    "lost_attempts": "leases lost",
    "repeats": "ran twice",
    "died": "processes lost",
    "forgiven": "taken back",
}


def read_results(path: Path = RESULTS) -> Results:
    """Return what was recorded, by part."""
    results: Results = json.loads(path.read_text()) if path.exists() else {}
    return results


def record(part: str, found: object) -> None:
    """Keep what a program has found, and write the page anew."""
    results = read_results()
    results[part] = found
    RESULTS.write_text(json.dumps(results, indent=2, sort_keys=True) + "\n")
    write_page()


def write_page() -> None:
    """Put every part that was recorded between its markers."""
    results = read_results()
    text = PAGE.read_text()
    for part in PARTS:
        if part in results:
            text = replaced(text, part, render(results, part))
    PAGE.write_text(text)


def begin(part: str) -> str:
    """Return the marker before a part."""
    return f"<!-- begin: {part}, written by a program -->"


def written(text: str, part: str) -> str:
    """Return what stands between the markers of a part."""
    return text.partition(begin(part))[2].partition(END)[0].strip()


def replaced(text: str, part: str, new: str) -> str:
    """Return the page with another text between the markers of a part."""
    before, found, rest = text.partition(begin(part))
    if not found:
        message = f"{PAGE} lacks the line {begin(part)}"
        raise ValueError(message)
    return f"{before}{begin(part)}\n\n{new}\n\n{END}{rest.partition(END)[2]}"


def render(results: Results, part: str) -> str:
    """Return a part as text."""
    return PARTS[part](results[part]).strip()


def _storms(found: Mapping[str, Any]) -> str:
    confirmed = sum(storm["facts"]["confirmed"] for storm in found["storms"])
    wrong = sum(sum(storm["wrong"].values()) for storm in found["storms"])
    count = len(found["storms"])
    lines = [
        f"{count} storms of {found['date']}: {confirmed:,} confirmed jobs, {wrong} wrong.",
        "",
        f"| storm | {' | '.join(_FACTS.values())} | wrong |",
        f"|---|{'--:|' * (len(_FACTS) + 1)}",
    ]
    for module, title in GROUPS.items():
        storms = [storm for storm in found["storms"] if storm["module"] == module]
        lines += [f"| **{title}** |{' |' * (len(_FACTS) + 1)}"] if storms else []
        for storm in storms:
            facts = [f"{storm['facts'][name]:,}" for name in _FACTS]
            wrong = sum(storm["wrong"].values())
            lines.append(f"| {storm['title']} | {' | '.join(facts)} | {wrong} |")
    return "\n".join(lines)


def _soak(found: Mapping[str, Any]) -> str:
    samples = found["samples"]
    middle, end = samples[len(samples) // 2], samples[-1]
    counts, wrong = found["counts"], json.dumps(found["wrong"]) if found["wrong"] else "nothing"
    told = (
        f"{found['minutes']:g} minutes on {found['date']}, {found['per_second']:g} jobs a second: "
        f"{counts['jobs']:,} jobs in {counts['attempts']:,} attempts. {found['dropped_days']} days "
        f"of history expired and were dropped. Wrong: {wrong}."
    )
    lines = [
        told,
        "",
        "| | half-way | at the end |",
        "|---|--:|--:|",
    ]
    for name, title in SERIES.items():
        lines.append(f"| {title} | {_shown(name, middle)} | {_shown(name, end)} |")
    return "\n".join([*lines, "", f"![{PLOT_TEXT}](reliability-soak.svg)"])


SERIES = {
    "worker_bytes": "memory of a worker",
    "queue_table_bytes": "table of the queue",
    "queue_index_bytes": "indexes of the queue",
    "claim_ms": "a claim takes",
    "waiting": "messages in the queue",
}
PLOT_TEXT = "Lines: memory, table, indexes and the time of a claim over the run"


def _shown(name: str, sample: Mapping[str, float]) -> str:
    value = sample[name]
    if name.endswith("_bytes"):
        return f"{value / (1 << 20):.1f} MiB"
    return f"{value:.1f} ms" if name.endswith("_ms") else f"{value:,.0f}"


FAULTS = {
    "crash": "the server crashes three times",
    "kill": "five workers are killed",
    "freeze": "three workers stand still for 6 s",
}
_RUN = {
    "confirmed": "confirmed",
    "refused": "refused",
    "unfinished": "not ended",
    "ran_twice": "ran twice",
    "restarts": "workers that ended",
}


def _peers(found: Mapping[str, Any]) -> str:
    lines = [f"Run on {found['date']}."]
    for fault, title in FAULTS.items():
        lines += ["", f"| {title} | {' | '.join(_RUN.values())} |", f"|---|{'--:|' * len(_RUN)}"]
        for run in found["runs"]:
            if run["fault"] == fault:
                lines.append(f"| {run['subject']} | {' | '.join(str(run[n]) for n in _RUN)} |")
    return "\n".join(lines)


PARTS: dict[str, Callable[[Any], str]] = {"storms": _storms, "soak": _soak, "peers": _peers}
"""What renders each part of the results."""


if __name__ == "__main__":
    write_page()

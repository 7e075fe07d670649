"""`meshhook doctor`: what is wrong with the database and its queues, and the way out."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated

import typer

from meshhook.cli.connecting import Target, target
from meshhook.cli.failures import FindingsError
from meshhook.cli.options import JsonOption, command_app, example
from meshhook.cli.output import counted, print_json, say
from meshhook.doctor import Finding, Severity, examine
from meshhook.names import validate_queue_name

app = command_app()

_MARKS = {Severity.CRITICAL: "CRITICAL", Severity.WARNING: "WARNING"}


@app.command(
    "doctor",
    epilog=example("meshhook doctor", "meshhook doctor orders mails --strict --json"),
)
def doctor(
    context: typer.Context,
    queues: Annotated[
        list[str] | None, typer.Argument(metavar="[QUEUE]...", help="The queues. Default: all.")
    ] = None,
    *,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 on warnings, too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Look for what is wrong with the database and its queues, and say the way out.

    It changes nothing. It exits with 1 if anything critical was found, else with 0. A check that
    this role may not do is a warning of its own.
    """
    names = [validate_queue_name(each) for each in queues or ()]

    async def run(found: Target) -> list[Finding]:
        async with found.open(needs_schema=False) as database:
            return await examine(
                database,
                names or None,
                pooled=found.pooled,
                listen_url=found.listen_url or (None if found.pooled else found.url),
            )

    with target(context) as found:
        findings = asyncio.run(run(found))
    if as_json:
        print_json(findings)
    else:
        _print(findings)
    critical = sum(each.severity is Severity.CRITICAL for each in findings)
    warnings = sum(each.severity is Severity.WARNING for each in findings) if strict else 0
    if critical or warnings:
        raise FindingsError(critical, warnings)


def _print(findings: Sequence[Finding]) -> None:
    for each in findings:
        if each.severity is Severity.OK:
            continue
        subject = f"{each.subject}: " if each.subject else ""
        say(f"{_MARKS[each.severity]} {each.check}: {subject}{each.message}")
        say(f"    -> {each.remedy}")
    fine = [each for each in findings if each.severity is Severity.OK]
    for each in fine:
        say(f"ok {each.check}: {each.message}")
    counts = [
        counted(sum(each.severity is severity for each in findings), f"{severity} finding")
        for severity in _MARKS
    ]
    say(f"{', '.join(counts)}, {counted(len(fine), 'check')} without one")

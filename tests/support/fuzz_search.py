"""The search of `make fuzz`: atheris follows the branches that bytes take through a target.

What it has tried stays in `.fuzz/TARGET`, and the bytes that break a promise in `.fuzz`. Behind the
target stands what libFuzzer takes: `-max_total_time=600`, or a file, to try that alone.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path


def main(arguments: list[str]) -> None:
    """Search in one target until a promise is broken, or time is up."""
    atheris = import_module("atheris")  # not there for every Python
    with atheris.instrument_imports(include=["meshhook"]):
        targets = import_module("support.fuzz_targets")
    target, *options = arguments
    corpus = Path(".fuzz") / target
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(targets.SEEDS[target]):
        (corpus / f"seed-{number}").write_bytes(seed)
    atheris.Setup(
        [target, f"-artifact_prefix={corpus.parent}/{target}-", *options, str(corpus)],
        targets.TARGETS[target],
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])

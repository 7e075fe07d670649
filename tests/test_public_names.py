"""What `import meshhook` gives."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import meshhook


@pytest.mark.parametrize("name", meshhook.__all__)
def test_each_public_name_is_there(name: str) -> None:
    """A name of `__all__` is imported from its home when it is asked for."""
    home = importlib.import_module(meshhook._HOMES[name])
    assert getattr(meshhook, name) is getattr(home, name)
    assert name in dir(meshhook)


def test_the_homes_are_those_of_the_public_names() -> None:
    """Neither list has a name that the other lacks."""
    assert sorted(meshhook._HOMES) == sorted(meshhook.__all__)


def test_another_name_is_an_error() -> None:
    """As of any module, with the name that was asked for."""
    with pytest.raises(AttributeError, match="'meshhook' has no attribute 'Wroker'"):
        _ = meshhook.Wroker


def test_importing_the_package_imports_none_of_its_modules() -> None:
    """`meshhook --help` does not wait for pydantic, asyncpg and the rest."""
    code = "import sys, meshhook; print(sorted(set(sys.modules) & {'asyncpg', 'pydantic'}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


HEAVY = (
    "rich",
    "typer",
    "structlog",  # with its development console, it took half of the time
    "stamina",  # logs each retry through structlog, which prints it where nobody has set it up
    "kopf",
    "lightkube",
    "yaml",
    "psutil",
    "pydantic_settings",
    "opentelemetry.sdk",
    "uvloop",
    "meshhook.cli",
    "meshhook.embedded",
    "meshhook.exporter",
    "meshhook.observability.logs",
    "meshhook.observability.monitoring_server",
    "meshhook.observability.trace_export",
)


def test_an_application_imports_only_what_it_needs() -> None:
    """To enqueue and to work takes neither the command line nor what makes its output pretty."""
    code = f"""
import sys
from meshhook import App, Database, DLQService, Job, QueueService, Worker, WorkflowJob
print(sorted(set(sys.modules) & set({HEAVY!r})))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_reference_names_what_can_be_imported() -> None:
    """Each class and function that docs/api.md shows by its bare name comes from `meshhook`."""
    text = (Path(__file__).parents[1] / "docs" / "api.md").read_text()
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    spans = re.findall(r"`([^`]+)`", prose)
    classes = {
        found[1]
        for span in spans
        if (found := re.match(r"([A-Z][a-z]+(?:[A-Z]\w*)?|[A-Z]+[a-z]\w*)(?![\w/])", span))
    }
    functions = {found[1] for span in spans if (found := re.match(r"([a-z]+_[a-z_]+)\(", span))}
    imported = {
        name.strip()
        for line in re.findall(r"^from meshhook import (.*)$", text, flags=re.MULTILINE)
        for name in line.split(",")
    }
    shown = (classes | functions | imported) - NOT_OURS
    assert {"UncertainCommitError", "Check", "JobFilter", "list_workers"} <= shown
    assert sorted(shown - set(meshhook.__all__)) == []


NOT_OURS = {"None", "True", "False", "NaN", "TypeAdapter", "Json", "SecretStr"}

"""What `meshhook.http` gives."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import meshhook.http

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "webhooks.md"
NAMES = sorted({*meshhook.http.__all__} - {"deliver"})


@pytest.mark.parametrize("name", NAMES)
def test_each_public_name_is_there_and_in_the_reference(name: str) -> None:
    """It is imported from its home when it is asked for."""
    home = importlib.import_module(meshhook.http._HOMES[name])
    assert getattr(meshhook.http, name) is getattr(home, name)
    assert f"::: meshhook.http.{name}\n" in REFERENCE.read_text()


def test_the_homes_are_those_of_the_public_names() -> None:
    """Neither list has a name that the other lacks."""
    assert sorted(meshhook.http._HOMES) == sorted(meshhook.http.__all__)
    assert {*meshhook.http.__all__} <= {*dir(meshhook.http)}


def test_another_name_is_an_error() -> None:
    """As of any module, with the name that was asked for."""
    with pytest.raises(AttributeError, match=r"'meshhook\.http' has no attribute 'Webhook'"):
        _ = meshhook.http.Webhook


def test_importing_it_imports_nothing_of_the_extra() -> None:
    """So a program finds out what is missing by a clear error, and starts quickly."""
    code = "import sys, meshhook.http; print(sorted(set(sys.modules) & {'aiohttp', 'pydantic'}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

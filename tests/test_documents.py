"""What the documents show is what there is."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from meshhook.cli.app import all_commands

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
TUTORIAL = ROOT / "docs" / "tutorial.md"  # test_tutorial.py runs it as a whole
QUICKSTART = ROOT / "examples" / "quickstart.py"


def code_of(path: Path) -> str:
    """Return an example without its docstring."""
    return path.read_text().split('"""\n', 2)[-1].strip()


def name_of(document: Path) -> str:
    """Return the path of a document in the repository, without its suffix."""
    return document.relative_to(ROOT).with_suffix("").as_posix()


def blocks(language: str) -> list[Any]:
    """Return the code blocks of a language in all documents but the tutorial, as parameters."""
    pattern = re.compile(rf"```{language}\n(.*?)```", re.DOTALL)
    return [
        pytest.param(block, id=f"{name_of(document)}-{number}")
        for document in DOCUMENTS
        if document != TUTORIAL
        for number, block in enumerate(pattern.findall(document.read_text()))
    ]


def commands() -> list[str]:
    """Return every call of the command line in the documents."""
    found = []
    for document in DOCUMENTS:
        text = document.read_text()
        lines = [
            line
            for block in re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
            for line in block.split("\n")
        ]
        found += [line for line in lines if line.startswith("meshhook ")]
        found += re.findall(r"`(meshhook [a-z][^`]*)`", text)
    return sorted({" ".join(command.split()) for command in found})


@pytest.mark.parametrize(
    ("example", "language", "most_lines"), [("orders", "python", 15), ("place_order", "py", 5)]
)
def test_the_readme_shows_the_first_programs_as_they_are(
    example: str, language: str, most_lines: int
) -> None:
    """They are texts of examples/, and short."""
    code = code_of(ROOT / "examples" / f"{example}.py")
    assert f"```{language}\n{code}\n```" in (ROOT / "README.md").read_text()
    assert len(code.split("\n")) <= most_lines


async def test_the_quickstart_runs(database_url: str) -> None:
    """The longer example greets everybody and ends."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(QUICKSTART),
        env=os.environ | {"MESHHOOK_DATABASE_URL": database_url},
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0
    lines = sorted(output.decode().split("\n"))
    assert lines == [
        "",
        "hello Ada, attempt 1 of 5",
        "hello Barbara, attempt 1 of 5",
        "hello Grace, attempt 1 of 5",
    ]


@pytest.mark.parametrize("block", blocks("python"))
def test_python_in_the_documents_runs(block: str) -> None:
    """Each Python block is valid and its imports and definitions work."""
    exec(compile(block, "document", "exec"), {"__name__": "document"})  # noqa: S102


@pytest.mark.parametrize("command", commands())
def test_commands_in_the_documents_exist(command: str) -> None:
    """Each call of the command line names a command, and options that it has."""
    words = shlex.split(command.rstrip("&"))[1:]
    words = [word for word in words if word != "--embedded"]
    here = all_commands()
    while words and words[0] in getattr(here, "commands", {}):
        here = here.commands[words.pop(0)]
    options = {option for parameter in here.params for option in parameter.opts}
    is_group_with_words = hasattr(here, "commands") and words and not words[0].startswith("--")
    assert not is_group_with_words, f"no such command: {words[0]}"
    assert {word for word in words if word.startswith("--")} <= options


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    """Each relative link names a file of the repository."""
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text()):
        assert (document.parent / target).exists(), target

"""Building the Kubernetes programs, and the messages when that fails."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from support.cluster import programs
from support.skipping import skip
from support.workers import TESTS

needs_go = pytest.mark.usefixtures("go")

SOURCE = 'package main\n\nimport "fmt"\n\nfunc main() { fmt.Println("hello") }\n'


@pytest.fixture
def greeter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module with a program `greeter`, and a cache of its own; returns the module's folder."""
    folder = tmp_path / "modules" / "greeter"
    folder.mkdir(parents=True)
    (folder / "go.mod").write_text("module greeter\n\ngo 1.21\n\nrequire example.com/v v1.2.3\n")
    (folder / "main.go").write_text(SOURCE)
    module = programs._Module(packages={"greeter": "main.go"}, version_of="example.com/v")
    monkeypatch.setattr(programs, "TOOLS", folder.parent)
    monkeypatch.setitem(programs._MODULES, "greeter", module)
    monkeypatch.setitem(programs._MODULE_OF, "greeter", "greeter")
    monkeypatch.setenv("MESHHOOK_TOOLS", str(tmp_path / "cache"))
    programs._key.cache_clear()
    yield folder
    programs._key.cache_clear()


@pytest.fixture
def go() -> None:
    """Go, to build with; the test is skipped without it."""
    if shutil.which("go") is None:
        skip("there is no Go to build with")


@needs_go
def test_a_program_is_built_once(greeter: Path):
    """The second time nothing is built, and the path is the same."""
    said: list[str] = []
    (path,) = programs.build(["greeter"], say=said.append).values()
    assert path.stat().st_mode & 0o111
    assert [text.split(" into ")[0] for text in said] == ["building greeter v1.2.3"]
    assert programs.build(["greeter"], say=said.append) == {"greeter": path}
    assert len(said) == 1


@needs_go
def test_other_sources_are_another_program(greeter: Path):
    """A change of the module leads to another folder; the old program stays for other checkouts."""
    before = programs.program_path("greeter")
    (greeter / "go.sum").write_text("")
    programs._key.cache_clear()
    assert programs.program_path("greeter") != before


@needs_go
def test_a_build_that_fails_says_why(greeter: Path):
    """The message quotes the compiler, and nothing incomplete is left behind."""
    (greeter / "main.go").write_text("package main\n\nfunc main() { nonsense() }\n")
    programs._key.cache_clear()
    with pytest.raises(programs.ProgramsMissingError, match="undefined: nonsense"):
        programs.build(["greeter"], say=lambda _: None)
    assert programs.missing(["greeter"]) == ["greeter"]


@needs_go
def test_too_little_room_is_said_before(greeter: Path, monkeypatch: pytest.MonkeyPatch):
    """Without disk space for the build, nothing starts, and the message has both figures."""
    usage = SimpleNamespace(free=500_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(programs.ProgramsMissingError, match=r"up to 2 GB .* 0\.5 GB are free"):
        programs.build(["greeter"], say=lambda _: None)


def test_a_missing_go_is_said(greeter: Path, monkeypatch: pytest.MonkeyPatch):
    """Without Go the message says what to install."""
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(programs.ProgramsMissingError, match="Install Go"):
        programs.build(["greeter"], say=lambda _: None)


def test_without_names_all_programs_are_built(monkeypatch: pytest.MonkeyPatch, capsys):
    """`make tools` names none."""
    monkeypatch.setattr(programs, "build", lambda names, say: {names[0]: f"/bin/{names[0]}"})
    programs.main([])
    assert capsys.readouterr().out.split() == [f"/bin/{name}" for name in programs.PROGRAMS]


def test_a_name_that_is_no_program_is_refused(capsys):
    """With those that there are."""
    with pytest.raises(SystemExit, match="2"):
        programs.main(["etcd", "docker"])
    assert "no such program: docker; there are: etcd, " in capsys.readouterr().err


def test_no_registry_is_named():
    """No file of the modules holds the address of a proxy."""
    for file in Path(programs.__file__).parent.glob("tools/*/*"):
        text = file.read_text()
        assert "://" not in text
        assert "proxy." not in text


@pytest.mark.parametrize(
    ("ci", "status", "outcome"), [("", 0, "1 skipped"), ("true", 1, "1 error")]
)
async def test_where_tests_cannot_run(tmp_path: Path, ci: str, status: int, outcome: str):
    """Where there is no Go, tests are skipped with the reason; in CI they fail."""
    test = f"{TESTS}/cluster/test_control_plane.py::test_pods_become_ready"
    # Not what the tests' own process was given.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    pytest_process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", "-q", test),
        cwd=TESTS.parent,
        env=environment | {"PATH": str(tmp_path), "CI": ci},
        stdout=asyncio.subprocess.PIPE,
    )
    output = (await pytest_process.communicate())[0].decode()
    assert pytest_process.returncode == status, output
    assert outcome in output
    assert "There is no `go` on the PATH" in output

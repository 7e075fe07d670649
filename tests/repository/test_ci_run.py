"""`.ci/run`: what it starts, in which order, and what fails it. Its `make` is a stand-in here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from support.waiting import eventually

ROOT = Path(__file__).parents[2]
QUICK = "test-fast"
LONG = "test ARGS=-n2 -m 'not chaos and (slow or not (unit or process or database))'"
MAKE = """
import os, sys
from pathlib import Path

folder = Path(os.environ["FOLDER"])
words = " ".join(sys.argv[1:])


def note(line):
    with (folder / "made").open("a") as made:
        made.write(line + "\\n")


if words == "tools":
    (folder / "tools.pid").write_text(str(os.getpid()))
    os.open(folder / "go on", os.O_RDONLY)  # until somebody opens the other end
    print("building kubelet: no space left")
    note("tools ended")
    sys.exit(int(os.environ["TOOLS_CODE"]))
note(words)
if words == os.environ["OPENS"]:
    os.open(folder / "go on", os.O_WRONLY)
sys.exit(words == os.environ["FAILS"])
"""


def ci_run(
    folder: Path, *, tools_code: int = 0, opens: str = QUICK, fails: str = ""
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run `.ci/run`, and return what became of it and what was made, in order.

    Args:
        folder: where its programs are.
        tools_code: how the build of the programs of Kubernetes ends.
        opens: the words of the `make` during which that build ends.
        fails: the words of the `make` that fails.
    """
    programs = folder / "programs"
    programs.mkdir()
    for name, text in (("make", MAKE), ("go", "")):
        program = programs / name
        program.write_text(f"#!{sys.executable}\n{text}")
        program.chmod(0o755)
    (programs / "python3").symlink_to(sys.executable)
    os.mkfifo(folder / "go on")
    done = subprocess.run(
        [ROOT / ".ci" / "run"],
        env={
            "PATH": f"{programs}:/usr/bin:/bin",
            "PYENV_ROOT": str(folder),
            "TMPDIR": str(folder),
            "FOLDER": str(folder),
            "OPENS": opens,
            "FAILS": fails,
            "TOOLS_CODE": str(tools_code),
        },
        check=False,
        capture_output=True,
        text=True,
        timeout=100,
    )
    made = (folder / "made").read_text().splitlines()
    return done, [words for words in made if not words.startswith("test-fast PYTHON")]


def test_kubernetes_is_built_beside_the_tests_that_need_none(tmp_path: Path) -> None:
    """The tests that need it begin when it is there; what the build says is shown."""
    done, made = ci_run(tmp_path)
    assert done.returncode == 0, done.stderr
    assert made == ["packages", "lint", QUICK, "tools ended", LONG]
    assert "building kubelet" in done.stdout


def test_a_build_that_fails_fails_the_run_with_its_log(tmp_path: Path) -> None:
    """The tests that need it do not begin."""
    done, made = ci_run(tmp_path, tools_code=2)
    assert done.returncode == 2
    assert "building kubelet: no space left" in done.stdout
    assert "could not be built" in done.stderr
    assert made == ["packages", "lint", QUICK, "tools ended"]


@pytest.mark.parametrize("fails", [QUICK, LONG])
def test_a_test_that_fails_fails_the_run_after_all_tests(tmp_path: Path, fails: str) -> None:
    """Whichever part it is in, one run shows everything that fails."""
    done, made = ci_run(tmp_path, fails=fails)
    assert done.returncode == 1
    assert made == ["packages", "lint", QUICK, "tools ended", LONG]


async def test_a_run_that_ends_early_stops_the_build(tmp_path: Path) -> None:
    """After a lint that fails, nothing goes on in the background."""
    done, made = ci_run(tmp_path, opens="none", fails="lint")
    assert done.returncode == 1
    assert made == ["packages", "lint"]
    await eventually(lambda: not builds_in(tmp_path))


def builds_in(folder: Path) -> list[psutil.Process]:
    """Return the builds of a folder that still run."""
    program = str(folder / "programs" / "make")
    return [
        process
        for process in psutil.process_iter(["cmdline", "status"])
        if program in (process.info["cmdline"] or ())
        and process.info["status"] != psutil.STATUS_ZOMBIE
    ]

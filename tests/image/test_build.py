"""What the build of the images refuses, and that it pins the base; no tool of containers runs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from support.image import ROOT

DIGEST = f"sha256:{'5' * 64}"
# Answers as docker does, and writes down what it is asked for.
TOOL = f"""#!/bin/sh
echo "$@" >>"$ASKED"
case "$1 $NOT_THERE" in
  image*) echo "docker.io/library/python@{DIGEST}" ;;
  pull*pull* | inspect*inspect*) exit 1 ;;
esac
"""


@pytest.fixture
def build(tmp_path: Path) -> Any:
    """Run the build with a docker that only notes what it is asked for; return that, and errors."""
    (tmp_path / "docker").write_text(TOOL)
    (tmp_path / "docker").chmod(0o755)
    asked = tmp_path / "asked"
    environment = os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "CONTAINER_TOOL": "docker",
        "ASKED": str(asked),
    }

    def run(*arguments: str, failing: str = "") -> tuple[str, str]:
        done = subprocess.run(
            [ROOT / "deploy/image/build", *arguments],
            check=False,
            capture_output=True,
            text=True,
            env=environment | {"NOT_THERE": failing},
        )
        return asked.read_text() if asked.exists() else "", done.stderr

    return run


def test_a_base_is_pinned_by_its_digest(build):
    """The tag is pulled, and the build gets the digest that it has, also for the label."""
    asked, _ = build()
    assert "pull --quiet python:3.12-slim\n" in asked
    assert f"--build-arg BASE=python@{DIGEST} --build-arg BASE_DIGEST={DIGEST}" in asked
    assert "--target runtime " in asked
    assert "--tag localhost/meshhook-queue:" in asked


def test_a_base_with_a_digest_is_taken_as_it_is(build):
    """Nothing is pulled apart from what the build pulls."""
    asked, _ = build("--target", "evaluation", "--base", f"registry.example/python@{DIGEST}")
    assert "pull" not in asked
    assert f"BASE=registry.example/python@{DIGEST} --build-arg BASE_DIGEST={DIGEST}" in asked
    assert "--tag localhost/meshhook-queue-evaluation:" in asked


def test_a_registry_with_a_port_is_no_tag(build):
    """The digest goes to the name, not into it."""
    asked, _ = build("--base", "registry.example:5000/python")
    assert f"BASE=registry.example:5000/python@{DIGEST} " in asked


def test_a_base_that_is_only_here_is_taken_and_said(build):
    """An image of one's own, which no registry has, has no digest to be found by."""
    asked, said = build("--base", "localhost/mine:1", failing="pull")
    assert "--build-arg BASE=localhost/mine:1 --build-arg BASE_DIGEST= " in asked
    assert "it was not pulled" in said


def test_a_base_that_is_nowhere(build):
    """The message names it and the way out."""
    asked, said = build("--base", "localhost/mine:1", failing="pull inspect")
    assert "localhost/mine:1 can neither be pulled nor is it here; see --debian" in said
    assert "build " not in asked


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--release"], "--release needs a base with its digest"),
        (["--release", "--base", "python:3"], "got python:3"),
        (["--release", "--debian"], "--release needs a base that others can get"),
        (["--target", "all"], "--target is runtime or evaluation, got all"),
    ],
)
def test_what_is_refused(build, arguments, message):
    """The message names the option and the way out, and nothing is built."""
    asked, said = build(*arguments)
    assert message in said
    assert asked == ""

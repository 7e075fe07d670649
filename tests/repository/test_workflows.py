"""The workflows of GitHub Actions: what can be said of them without running them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.skipping import skip

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
_PINNED = re.compile(r"[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")

with_each_workflow = pytest.mark.parametrize(
    "workflow", [pytest.param(path, id=path.stem) for path in WORKFLOWS]
)


def read(path: Path) -> dict[str, Any]:
    """Return a workflow as plain objects. YAML 1.1 takes the key `on` for true."""
    document: dict[Any, Any] = yaml.safe_load(path.read_text())
    document["on"] = document.pop(True)
    return document


def scripts(path: Path) -> list[str]:
    """Return the scripts of all steps of a workflow."""
    jobs = read(path)["jobs"].values()
    return [step["run"] for job in jobs for step in job.get("steps", ()) if "run" in step]


def test_there_are_workflows() -> None:
    """The tests below look at something."""
    assert [path.stem for path in WORKFLOWS] == ["ci", "docs", "release"]


def lint(actionlint: Path, workflow: Path, text: str) -> str:
    """Return what actionlint and shellcheck say of a workflow's text.

    actionlint knows the inputs of common actions by their major version, not by their commits.
    """
    shellcheck = shutil.which("shellcheck")
    if shellcheck is None:
        skip("there is no shellcheck (on Debian: make packages)")
    command = [str(actionlint), "-no-color", "-pyflakes=", f"-shellcheck={shellcheck}"]
    done = subprocess.run(
        [*command, "-stdin-filename", str(workflow.relative_to(ROOT)), "-"],
        cwd=ROOT,
        input=re.sub(r"@[0-9a-f]{40} # (v\d+)\.\S+", r"@\1", text),
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == (1 if done.stdout else 0), done.stderr
    return done.stdout


@with_each_workflow
def test_actionlint_and_shellcheck_find_nothing(workflow: Path, actionlint: Path) -> None:
    """Syntax, expressions, inputs of actions, and the scripts of all steps are sound."""
    assert not lint(actionlint, workflow, workflow.read_text())


@pytest.mark.parametrize(
    ("good", "bad", "said"),
    [
        ("run: make lint", "run: make $TARGET", "SC2086"),
        ("needs: build", "needs: bluid", "bluid"),
        ("persist-credentials:", "persists-credentials:", "persists-credentials"),
    ],
)
def test_actionlint_finds_what_is_wrong(good: str, bad: str, said: str, actionlint: Path) -> None:
    """A script, a name or an input that is wrong is found."""
    workflow = next(path for path in WORKFLOWS if good in path.read_text())
    assert said in lint(actionlint, workflow, workflow.read_text().replace(good, bad))


@with_each_workflow
def test_it_says_first_that_it_has_never_run(workflow: Path) -> None:
    """Nobody takes a workflow for tried; remove this test with the first green run."""
    assert workflow.read_text().startswith("# Never run:")


@with_each_workflow
def test_every_action_is_pinned_to_a_commit(workflow: Path) -> None:
    """A tag could be moved to other code. The version beside it is for people and dependabot."""
    used = re.findall(r"uses: (.+)", workflow.read_text())
    assert used
    for each in used:
        assert each == "./.github/workflows/ci.yml" or _PINNED.fullmatch(each), each


@with_each_workflow
def test_nothing_is_permitted_that_a_job_does_not_name(workflow: Path) -> None:
    """No permission holds for the whole workflow, and each job names its own."""
    document = read(workflow)
    assert document["permissions"] == {}
    for name, job in document["jobs"].items():
        assert "permissions" in job, name


@with_each_workflow
def test_no_checkout_leaves_its_token_behind(workflow: Path) -> None:
    """Programs that a job runs later find no credentials in .git/config."""
    for job in read(workflow)["jobs"].values():
        for step in job.get("steps", ()):
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False


@with_each_workflow
def test_no_script_has_an_expression_in_it(workflow: Path) -> None:
    """Names of branches and tags come in as variables, so they can't become part of a command."""
    assert not [script for script in scripts(workflow) if "${{" in script]


@with_each_workflow
def test_every_target_and_program_that_it_runs_exists(workflow: Path) -> None:
    """`make X` is in the Makefile, and files of the repository are where a script wants them."""
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = "\n".join(scripts(workflow))
    assert set(re.findall(r"^make ([a-z0-9-]+)", text, re.MULTILINE)) <= targets
    for path in re.findall(r"(?:\.ci|deploy|tests)/[\w./-]+", text):
        assert (ROOT / path).exists(), path


def test_the_tests_run_on_every_python_that_the_package_names() -> None:
    """The classifiers are among the Pythons of the matrix."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {
        match[1]
        for each in project["classifiers"]
        if (match := re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", each))
    }
    matrix = read(ROOT / ".github/workflows/ci.yml")["jobs"]["tests"]["strategy"]["matrix"]
    assert named <= set(matrix["python"])
    assert project["requires-python"] == f">={matrix['python'][0]}"


def test_a_release_names_the_images_that_it_has_built() -> None:
    """The place that the release fills in is in the values of the chart, once for each image."""
    values = (ROOT / "deploy/helm/meshhook/values.yaml").read_text()
    job = read(ROOT / ".github/workflows/release.yml")["jobs"]["image"]
    images = {each["image"] for each in job["strategy"]["matrix"]["include"]}
    assert set(re.findall(r"repository: localhost/(\S+)", values)) == images


def test_release_notes_are_the_part_of_the_changelog(tmp_path: Path) -> None:
    """They end where the next version begins."""
    checkout = make_checkout(tmp_path, version="1.2.3")
    assert notes(checkout, "1.2.3") == (0, "### Added\n\n- Something.\n", "")


def test_release_notes_are_refused_where_files_name_another_version(tmp_path: Path) -> None:
    """A tag that does not match names every file that differs."""
    checkout = make_checkout(tmp_path, version="1.2.3")
    code, printed, said = notes(checkout, "1.2.4")
    assert (code, printed) == (1, "")
    for part in ("pyproject.toml", "(version)", "(appVersion)", "no section [1.2.4]"):
        assert part in said


def make_checkout(folder: Path, *, version: str) -> Path:
    """Make the few files that the release notes are made from."""
    (folder / "deploy/helm/meshhook").mkdir(parents=True)
    shutil.copy(ROOT / "deploy/release_notes.py", folder / "deploy")
    (folder / "pyproject.toml").write_text(f'[project]\nname = "x"\nversion = "{version}"\n')
    (folder / "deploy/helm/meshhook/Chart.yaml").write_text(
        f'apiVersion: v2\nversion: {version}\nappVersion: "{version}"\n'
    )
    (folder / "CHANGELOG.md").write_text(
        "# Changelog\n\n## [Unreleased]\n\n- Later.\n\n"
        f"## [{version}] - 2026-12-01\n\n### Added\n\n- Something.\n\n## [1.0.0] - 2026-01-01\n"
    )
    return folder


def notes(checkout: Path, version: str) -> tuple[int, str, str]:
    """Return how the program ends, what it prints, and what it says of errors."""
    done = subprocess.run(
        [sys.executable, checkout / "deploy/release_notes.py", version],
        check=False,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout, done.stderr

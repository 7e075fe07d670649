"""What hosts and tools read beside the code: templates, dependabot, pre-commit."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from check_jsonschema import main as check_jsonschema  # type: ignore[import-untyped]
from click.testing import CliRunner, Result

ROOT = Path(__file__).parents[2]
GITHUB = ROOT / ".github"
_SCHEMAS = {
    "vendor.github-workflows": sorted((GITHUB / "workflows").glob("*.yml")),
    "vendor.github-issue-forms": [
        path
        for path in sorted((GITHUB / "ISSUE_TEMPLATE").glob("*.yml"))
        if path.name != "config.yml"
    ],
    "vendor.github-issue-config": [GITHUB / "ISSUE_TEMPLATE" / "config.yml"],
    "vendor.dependabot": [GITHUB / "dependabot.yml"],
    "custom.github-workflows-require-timeout": sorted((GITHUB / "workflows").glob("*.yml")),
}


def check(schema: str, *files: Path) -> Result:
    """Check files against a schema that comes with check-jsonschema."""
    return CliRunner().invoke(check_jsonschema, ["--builtin-schema", schema, *map(str, files)])


@pytest.mark.parametrize("schema", _SCHEMAS)
def test_files_follow_the_published_schema(schema: str) -> None:
    """Keys and values are those that GitHub knows."""
    files = _SCHEMAS[schema]
    assert files
    done = check(schema, *files)
    assert done.exit_code == 0, done.output


def test_a_form_that_is_wrong_is_found(tmp_path: Path) -> None:
    """The check can fail: a kind of field that GitHub does not know is refused."""
    form = tmp_path / "form.yml"
    form.write_text((GITHUB / "ISSUE_TEMPLATE/bug.yml").read_text().replace("textarea", "textbox"))
    done = check("vendor.github-issue-forms", form)
    assert done.exit_code == 1
    assert "textbox" in done.output


def test_every_file_that_github_looks_for_is_there() -> None:
    """Its page "Community standards" finds each of them."""
    for name in ("CODE_OF_CONDUCT.md", "CONTRIBUTING.md", "LICENSE", "README.md", "SECURITY.md"):
        assert (ROOT / name).read_text().strip()
    assert (GITHUB / "pull_request_template.md").read_text().strip()


def test_dependabot_looks_into_folders_that_exist() -> None:
    """A folder that was moved would be left out without a word."""
    for update in yaml.safe_load((GITHUB / "dependabot.yml").read_text())["updates"]:
        for folder in update.get("directories", [update.get("directory")]):
            assert list(ROOT.glob(f"{folder.strip('/')}/" if folder != "/" else "*")), folder


def test_pre_commit_takes_its_configuration() -> None:
    """pre-commit finds nothing wrong with it."""
    done = subprocess.run(
        [
            Path(sys.executable).with_name("pre-commit"),
            "validate-config",
            ROOT / ".pre-commit-config.yaml",
        ],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_pre_commit_runs_what_the_lint_runs() -> None:
    """Who has the hooks on is not surprised by the lint, and both use the locked tools."""
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert lint is not None
    commands = [line.strip().replace("$(BIN)", ".venv/bin") for line in lint[1].splitlines()]
    assert commands == [entry(hook) for hook in hooks()]


def hooks() -> list[dict[str, Any]]:
    """Return the hooks of pre-commit, in their order."""
    document = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    return [hook for repository in document["repos"] for hook in repository["hooks"]]


def entry(hook: dict[str, Any]) -> str:
    """Return the command of a hook, without the flag that is for lists of files."""
    return str(hook["entry"]).replace(" --force-exclude", "")

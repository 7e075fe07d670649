"""Build the site: `make docs`, or with the name of a folder to build it there.

Zensical builds one folder of Markdown. This puts that folder together in `.site/`: what is in
docs/, files from elsewhere in the repository that readers need, and the page of all commands.
"""

from __future__ import annotations

import posixpath
import re
import shutil
import subprocess
import sys
from pathlib import Path

import typer
from typer.cli import get_docs_for_click

from meshhook.cli.app import all_commands

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = ROOT / "docs"
REPOSITORY = "https://github.com/meshhook/meshhook-queue"

FROM_ELSEWHERE = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "reporting-a-vulnerability.md",
    "bench/README.md": "measuring/benchmarks.md",
    "bench/operator/README.md": "measuring/operator.md",
    "bench/scaling/README.md": "measuring/scaling.md",
    "deploy/helm/meshhook/README.md": "reference/chart.md",
    "grafana/README.md": "monitoring/index.md",
}
"""Pages made of files outside docs/: their path in the repository, and in the site."""
COMMAND_LINE = "reference/command-line.md"

_LINK = re.compile(r"(\]\()([^)\s]+)(\))")
_CODE = re.compile(r"^(?P<fence>```|~~~).*?^(?P=fence)[ \t]*$|`[^`\n]+`", re.DOTALL | re.MULTILINE)


def pages() -> dict[str, str]:
    """Return where each Markdown file of the repository is in the site."""
    documents = {
        path.relative_to(ROOT).as_posix(): path.relative_to(DOCUMENTS).as_posix()
        for path in DOCUMENTS.rglob("*.md")
    }
    runbooks = {
        path.relative_to(ROOT).as_posix(): f"monitoring/runbooks/{path.name}"
        for path in (ROOT / "grafana" / "runbooks").glob("*.md")
    }
    return documents | FROM_ELSEWHERE | runbooks


def command_line() -> str:
    """Return the page of all commands in Markdown."""
    command = all_commands()
    text = get_docs_for_click(
        obj=command, ctx=typer.Context(command), name="meshhook", title="Command line"
    )
    # Help texts mark lines that keep their breaks with a backspace, and indent them.
    text = text.replace("\b", "")
    return re.sub(r"((?:^ {2,}\S.*\n)+)", r"\n```text\n\1```\n", text, flags=re.MULTILINE)


def with_links_led(text: str, source: str, places: dict[str, str]) -> str:
    """Return a page's Markdown with links that lead to the same targets from its place in the site.

    Args:
        text: The Markdown.
        source: Its path in the repository.
        places: Where each Markdown file of the repository is in the site.
    """

    def led(link: re.Match[str]) -> str:
        return link[1] + destination(link[2], source, places) + link[3]

    parts, end = [], 0
    for code in _CODE.finditer(text):
        parts += [_LINK.sub(led, text[end : code.start()]), code[0]]
        end = code.end()
    return "".join([*parts, _LINK.sub(led, text[end:])])


def destination(link: str, source: str, places: dict[str, str]) -> str:
    """Return where a link of a file leads: to a page of the site, or else to the repository."""
    path, mark, anchor = link.partition("#")
    if not path or re.match(r"[a-z]+:", path):
        return link
    target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    here = posixpath.dirname(places[source]) or "."
    if target in places:
        return posixpath.relpath(places[target], here) + mark + anchor
    if target.startswith("docs/"):  # a picture
        return posixpath.relpath(target.removeprefix("docs/"), here)
    kind = "tree" if (ROOT / target).is_dir() else "blob"
    return f"{REPOSITORY}/{kind}/main/{target}{mark}{anchor}"


def stage(folder: Path) -> None:
    """Put what Zensical builds together in `folder`: its settings, and the pages in `.site`."""
    pages_folder = folder / ".site"
    shutil.rmtree(pages_folder, ignore_errors=True)
    shutil.copytree(
        DOCUMENTS, pages_folder, ignore=shutil.ignore_patterns("_site", "*.dot", "*.md")
    )
    if folder != ROOT:
        shutil.copy(ROOT / "mkdocs.yml", folder)
    places = pages()
    for source, place in places.items():
        page = pages_folder / place
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(with_links_led((ROOT / source).read_text(), source, places))
    (pages_folder / COMMAND_LINE).write_text(command_line())


def main() -> int:
    """Build the site into `site/`; return 1 where a link or an anchor of a page leads nowhere."""
    folder = Path(sys.argv[1]).resolve() if sys.argv[1:] else ROOT
    stage(folder)
    zensical = str(Path(sys.executable).with_name("zensical"))
    command = [zensical, "build", "--clean", "--strict"]
    return subprocess.run(command, cwd=folder, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())

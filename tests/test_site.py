"""The documentation site builds, hangs together, and asks no other server for anything."""

from __future__ import annotations

import inspect
import subprocess
import sys
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

import pytest
import yaml

import meshhook
from meshhook import testing

ROOT = Path(__file__).parents[1]
LOADED = {("link", "href"), ("script", "src"), ("img", "src"), ("iframe", "src")}


class Page(HTMLParser):
    """What a built page links to, loads, and can be linked to by."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag's addresses and its id."""
        for name, value in attrs:
            if not value:
                continue
            if name == "id" or (tag, name) == ("a", "name"):
                self.anchors.add(value)
            elif (tag, name) == ("a", "href"):
                self.links.append(value)
            elif (tag, name) in LOADED:
                self.loaded.append(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Return the folder of the built site."""
    folder: Path = tmp_path_factory.mktemp("site")
    build = subprocess.run(
        [sys.executable, ROOT / "docs" / "_site" / "build.py", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    assert build.returncode == 0, build.stdout + build.stderr
    return folder / "site"


@pytest.fixture(scope="module")
def pages(site) -> dict[str, Page]:
    """Return the built pages by their address in the site, as in `/how-to/`."""
    return {
        "/" + path.relative_to(site).as_posix().removesuffix("index.html"): Page(path.read_text())
        for path in site.rglob("*.html")
        if path.name != "404.html"
    }


def test_every_link_and_anchor_of_the_site_leads_somewhere(site, pages):
    """A link names a page or a file of the site, and an anchor is there on that page."""
    broken = []
    for address, page in pages.items():
        for link in page.links + page.loaded:
            target = urlsplit(urljoin("http://site" + address, link))
            if target.netloc != "site" or target.scheme not in {"http", "https"}:
                continue
            path = unquote(target.path)
            if path in pages:
                found = not target.fragment or unquote(target.fragment) in pages[path].anchors
            else:
                found = (site / path.removeprefix("/")).is_file()
            if not found:
                broken.append(f"{address}: {link}")
    assert broken == []


def test_pages_load_nothing_from_other_servers(pages):
    """Styles, scripts, fonts and pictures come with the site."""
    foreign = {
        f"{address}: {loaded}"
        for address, page in pages.items()
        for loaded in page.loaded
        if urlsplit(loaded).netloc
    }
    assert foreign == set()


def test_no_page_needs_a_script_that_the_theme_fetches(pages, site):
    """A Mermaid diagram would make the theme fetch Mermaid from another server."""
    for address in pages:
        text = (site / address.removeprefix("/") / "index.html").read_text()
        assert 'class="mermaid"' not in text, address


def test_the_reference_describes_every_public_name(site):
    """Each name of `meshhook.__all__` and `meshhook.testing.__all__` is in the site."""
    inventory = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    described = {line.split()[0] for line in zlib.decompress(inventory).decode().splitlines()}
    public = {f"{home.__name__}.{name}" for home in (meshhook, testing) for name in home.__all__}
    assert public - described == set()
    # Methods of the parts of a class are shown with the class.
    methods = {
        f"meshhook.{kind.__name__}.{name}"
        for kind in (meshhook.App, meshhook.QueueService, meshhook.SyncQueueService)
        for name, _ in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_")
    }
    assert methods - described == set()


def test_every_page_is_in_the_navigation(site):
    """No page can be reached by the search alone."""

    def listed(entry: Any) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        entries = entry.values() if isinstance(entry, dict) else entry
        return [page for each in entries for page in listed(each)]

    navigation = listed(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    staged = site.parent / ".site"
    assert sorted(navigation) == sorted(
        page.relative_to(staged).as_posix() for page in staged.rglob("*.md")
    )

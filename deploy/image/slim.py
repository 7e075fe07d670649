"""Copies what the image needs from the machine that it was built on, and nothing else.

    slim.py system ROOT             Python, the libraries it and its packages load, certificates
    slim.py packages ROOT [CODE]    the virtual environment; our own part of it into CODE

It runs in a stage of the Containerfile. Bytecode is compiled so that no time is in it, so equal
sources give equal files.
"""

from __future__ import annotations

import compileall
import os
import py_compile
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ENVIRONMENT = Path("/opt/meshhook")
ACCOUNT = "meshhook:x:65532:65532:MeshHook Queue:/tmp:/usr/sbin/nologin\n"
OURS = ("meshhook", "meshhook_operator", "meshhook_queue-*")
# When and from where our wheel was installed.
OF_THE_BUILD = ("direct_url.json", "uv_cache.json")
COMMANDS = {"meshhook", "meshhook-operator"}
# Installers, tests, windows and terminals; and what they are linked to.
UNUSED_MODULES = [
    *(
        "__pycache__",
        "dist-packages",
        "site-packages",
        "config-*",
        "LICENSE*",
        "EXTERNALLY-MANAGED",
    ),
    *("distutils", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "test", "tests", "tkinter"),
    *("turtle.py", "turtledemo", "venv", "curses", "dbm", "sitecustomize.py"),
    *("_curses*", "_dbm*", "_gdbm*", "_test*", "_tkinter*", "_xxtest*", "readline*", "xxlimited*"),
    *("_ctypes_test*", "nis.*", "ossaudiodev*"),
]
# Loaded by name when they are needed, which no list of dependencies tells.
LOADED_LATER = ["libgcc_s.so.1", "libnss_dns.so.2", "libnss_files.so.2"]
FILES = [
    *("/etc/ssl", "/usr/lib/ssl", "/usr/share/ca-certificates", "/usr/lib/locale/C.utf8"),
    *("/usr/share/zoneinfo", "/etc/debian_version", "/etc/os-release", "/etc/ld.so.conf"),
    "/etc/ld.so.conf.d",
]
UNUSED_FILES = ["private", "misc", "posix", "right"]


def main() -> None:
    """Do what the command line says."""
    part, root, *code = sys.argv[1:]
    if part == "system":
        copy_system(Path(root))
    else:
        copy_packages(Path(root), Path(code[0]) if code else None)


def copy_system(root: Path) -> None:
    """Copy what is not in the virtual environment."""
    copied: set[Path] = set()
    library = Path(sysconfig.get_path("stdlib"))
    interpreter = (ENVIRONMENT / "bin/python").resolve()
    linked = (ENVIRONMENT / "bin/python").readlink()
    for path in [linked, interpreter, *_tree(library, UNUSED_MODULES)]:
        _copy(path, root, copied)
    for each in FILES:
        for path in _tree(Path(each), UNUSED_FILES):
            _copy(path, root, copied)
    objects = [interpreter, *library.rglob("*.so"), *ENVIRONMENT.rglob("*.so*")]
    wanted = [each for each in objects if each == interpreter or each in copied or _is_ours(each)]
    for path in _libraries(wanted):
        _copy(path, root, copied)
    (root / "etc/passwd").write_text(f"root:x:0:0:root:/:/usr/sbin/nologin\n{ACCOUNT}")
    (root / "etc/group").write_text("root:x:0:\nmeshhook:x:65532:\n")
    (root / "etc/nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files dns\n")
    for folder in ("app", "dev", "proc", "sys", "tmp"):
        (root / folder).mkdir()
    (root / "tmp").chmod(0o1777)
    _compile(root, library)
    _tell_packages(root, copied)
    for command in (["ldconfig", "-r", root], ["rm", "-rf", root / "var/cache"]):
        subprocess.run(command, check=True)
    _set_modes(root)


def copy_packages(root: Path, code: Path | None) -> None:
    """Copy the virtual environment, less what only builds and people read."""
    unused = shutil.ignore_patterns(
        *("__pycache__", "*.pyx", "*.pxd", "*.c", "*.h", "*.pyi", "activate*", "*.bat"),
        *OF_THE_BUILD,
    )
    target = root / ENVIRONMENT.relative_to("/")
    shutil.copytree(ENVIRONMENT, target, symlinks=True, ignore=unused)
    for program in (target / "bin").iterdir():
        if program.name not in COMMANDS and not program.name.startswith("python"):
            program.unlink()
    for record in target.glob("lib/*/site-packages/meshhook_queue-*/RECORD"):
        lines = record.read_text().splitlines(keepends=True)
        record.write_text("".join(each for each in lines if not _tells_of_the_build(each)))
    _compile(root, ENVIRONMENT)
    _set_modes(root)
    if code is None:
        return
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(ENVIRONMENT)}))
    for pattern in OURS:
        for path in (root / packages.relative_to("/")).glob(pattern):
            _move(path, root, code)
    for command in COMMANDS:
        _move(target / "bin" / command, root, code)


def _tells_of_the_build(line: str) -> bool:
    return line.partition(",")[0].endswith(OF_THE_BUILD)


def _tree(path: Path, unused: list[str]) -> list[Path]:
    """Return a file or link, or all that a folder holds, but for what is not used."""
    if any(path.match(each) for each in unused):
        return []
    if not path.is_dir() or path.is_symlink():
        return [path]
    return [found for each in sorted(path.iterdir()) for found in _tree(each, unused)]


def _copy(path: Path, root: Path, copied: set[Path]) -> None:
    """Copy a file, and each link on the way to it."""
    if path in copied or not os.path.lexists(path):
        return
    for parent in reversed(path.parents):
        if parent.is_symlink() and parent != path:
            _copy(parent, root, copied)
            _copy(parent.resolve() / path.relative_to(parent), root, copied)
            return
    copied.add(path)
    target = root / path.relative_to("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():
        if not os.path.lexists(target):
            target.symlink_to(path.readlink())
        if not path.is_dir():
            _copy(path.parent / path.readlink(), root, copied)
        else:
            (root / path.resolve().relative_to("/")).mkdir(parents=True, exist_ok=True)
    elif path.is_file():
        shutil.copyfile(path, target)


def _is_ours(path: Path) -> bool:
    return path.is_relative_to(ENVIRONMENT)


def _libraries(objects: list[Path]) -> set[Path]:
    """Return the shared libraries that programs and modules are linked to, and the loader."""
    listed = subprocess.run(["ldd", *objects], check=False, capture_output=True, text=True).stdout
    found = {Path(each) for each in re.findall(r"(?:=> |^\s+)(/\S+) \(0x", listed, re.MULTILINE)}
    folders = {each.parent for each in found}
    later = {each / name for each in folders for name in LOADED_LATER}
    missing = re.findall(r"(\S+) => not found", listed)
    if missing:
        raise SystemExit(f"slim: libraries are missing: {sorted(set(missing))}")
    return {each for each in found | later if not _is_ours(each)}


def _compile(root: Path, folder: Path) -> None:
    done = compileall.compile_dir(
        root / folder.relative_to("/"),
        quiet=1,
        maxlevels=100,
        stripdir=str(root),
        prependdir="/",
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )
    if not done:
        raise SystemExit(f"slim: not all of {folder} was compiled")


def _set_modes(root: Path) -> None:
    """Let programs and libraries be run, and nobody but root write."""
    for path in root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            is_run = path.parent.name == "bin" or ".so" in path.name
            path.chmod(0o755 if is_run else 0o644)


def _move(path: Path, root: Path, code: Path) -> None:
    target = code / path.relative_to(root)
    target.parent.mkdir(parents=True, exist_ok=True)
    path.rename(target)


def _tell_packages(root: Path, copied: set[Path]) -> None:
    """Say which packages of Debian the files are from, where scanners look, with their licences."""
    database = Path("/var/lib/dpkg")
    owners: dict[Path, str] = {}
    for listing in database.glob("info/*.list"):
        name = listing.stem.partition(":")[0]
        for line in listing.read_text().splitlines():
            path = Path(line)
            owners[path.parent.resolve() / path.name] = name
    names = {
        owners[real]
        for each in copied
        if (real := each.parent.resolve() / each.name) in owners and not each.is_dir()
    }
    (root / "var/lib/dpkg/status.d").mkdir(parents=True)
    for stanza in (database / "status").read_text().strip().split("\n\n"):
        found = re.search(r"^Package: (\S+)$", stanza, re.MULTILINE)
        if found is not None and found[1] in names:
            (root / "var/lib/dpkg/status.d" / found[1]).write_text(f"{stanza}\n")
            _copy(Path(f"/usr/share/doc/{found[1]}/copyright"), root, copied)


if __name__ == "__main__":
    main()

"""The two images, built from Debian's packages, since a registry may be out of reach."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
IMAGE = "localhost/meshhook-queue:test"
"""What workers, the operator, the exporter and migrations need."""
EVALUATION_IMAGE = "localhost/meshhook-queue-evaluation:test"
"""The same with the embedded PostgreSQL and the demo."""
TARGETS = {IMAGE: "runtime", EVALUATION_IMAGE: "evaluation"}
_LOCK = Path("/run/meshhook-image.lock")
# As deploy/image/build sets them: a build works in a container or a virtual machine too.
_ENVIRONMENT = {"BUILDAH_ISOLATION": "chroot", "STORAGE_DRIVER": "overlay"}


class ImageError(RuntimeError):
    """The image can't be built, or a program in it failed; the message is what was said."""


def obstacle() -> str | None:
    """Return what keeps the image from being built on this machine, if anything does."""
    if os.getuid() != 0:
        return "the image is built as root"
    missing = [each for each in ("buildah", "mmdebstrap") if shutil.which(each) is None]
    return f"there is no {' and no '.join(missing)} (on Debian: make packages)" if missing else None


def build(image: str = IMAGE, archive: Path | None = None) -> None:
    """Build an image, which takes a minute at first and then what has changed.

    Args:
        image: which of the two.
        archive: a file to write it to as well; it is replaced at once, however many do so.

    Raises:
        ImageError: it can't be built.
    """
    command = [str(ROOT / "deploy/image/build"), "--debian", "--target", TARGETS[image]]
    command += ["--tag", image]
    with _LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = _ids(image)
        if archive is None:
            _run(*command)
        else:
            archive.parent.mkdir(parents=True, exist_ok=True)
            unfinished = archive.with_suffix(".unfinished")
            _run(*command, "--output", str(unfinished))
            unfinished.replace(archive)
        for replaced in before - _ids(image):  # or each build would leave one behind
            with suppress(ImageError):  # a container of another test uses it
                _run("buildah", "rmi", replaced)


class Container:
    """A container of an image, in which programs run one after the other."""

    def __init__(self, image: str = IMAGE) -> None:
        self._name = _run("buildah", "from", "--pull-never", image).strip()
        self.root = Path(_run("buildah", "mount", self._name).strip())
        """Its file system, seen from here."""

    def run(self, *command: str) -> str:
        """Run a program as the image's user, and return what it prints.

        Raises:
            ImageError: it fails.
        """
        return _run("buildah", "run", self._name, "--", *command)

    def remove(self) -> None:
        """Take the container away."""
        _run("buildah", "rm", self._name)


def configuration(image: str = IMAGE) -> dict[str, Any]:
    """Return an image's configuration, as OCI names its parts: User, Entrypoint, Labels."""
    found = json.loads(_run("buildah", "inspect", "--type", "image", image))
    configuration: dict[str, Any] = found["OCIv1"]["config"]
    return configuration


def _ids(image: str) -> set[str]:
    return set(
        _run("buildah", "images", "--quiet", "--no-trunc", "--filter", f"reference={image}").split()
    )


def _run(*command: str) -> str:
    done = subprocess.run(
        command, env=os.environ | _ENVIRONMENT, check=False, capture_output=True, text=True
    )
    if done.returncode:
        said = done.stderr.strip() or done.stdout.strip()
        raise ImageError(f"{' '.join(command[:4])}: {said}")
    return done.stdout

"""The licences of all locked packages, read from what is installed: nothing unknown comes in."""

from __future__ import annotations

import re
from importlib.metadata import Distribution, PackageNotFoundError, distribution, requires
from pathlib import Path

import pytest
from license_expression import AND, OR, ExpressionError, LicenseSymbol, get_spdx_licensing

LOCK = Path(__file__).parents[1] / "requirements.lock"

ALLOWED = {
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "MIT-CMU",
    # Asks for the sources of its own files when they are changed; we change none.
    "MPL-2.0",
    "PSF-2.0",
    "Zlib",
}
EXCEPTIONS = {
    # Libraries that pgmq asks for, of which only the SQL is read; the images do not have them.
    # psycopg is imported only for those who pass a connection of it. Their licence lets programs
    # of any licence use them.
    "psycopg": "LGPL-3.0-only",
    "psycopg-binary": "LGPL-3.0-only",
    "psycopg-pool": "LGPL-3.0-only",
}
"""What is used under a licence that is not allowed in general."""
READ_BY_HAND = {
    # Their metadata names a family of licences, or none; this is what their files say.
    "atheris": "Apache-2.0",
    "axe-playwright-python": "MIT",
    "cronsim": "BSD-3-Clause",
    "cycler": "BSD-3-Clause",
    "itsdangerous": "BSD-3-Clause",
    "jinja2": "BSD-3-Clause",
    "kiwisolver": "BSD-3-Clause",
    "nodeenv": "BSD-3-Clause",
    "promql-parser": "MIT",
    "sqlparse": "BSD-3-Clause",
    # Locked for other systems only.
    "colorama": "BSD-3-Clause",
    "httpx2-jsfetch": "BSD-3-Clause",
}
# What packages wrote before there were expressions.
WORDS = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "BSD 2-Clause License": "BSD-2-Clause",
    "BSD 3-Clause License": "BSD-3-Clause",
    "MIT License": "MIT",
    "MIT license": "MIT",
    "PSFL": "PSF-2.0",
    "The MIT License (MIT)": "MIT",
}
CLASSIFIERS = {
    "Apache Software License": "Apache-2.0",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
SPDX = get_spdx_licensing()
LOCKED = sorted(set(re.findall(r"^([a-z0-9-]+)==", LOCK.read_text(), re.MULTILINE)))


def licence_of(name: str) -> str:
    """Return the licence of a locked package as an SPDX expression; empty if none can be told."""
    if name in READ_BY_HAND:
        return READ_BY_HAND[name]
    return told_by(distribution(name))


def told_by(package: Distribution) -> str:
    """Return the licence that the metadata of a package names; empty if none can be told."""
    metadata = package.metadata
    expression, text = (
        str((metadata.get_all(name) or [""])[0]) for name in ("License-Expression", "License")
    )
    words = text.partition("\n")[0].strip()  # some give the whole text
    for told in (expression, WORDS.get(words, words)):
        if is_expression(told):
            return told
    classifiers = [
        CLASSIFIERS.get(each.rpartition(" :: ")[2], "")
        for each in metadata.get_all("Classifier") or []
        if each.startswith("License :: OSI Approved :: ")
    ]
    return " AND ".join(classifiers) if all(classifiers) else ""


def is_expression(text: str) -> bool:
    """Whether a text is an SPDX expression of licences that are known."""
    try:
        return SPDX.parse(text, validate=True) is not None
    except ExpressionError:
        return False


def is_allowed(expression: str) -> bool:
    """Whether all parts of an expression are allowed, or one of those that one may choose from."""

    def holds(part: object) -> bool:
        if isinstance(part, AND):
            return all(map(holds, part.args))
        if isinstance(part, OR):
            return any(map(holds, part.args))
        return isinstance(part, LicenseSymbol) and part.key in ALLOWED

    try:
        return holds(SPDX.parse(expression, validate=True))
    except ExpressionError:
        return False


@pytest.mark.parametrize("name", LOCKED)
def test_the_licence_of_each_locked_package_is_allowed(name):
    """It is of those that are allowed, or of the package's own exception."""
    found = licence_of(name)
    assert is_allowed(found) or (found and EXCEPTIONS.get(name) == found), (
        f"{name}: the licence is {found or 'not told by its metadata'!r}; "
        f"read it, then allow it or name the package in {Path(__file__).name}"
    )


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("MIT", True),
        ("MPL-2.0 AND (Apache-2.0 OR MIT)", True),
        ("GPL-3.0-only OR MIT", True),
        ("MIT AND GPL-3.0-only", False),
        ("AGPL-3.0-or-later", False),
        ("LicenseRef-Proprietary", False),
        ("of my own", False),
        ("", False),
    ],
)
def test_what_is_not_known_is_not_allowed(expression, expected):
    """Of a choice one part is enough, of a sum all parts count, and unknown names are refused."""
    assert is_allowed(expression) is expected


def test_exceptions_are_of_packages_that_are_locked():
    """A name that is not locked any more has no exception either."""
    assert set(LOCKED) >= EXCEPTIONS.keys() | READ_BY_HAND.keys()


def test_what_is_read_by_hand_cannot_be_told_otherwise():
    """Metadata that names the licence is believed, or the package is not installed here."""
    for name in READ_BY_HAND:
        try:
            assert told_by(distribution(name)) == "", name
        except PackageNotFoundError:
            continue


def test_what_users_install_has_no_exception_of_ours():
    """What we ask for is all under allowed licences, but for drivers that users choose by name."""
    asked = {
        (re.split(r"[^A-Za-z0-9-]", each)[0], extra[1] if extra else "")
        for each in requires("meshhook-queue") or []
        for extra in [re.search(r"extra == ['\"](.+?)['\"]", each)]
    }
    assert {name for name, extra in asked if name != extra} & EXCEPTIONS.keys() == set()

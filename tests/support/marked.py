"""A password that is looked for in everything that programs say."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import quote, urlsplit

import asyncpg

from meshhook.known_secrets import ways_to_write

PASSWORD = "Zq7@wXv9:Kp3/Jt5?Rm8#Bn2%Lc4 Hd6'Gf1\"Ys0\\Vé2&Wk"
"""With every character that has a meaning somewhere."""
ENCODED = quote(PASSWORD, safe="")
"""As it stands in a URL."""
LEAST = 6
"""How many characters in a row of it, in whatever form, count as a leak."""
_ORDINARY = frozenset("0123456789ABCDEFabcdef%\\u")


def _parts() -> frozenset[str]:
    found = {
        form[i : i + LEAST]
        for form in {PASSWORD, *ways_to_write(PASSWORD)}
        for i in range(len(form) - LEAST + 1)
    }
    # Not what is nothing but an escape, such as `%5C%22`.
    return frozenset(part for part in found if not set(part) <= _ORDINARY)


PARTS = _parts()


def leaks(text: str | bytes) -> list[str]:
    """Return the parts of the password that a text holds, each with what stands around it."""
    if isinstance(text, bytes):
        text = text.decode(errors="backslashreplace")
    starts = [i for i in range(len(text) - LEAST + 1) if text[i : i + LEAST] in PARTS]
    return [text[max(0, i - 60) : i + 60] for i in starts[:5]]


def marked_url(url: str, *, user: str, password: str = PASSWORD) -> str:
    """Return a URL with another user, and the password."""
    parts = urlsplit(url)
    place = f"{parts.hostname}:{parts.port}{parts.path}"
    return f"postgresql://{user}:{quote(password, safe='')}@{place}"


@asynccontextmanager
async def marked_login(url: str) -> AsyncIterator[str]:
    """Make a superuser with the password, and lend the URL for it; later it is dropped.

    Args:
        url: of the database that it is for, with the right to do so.
    """
    role = f"marked_{secrets.token_hex(4)}"
    connection = await asyncpg.connect(url)
    literal = PASSWORD.replace("'", "''")
    await connection.execute(
        f"set standard_conforming_strings = on; set log_statement = none; "
        f"create role {role} superuser login password '{literal}'"
    )
    await connection.execute("select 'what others see of this session'")
    try:
        yield marked_url(url, user=role)
    finally:
        await connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where usename = $1", role
        )
        await connection.execute(f"reassign owned by {role} to postgres")
        await connection.execute(f"drop owned by {role}")
        await connection.execute(f"drop role {role}")
        await connection.close()


def no_database(url: str) -> str:
    """Return the URL of a database that is not there."""
    server, _, name = url.rpartition("/")
    return f"{server}/no_{name}"


BAD = {
    "wrong password": lambda url: url.replace("Zq7", "Aq7"),
    "wrong user": lambda url: url.replace("//marked_", "//unmarked_"),
    "wrong port": lambda url: url.replace(f":{port_of(url)}/", ":1/"),
    "wrong database": no_database,
    "no such host": lambda url: url.replace("127.0.0.1", "no-such-host.invalid"),
    "no TLS": lambda url: f"{url}?sslmode=require",
    "no such setting": lambda url: f"{url}?no_such_setting=1",
    "no such file": lambda url: f"{url}?sslmode=verify-full&sslrootcert=/no/such",
    "a parameter of others": lambda url: f"{url}?pgbouncer=true",
    "a wrong value": lambda url: f"{url}?sslmode=none",
    "in a parameter": lambda url: (
        f"{url.replace(ENCODED, 'x')}?password={ENCODED}&sslpassword={ENCODED}"
    ),
    "a raw &": lambda url: (
        f"postgresql://127.0.0.1:{port_of(url)}/x?user=u&password=a&Zq7wXv9=Kp3Jt5Rm8"
    ),
    "the colon escaped": lambda url: url.replace(f":{ENCODED}", f"%3A{ENCODED}"),
    "raw": lambda url: url.replace(ENCODED, PASSWORD),
    "no scheme": lambda url: url.removeprefix("postgresql://"),
    "another scheme": lambda url: url.replace("postgresql://", "mysql://"),
    "the password as scheme": lambda _: "Zq7wXv9Kp3://x@h/db",
    "an equation": lambda _: f"host=h user=u password={PASSWORD}",
    "no host": lambda url: url.rpartition("@")[0],
    "no @": lambda url: url.replace("@", ""),
    "a wrong port": lambda url: url.replace(f":{port_of(url)}/", ":x/"),
    "a bracket": lambda url: url.replace("@", "[@"),
    "a line break": lambda url: url.replace("@", "\n@"),
    "the password alone": lambda _: PASSWORD,
    "encoded alone": lambda _: ENCODED,
}
"""What may be wrong with a URL."""


def port_of(url: str) -> str:
    """Return the port in a URL."""
    return url.rpartition("@")[2].partition(":")[2].partition("/")[0]

"""The program psql that comes with the embedded PostgreSQL."""

from __future__ import annotations

import asyncio
from asyncio.subprocess import PIPE

from meshhook.embedded.programs import Programs


async def run_psql(url: str, text: str) -> str:
    """Run a script; fails with what psql said of it."""
    program = Programs.find(None).directory / "psql"
    process = await asyncio.create_subprocess_exec(
        program, "-X", "-q", url, stdin=PIPE, stdout=PIPE, stderr=PIPE
    )
    out, err = await process.communicate(text.encode())
    assert process.returncode == 0, err.decode()
    return out.decode()

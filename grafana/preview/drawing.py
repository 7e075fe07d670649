"""Draws a dashboard with a browser: a page with its JSON and what Prometheus answered."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
MARK = "preview rendered without Grafana"
_WIDTH = 1500
_HEAD_HEIGHT, _ROW_HEIGHT = 72, 38
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")


async def install_charts() -> None:
    """Install the library that draws the graphs, as package.json pins it.

    Raises:
        RuntimeError: if npm is not there, or fails.
    """
    if (HERE / "node_modules" / "echarts").is_dir():
        return
    await _run(
        "npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--silent", at=HERE
    )


async def draw(
    board: dict[str, Any],
    answers: dict[str, Any],
    *,
    chosen: dict[str, str],
    marks: list[str],
    span: tuple[float, float],
    step_seconds: float,
    picture: Path,
) -> None:
    """Draw a dashboard into a PNG file.

    Args:
        board: the dashboard's JSON.
        answers: what Prometheus said, by "panel's id/ref id".
        chosen: the values of the variables; "All" where one is missing.
        marks: what the head says about the picture.
        span: from when to when, in seconds since 1970.
        step_seconds: from one point of a series to the next.
        picture: the file to write.

    Raises:
        RuntimeError: if Chromium or pngquant is not there, or fails.
    """
    browser = next((found for name in _BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        raise RuntimeError("no Chromium was found; on Debian: apt-get install chromium")
    values = {
        "BOARD": board,
        "ANSWERS": answers,
        "CHOSEN": chosen,
        "MARKS": [*marks, MARK],
        "SPAN": span,
        "STEP": step_seconds,
    }
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"])
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder)
        shutil.copytree(
            HERE, page, dirs_exist_ok=True, ignore=shutil.ignore_patterns("node_modules")
        )
        (page / "node_modules").symlink_to(HERE / "node_modules")
        script = "".join(f"const {name} = {json.dumps(value)};\n" for name, value in values.items())
        (page / "data.js").write_text(script)
        html = (page / "page.html").read_text()
        head = '<script src="units.js">'
        (page / "page.html").write_text(
            html.replace(head, f'<script src="data.js"></script>\n{head}')
        )
        await _run(
            browser,
            *("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
            f"--user-data-dir={page / 'profile'}",
            f"--window-size={_WIDTH},{_HEAD_HEIGHT + rows * _ROW_HEIGHT}",
            "--virtual-time-budget=5000",
            f"--screenshot={page / 'picture.png'}",
            (page / "page.html").as_uri(),
            at=page,
        )
        # A third of the size, with no difference to see.
        await _run(
            "pngquant", "--force", "--strip", f"--output={picture}", "128", "picture.png", at=page
        )


async def _run(program: str, *arguments: str, at: Path) -> None:
    try:
        process = await asyncio.create_subprocess_exec(
            program,
            *arguments,
            cwd=at,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
    except FileNotFoundError as error:
        raise RuntimeError(f"{program} was not found") from error
    output, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{program} failed: {output.decode(errors='replace')[-2000:]}")

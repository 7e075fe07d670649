"""Templates to HTML: everything is escaped, times and numbers are written for people."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from importlib import resources
from typing import TYPE_CHECKING
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from meshhook.escaping import shown_sentence
from meshhook.priorities import PRIORITY_NAMES

if TYPE_CHECKING:
    from meshhook.console.settings import ConsoleSettings

STATIC_FILES = ("console.css", "console.js", "htmx.min.js", "icon.svg")

NOTHING = "\N{EN DASH}"

NAVIGATION = (
    ("/", "Overview"),
    ("/dead-letters", "Dead letters"),
    ("/search", "Search"),
    ("/workers", "Workers"),
    ("/schedules", "Schedules"),
    ("/audit", "Changes"),
    ("/doctor", "Doctor"),
)
"""The pages in the header."""

_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))


def make_environment(settings: ConsoleSettings) -> Environment:
    """Return the templates with their filters."""
    environment = Environment(
        loader=PackageLoader("meshhook.console"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        auto_reload=False,
    )
    environment.filters |= {
        "ago": ago,
        "duration": duration,
        "number": number,
        "one_line": one_line,
        "safe_text": safe_text,
        "rate": rate,
    }
    environment.globals |= {
        "static_hash": static_hash(),
        "refresh_ms": int(settings.refresh_seconds * 1000),
        "trace_link": lambda trace_id: _link(settings.trace_url, trace_id=trace_id),
        "runbook_link": lambda **values: _link(settings.runbook_url, **values),
        "target_seconds": settings.target_seconds,
        "nav": NAVIGATION,
        "priority_names": PRIORITY_NAMES,
    }
    return environment


def static_hash() -> str:
    """Return a hash of the static files, by which browsers know when they have changed."""
    files = resources.files("meshhook.console").joinpath("static")
    digest = hashlib.sha256()
    for name in STATIC_FILES:
        digest.update(files.joinpath(name).read_bytes())
    return digest.hexdigest()[:12]


def safe_text(value: object, limit: int | None = None) -> str:
    """Return an untrusted text with its lines; what is not seen, or reverses it, as escapes."""
    return shown_sentence(str(value), limit=limit, lines=True)


def one_line(value: object, limit: int = 300) -> str:
    """Return an untrusted text in one line."""
    return shown_sentence(str(value).replace("\n", " ")[: 4 * limit], limit=limit, lines=False)


def number(value: int, *, capped: bool = False) -> str:
    """Return a count with its thousands parted; a `+` if there are more."""
    return f"{value:,}" + ("+" if capped else "")


def rate(value: float | None) -> str:
    """Return jobs a second."""
    if value is None:
        return NOTHING
    if value and value < 0.1:  # noqa: PLR2004
        return f"{value * 60:.1f}/min"
    return f"{value:,.0f}/s" if value >= 10 else f"{value:.1f}/s" if value else "0/s"  # noqa: PLR2004


def duration(seconds: float | None) -> str:
    """Return a time in its one or two largest units."""
    if seconds is None:
        return NOTHING
    if seconds < 1:
        return f"{max(seconds, 0) * 1000:.0f} ms" if seconds >= 0.001 else "0 s"  # noqa: PLR2004
    if seconds < 10:  # noqa: PLR2004
        return f"{seconds:.1f} s".replace(".0 s", " s")
    left = int(seconds)
    for i, (unit, size) in enumerate(_UNITS):
        if left >= size:
            text = f"{left // size} {unit}"
            rest = left % size
            if i + 1 < len(_UNITS) and i != 2:  # noqa: PLR2004 - minutes are enough
                next_unit, next_size = _UNITS[i + 1]
                if rest >= next_size:
                    text += f" {rest // next_size} {next_unit}"
            return text
    return "0 s"


def ago(moment: datetime | None, now: datetime | None = None) -> Markup:
    """Return a time element: how long ago, or until when; exactly on hover."""
    if moment is None:
        return Markup('<span class="none">{}</span>').format(NOTHING)
    utc = moment.astimezone(UTC)
    seconds = ((now or datetime.now(UTC)) - utc).total_seconds()
    text = f"{duration(float(int(seconds)))} ago" if seconds >= 1 else "now"
    if seconds <= -1:
        text = f"in {duration(float(int(-seconds)))}"
    # Nothing in it needs escaping, and a list has a hundred of them.
    return Markup(  # noqa: S704 - numbers and units
        f'<time datetime="{utc.isoformat(timespec="milliseconds")}" '
        f'title="{utc.isoformat(sep=" ", timespec="seconds").removesuffix("+00:00")} UTC">'
        f"{text}</time>"
    )


def _link(template: str | None, **values: object) -> str | None:
    if template is None or any(value is None for value in values.values()):
        return None
    for name, value in values.items():
        template = template.replace(f"{{{name}}}", quote(str(value), safe=""))
    return template if "{" not in template else None

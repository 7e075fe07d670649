"""Writes the table of values in the chart's README.md from the comments of values.yaml.

python deploy/helm/values_table.py            write it
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

CHART = Path(__file__).parent / "meshhook"
BEGIN = "<!-- values: made by deploy/helm/values_table.py -->"
END = "<!-- end of values -->"


@dataclass(frozen=True, slots=True)
class Value:
    """One value of the chart."""

    key: str
    """Its path, with dots."""
    default: object
    comment: str
    """What values.yaml says above it; empty if it says nothing."""


def values(text: str) -> Iterator[Value]:
    """Yield the values of a values.yaml in order, parts before what they hold."""
    document = yaml.compose(text, Loader=yaml.SafeLoader)
    defaults = yaml.safe_load(text)
    yield from _values(document, defaults, text.splitlines(), ())


def _values(
    node: yaml.Node | None, default: object, lines: Sequence[str], path: Sequence[str]
) -> Iterator[Value]:
    if not isinstance(node, yaml.MappingNode) or not isinstance(default, dict):
        return
    for key_node, value_node in node.value:
        key, inner = key_node.value, default[key_node.value]
        here = (*path, key)
        yield Value(".".join(here), inner, _comment_above(lines, key_node.start_mark.line))
        # What is written in one line is one value: {cpu: 50m}.
        if isinstance(value_node, yaml.MappingNode) and not value_node.flow_style:
            yield from _values(value_node, inner, lines, here)


def _comment_above(lines: Sequence[str], line: int) -> str:
    first = line
    while first > 0 and lines[first - 1].lstrip().startswith("#"):
        first -= 1
    return " ".join(each.lstrip().lstrip("#").strip() for each in lines[first:line])


def is_documented(value: Value, all_values: Sequence[Value]) -> bool:
    """Whether a value, or a part that holds it and is set as a whole, has a comment."""
    parts = value.key.split(".")
    above = {".".join(parts[:end]) for end in range(1, len(parts) + 1)}
    return any(each.comment for each in all_values if each.key in above)


def table(text: str) -> str:
    """Return the table of values as Markdown, a row for each that has a comment of its own."""
    rows = ["| value | default | |", "|---|---|---|"]
    found = list(values(text))
    for value in found:
        if not value.comment:
            continue
        has_rows_below = any(
            other.comment for other in found if other.key.startswith(f"{value.key}.")
        )
        default = "" if has_rows_below else f"`{json.dumps(value.default)}`"
        comment = value.comment.replace("|", r"\|")
        rows.append(f"| `{value.key}` | {default} | {comment} |")
    return "\n".join(rows) + "\n"


def with_table(readme: str, text: str) -> str:
    """Return the README with the table between its two marks."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table(text)}\n{END}{after}"


def main() -> int:
    """Write the README."""
    readme = CHART / "README.md"
    readme.write_text(with_table(readme.read_text(), (CHART / "values.yaml").read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())

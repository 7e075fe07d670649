"""The part of a document that a program writes; what people wrote around it stays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

END = "<!-- end -->"


@dataclass(frozen=True, slots=True)
class MarkedPart:
    """What stands between a marker that names its writer and the next end marker."""

    writer: str

    @property
    def begin(self) -> str:
        """The line before it."""
        return f"<!-- begin: written by {self.writer} -->"

    def check(self, document: Path) -> None:
        """Look for the markers.

        Raises:
            ValueError: if they are not there.
        """
        text = document.read_text(encoding="utf-8")
        if END not in text.partition(self.begin)[2]:
            message = f"{document} needs the lines {self.begin} and {END}; the figures go between"
            raise ValueError(message)

    def replace(self, document: Path, text: str) -> None:
        """Put a text between the markers.

        Raises:
            ValueError: if they are not there.
        """
        self.check(document)
        before, _, rest = document.read_text(encoding="utf-8").partition(self.begin)
        after = rest.partition(END)[2]
        document.write_text(f"{before}{self.begin}\n\n{text}\n{END}{after}", encoding="utf-8")

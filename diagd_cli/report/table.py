"""A table as a record: the figures as text, whoever shows it, on a terminal or in a document."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

Row = Sequence[str]


@dataclass(frozen=True)
class Table:
    """Rows of cells under their names, each led by its label; a title above them, and notes below,
    a line each.

    left: names of further columns that are text, not figures.
    """

    head: Row
    rows: Sequence[Row]
    title: str = ""
    notes: Sequence[str] = ()
    left: Collection[str] = ()

    def markdown(self) -> str:
        """Head and rows in Markdown."""
        rules = [
            "---" if n == 0 or name in self.left else "---:" for n, name in enumerate(self.head)
        ]
        return "\n".join(f"| {' | '.join(line)} |" for line in [self.head, rules, *self.rows])

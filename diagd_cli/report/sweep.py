"""What a sweep found, as records: made by `jobs.sweeping`, shown by a table, a chart and a page,
and written as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from diagd_cli.report.evaluation import EvaluationRow, Scope


@dataclass(frozen=True)
class Recommendation:
    """The fastest decoding within bounds, by its label.

    bounds: as they were given.
    label: None where not even NTP is within them.
    settled: whether the intervals of its figures lie within them, too.
    settled_label: the fastest decoding of which that is so; None where it is so of none.
    text: all of it in words, a line each.
    """

    bounds: Sequence[str]
    label: str | None
    settled: bool
    settled_label: str | None
    text: Sequence[str]


@dataclass(frozen=True)
class SweepReport:
    """What a sweep found.

    context: frames before the new ones.
    rows: of the decodings, NTP first, then from the slowest plan to the fastest.
    limits: of what decodings are held against.
    skipped: what was asked for and left out, and why.
    notes: what a reader of the figures must know, a sentence each.
    machine: where it ran and by which versions, see `jobs.models.machine_facts`.
    recommended: None where no bounds were given.
    command: what does this again; "" where there is none.
    """

    scope: Scope
    context: int
    rows: Sequence[EvaluationRow]
    limits: Sequence[EvaluationRow]
    skipped: Mapping[str, str]
    notes: Sequence[str]
    machine: Mapping
    recommended: Recommendation | None = None
    command: str = ""

    def facts(self) -> dict:
        """The report as JSON has it."""
        scope = vars(self.scope)
        return {
            "command": self.command,
            "preset": self.scope.preset,
            "base_preset": self.scope.base_preset,
            "context": self.context,
            **{key: value for key, value in scope.items() if key not in ("preset", "base_preset")},
            "skipped": self.skipped,
            "rows": [row.facts() for row in self.rows],
            "limits": [row.facts() for row in self.limits],
            "notes": self.notes,
            **self.machine,
            "recommended": self.recommended and asdict(self.recommended),
        }

"""Which decodings are worth choosing among: those that no other one beats in both speed and
likelihood.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from diagd_cli.report.evaluation import EvaluationRow


def front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Whether each (speed, NLL) is on the Pareto front: none is as fast and as likely, and better
    in either.
    """

    def beats(a: tuple[float, float], b: tuple[float, float]) -> bool:
        return a[0] >= b[0] and a[1] <= b[1] and a != b

    return [not any(beats(other, own) for other in points) for own in points]


def unsteady(rows: Sequence[EvaluationRow]) -> bool:
    """Whether a decoding is faster over NTP, the first row, than its steps allow: none is faster
    than a token's step.

    Then the machine did not do all of it at the same speed. A twentieth is left for the clock.
    """
    return any(row.mean("speedup") > 1.05 * rows[0].steps / row.steps for row in rows)


def ranked(rows: Sequence[EvaluationRow]) -> list[EvaluationRow]:
    """Rows whose first is NTP, with `front` in each: NTP, then from the slowest plan to the
    fastest.
    """
    points = [(row.mean("speedup"), row.mean("nll")) for row in rows]
    marked = [replace(row, front=on) for row, on in zip(rows, front(points), strict=True)]
    return [marked[0], *sorted(marked[1:], key=lambda row: (-row.steps, row.label))]

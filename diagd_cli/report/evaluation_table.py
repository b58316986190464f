"""An evaluation as tables: for a terminal, and in Markdown in the column order of the paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from diagd_cli.report.evaluation import EvaluationReport, EvaluationRow, Scope
from diagd_cli.report.measures import MEASURES, Distance, Estimate
from diagd_cli.report.table import Table

VBENCH = {
    "subject consistency": "subject_consistency",
    "image quality": "imaging_quality",
    "dynamic degree": "dynamic_degree",
}
KEY = (
    "±: half of a 95% interval over clips. NLL: nats a token under {base}'s next-token prediction. "
    "actions: read from the frames as intended. same: tokens equal to the first decoding's. "
    "FD-inv: Frechet distance of motion features"
)
NOTHING = "-"
NAMES = [measure.name for measure in MEASURES]


def number(estimate: Estimate | None, digits: int, sign: str = "") -> str:
    """`20.13 ±0.41`, without an interval where there is none."""
    if estimate is None:
        return NOTHING
    text = f"{estimate.mean:{sign}.{digits}f}"
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text} ±{(estimate.high - estimate.low) / 2:.{digits}f}"


def cells(row: EvaluationRow) -> dict[str, str]:
    """Every column of a row as text."""
    found = {"FVD": distance(row.fvd)}
    for name, dimension in VBENCH.items():
        value = (row.vbench or {}).get(dimension)
        found[name] = NOTHING if value is None else f"{value:.4g}"
    for name, rate, digits in (("FPS", row.frames_per_second, 1), ("TP", row.tokens_per_second, 0)):
        found[name] = f"{rate.mean:.{digits}f}" if rate else NOTHING
    found["STEP"] = NOTHING if row.decoding is None else str(row.steps)
    found |= {measure.name: number(row.estimate(measure), measure.digits) for measure in MEASURES}
    found["same"] = f"{row.token_agreement.mean:.0%}" if row.token_agreement else NOTHING
    found["FD-inv"] = distance(row.fd_inv)
    return found


def distance(found: Distance | None) -> str:
    """A Frechet distance to three digits, or all before the decimal point."""
    if found is None or found.value is None:
        return NOTHING
    return f"{found.value:.3g}" if found.value < 100 else f"{found.value:.0f}"


def differences(rows: Sequence[EvaluationRow]) -> list[tuple[str, dict[str, str]]]:
    """(Label, columns) of every decoding but the first: its paired differences to the first."""
    return [
        (
            row.label,
            {
                measure.name: number(row.change(measure), measure.digits, "+")
                for measure in MEASURES
            },
        )
        for row in rows
        if row.difference
    ]


def markdown(report: EvaluationReport) -> str:
    """The whole report as Markdown."""
    rows = [(row.label, cells(row)) for row in report.rows]
    first = next(row.label for row in report.rows if row.decoding is not None)
    parts = [f"# {report.scope.title}", _table(rows, list(rows[0][1])).markdown()]
    if paired := differences(report.rows):
        caption = f"Paired differences to {first}, over the same clips and seeds:"
        parts += [caption, _table(paired, NAMES).markdown()]
    key, *notes = legend(report.scope, report.notes)
    return "\n\n".join([*parts, "\n".join(f"- {note}" for note in [f"{key}.", *notes])]) + "\n"


def tables(report: EvaluationReport) -> list[Table]:
    """The report for a terminal: the figures that there are, paired differences below, and what
    they mean.
    """
    rows = [(row.label, cells(row)) for row in report.rows]
    used = [name for name in rows[0][1] if any(columns[name] != NOTHING for _, columns in rows)]
    first = [name for name in used if name in NAMES]
    names = [*first, *(name for name in used if name not in NAMES)]
    notes, paired = legend(report.scope, report.notes), differences(report.rows)
    found = [_table(rows, names, report.scope.title, () if paired else notes)]
    if paired:
        found.append(_table(paired, NAMES, "Differences to the first decoding, paired", notes))
    return found


def legend(scope: Scope, notes: Sequence[str]) -> list[str]:
    """What the columns are, and what there is to say of the figures; a line each."""
    return [KEY.format(base=scope.base_preset), *notes]


def _table(
    rows: Sequence[tuple[str, Mapping[str, str]]],
    names: Sequence[str],
    title: str = "",
    notes: Sequence[str] = (),
) -> Table:
    """Some columns of (label, columns)."""
    lines = [[label, *(columns[name] for name in names)] for label, columns in rows]
    return Table(["decoding", *names], lines, title, notes)

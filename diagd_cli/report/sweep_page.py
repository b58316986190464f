"""A sweep as one HTML page that needs nothing else: the chart, a table that can be sorted, and
every setting.
"""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path

from diagd_cli.files.atomic import write_text
from diagd_cli.report.evaluation import EvaluationRow
from diagd_cli.report.page import settings
from diagd_cli.report.pages import render
from diagd_cli.report.sweep import SweepReport
from diagd_cli.report.sweep_table import columns, record

VALUES = {  # what a column of `sweep_table.columns` is sorted by: a key of `sweep_table.record`
    "steps": "steps",
    "speed-up": "speedup",
    "tokens/s": "tokens_per_second",
    "FPS": "frames_per_second",
    "NLL": "nll",
    "over NTP": "nll_difference",
    "PSNR": "psnr",
    "SSIM": "ssim",
    "actions": "action_accuracy",
    "same": "token_agreement",
    "FD-inv": "fd_inv",
}
KEY = (
    "± is half of a 95% interval over clips. NLL: nats a token of what was made, under {base}'s "
    "next-token prediction; "
    "over NTP: its difference to NTP on the same clips and seeds. Front (•): no other decoding is "
    "as fast and has so low "
    "an NLL. Actions: read from the frames as intended. Same: tokens equal to NTP's. "
    "FD-inv: Frechet distance of motion features."
)
CHART = (
    "NLL against speed-up of every decoding. Labels: k/d. Bars: 95% interval of the paired "
    "difference to NTP"
)


def write_page(path: Path, report: SweepReport, title: str, chart: Path | None) -> None:
    """Write the page of a sweep, `path` complete or untouched. Whatever comes from outside is text.

    chart: a PNG that is put into it; None for a page without one.

    Raises OutputError.
    """
    write_text(path, page(report, title, chart))


def page(report: SweepReport, title: str, chart: Path | None) -> str:
    """The HTML; see `write_page`."""
    facts, advice = report.facts(), report.recommended
    shown = ("command", "rows", "limits", "notes", "skipped", "recommended")
    known = {key: value for key, value in facts.items() if key not in shown}
    return render(
        "sweep.html",
        title=title,
        recommended="\n".join(advice.text) if advice else None,
        chart=b64encode(chart.read_bytes()).decode() if chart else None,
        caption=CHART,
        columns=list(columns(report.rows[0])),
        rows=[_line(row) for row in report.rows],
        notes=[KEY.format(base=report.scope.base_preset), *report.notes],
        skipped=report.skipped,
        **settings(known, facts),
    )


def _line(row: EvaluationRow) -> dict:
    """A row of the table: in each cell what it is sorted by, and its text."""
    values = record(row)
    cells = [(values[VALUES[name]], text) for name, text in columns(row).items()]
    return {"label": row.label, "front": row.front, "cells": cells}

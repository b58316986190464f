"""A sweep as a table: for a terminal, and as CSV."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from diagd_cli.files.atomic import atomic
from diagd_cli.report.evaluation import EvaluationRow
from diagd_cli.report.evaluation_table import NOTHING, cells, legend, number
from diagd_cli.report.measures import NLL, NLL_FIRST, Estimate
from diagd_cli.report.sweep import SweepReport
from diagd_cli.report.table import Table

RATES = ("speedup", "tokens_per_second", "frames_per_second", "token_agreement")


def record(row: EvaluationRow) -> dict[str, object]:
    """A row of a sweep, flat: numbers as they are, "" where there is none."""
    flat: dict[str, object] = {
        "label": row.label,
        **(row.decoding or {}),
        "steps": row.steps,
        "samples": row.samples,
    }
    for name in RATES:
        rate: Estimate | None = getattr(row, name)
        flat[name] = rate.mean if rate else ""
    for measure in NLL_FIRST:
        flat |= _parts(measure.key, row.estimate(measure))
        flat |= _parts(f"{measure.key}_difference", row.change(measure))
    flat["fd_inv"] = row.fd_inv.value if row.fd_inv and row.fd_inv.value is not None else ""
    return {**flat, "front": row.front}


def _parts(name: str, found: Estimate | None) -> dict[str, object]:
    """The three columns of an estimate."""
    parts = (found.mean, found.low, found.high) if found else (None, None, None)
    columns = (name, f"{name}_low", f"{name}_high")
    return {
        column: "" if part is None else part for column, part in zip(columns, parts, strict=True)
    }


def write_csv(path: Path, rows: Sequence[EvaluationRow]) -> None:
    """Write rows of a sweep as CSV with a header, atomically. Raises OutputError."""
    lines = [record(row) for row in rows]
    with atomic(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        names = dict.fromkeys(name for line in lines for name in line)  # some have more to tell
        writer = csv.DictWriter(file, list(names), restval="")
        writer.writeheader()
        writer.writerows(lines)


def columns(row: EvaluationRow) -> dict[str, str]:
    """The columns for people: speed, each measure, and the NLL's difference to NTP."""
    texts = cells(row)
    found = {
        "steps": f"{row.steps:,}",
        "speed-up": NOTHING if row.speedup is None else f"{row.speedup.mean:.1f}x",
    }
    found |= {
        "tokens/s": texts["TP"],
        "FPS": texts["FPS"],
        "NLL": texts["NLL"],
        "over NTP": over(row),
    }
    return found | {name: texts[name] for name in ("PSNR", "SSIM", "actions", "same", "FD-inv")}


def over(row: EvaluationRow) -> str:
    """The NLL's paired difference to NTP's; nothing for NTP itself."""
    return number(row.change(NLL), NLL.digits, "+")


def table(report: SweepReport) -> Table:
    """The sweep for a terminal; what is on the front has a dot."""
    rows = [(("• " if row.front else "  ") + row.label, columns(row)) for row in report.rows]
    names = [name for name in rows[0][1] if any(found[name] != NOTHING for _, found in rows)]
    key, *notes = legend(report.scope, report.notes)
    notes.insert(0, f"{key.replace('the first decoding', 'NTP')}. over NTP: paired difference")
    lines = [[label, *(found[name] for name in names)] for label, found in rows]
    return Table(["  decoding", *names], lines, f"{report.scope.title}; • on the front", notes)

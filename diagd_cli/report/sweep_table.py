"""A sweep as a table: for a terminal, and as CSV."""

from __future__ import annotations

import csv
from pathlib import Path

from diagd_cli.files.atomic import atomic
from diagd_cli.report.evaluation_table import MEASURES, NOTHING, legend, number, plain, title
from diagd_cli.report.table import Table

ESTIMATES = ("nll", "psnr", "ssim", "action_accuracy")  # with their differences to NTP
RATES = ("speedup", "tokens_per_second", "frames_per_second", "token_agreement")


def records(rows: list[dict]) -> list[dict]:
    """Rows of a sweep, each flat: numbers as they are, "" where there is none."""
    return [_record(row) for row in rows]


def _record(row: dict) -> dict:
    flat = {"label": row["label"], **row["decoding"], "steps": row["steps"], "samples": row["samples"]}
    flat |= {name: row[name]["mean"] if row[name] else "" for name in RATES}
    difference = row["difference"] or {}
    for name in ESTIMATES:
        for suffix, found in (("", row[name]), ("_difference", difference.get(name))):
            parts = {f"{name}{suffix}": "mean", f"{name}{suffix}_low": "low", f"{name}{suffix}_high": "high"}
            values = {column: found[part] if found else None for column, part in parts.items()}
            flat |= {column: "" if value is None else value for column, value in values.items()}
    flat["fd_inv"] = row["fd_inv"]["value"] if row["fd_inv"] else ""
    return {**flat, "front": row["front"]}


def write_csv(path: Path, rows: list[dict]) -> None:
    """Write rows of a sweep as CSV with a header, atomically. Raises OutputError."""
    lines = records(rows)
    with atomic(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)


def columns(row: dict) -> dict[str, str]:
    """The columns for people: speed, each measure, and the NLL's difference to NTP."""
    told = plain(row)
    found = {"steps": f"{row['steps']:,}", "speed-up": f"{row['speedup']['mean']:.1f}x", "tokens/s": told["TP"]}
    found |= {"FPS": told["FPS"], "NLL": told["NLL"], "over NTP": over(row)}
    return found | {name: told[name] for name in ("PSNR", "SSIM", "actions", "same", "FD-inv")}


def over(row: dict) -> str:
    """The NLL's paired difference to NTP's; nothing for NTP itself."""
    return number(row["difference"]["nll"], MEASURES["NLL"][1], "+") if row["difference"] else NOTHING


def table(report: dict) -> Table:
    """The sweep for a terminal; what is on the front has a dot."""
    rows = [(("• " if row["front"] else "  ") + row["label"], columns(row)) for row in report["rows"]]
    names = [name for name in rows[0][1] if any(found[name] != NOTHING for _, found in rows)]
    key, *notes = legend(report)
    notes.insert(0, f"{key.replace('the first decoding', 'NTP')}. over NTP: paired difference")
    cells = [[label, *(found[name] for name in names)] for label, found in rows]
    return Table(["  decoding", *names], cells, f"{title(report)}; • on the front", notes)

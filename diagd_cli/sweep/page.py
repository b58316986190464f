"""A sweep as one HTML page that needs nothing else: the chart, a table that can be sorted, and every setting."""

from __future__ import annotations

from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from diagd_cli.files.atomic import write_text
from diagd_cli.report.page import filled, image, settings
from diagd_cli.sweep.table import columns, records

STYLE, SCRIPT = Path(__file__).with_name("page.css"), Path(__file__).with_name("page.js")
VALUES = {  # what a column of `table.columns` is sorted by, of `table.records`
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
    "± is half of a 95% interval over clips. NLL: nats a token of what was made, under {base}'s next-token prediction; over "
    "NTP: its difference to NTP on the same clips and seeds. Front (•): no other decoding is as fast and has so low an NLL. "
    "Actions: read from the frames as intended. Same: tokens equal to NTP's. FD-inv: Frechet distance of motion features."
)
CHART = "NLL against speed-up of every decoding. Labels: k/d. Bars: 95% interval of the paired difference to NTP"


def write_page(path: Path, report: dict, title: str, chart: Path | None) -> None:
    """Write the page for a sweep's report, as JSON has it, with the PNG `chart`. `path` is complete or untouched.

    Whatever comes from outside is text. Raises OutputError.
    """
    write_text(path, page(report, title, chart))


def page(report: dict, title: str, chart: Path | None) -> str:
    """The HTML; see `write_page`."""
    parts = [f"<header><h1>{escape(title)}</h1></header>"]
    if report["recommended"]:
        parts.append(f"<pre id='recommended'>{escape(chr(10).join(report['recommended']['text']))}</pre>")
    if chart:
        parts += [image(CHART, np.asarray(Image.open(chart))), f"<p class='faint'>{CHART}.</p>"]
    parts += ["<h2>Figures</h2>", figures(report["rows"])]
    notes = [KEY.format(base=report["base_preset"]), *report["notes"]]
    parts += [f"<p class='faint'>{escape(note)}</p>" for note in notes]
    if report["skipped"]:
        lines = "".join(f"<li>{escape(f'{name}: {reason}')}</li>" for name, reason in report["skipped"].items())
        parts.append(f"<h2>Left out</h2><ul id='skipped'>{lines}</ul>")
    shown = ("command", "rows", "limits", "notes", "skipped", "recommended")
    known = {key: value for key, value in report.items() if key not in shown}
    parts += ["<h2>Settings</h2>", settings(known, report)]
    return filled(title, parts, STYLE.read_text(encoding="utf-8"), SCRIPT.read_text(encoding="utf-8"))


def figures(rows: list[dict]) -> str:
    """The table: a row for each decoding, and in each cell what it is sorted by."""
    names = list(columns(rows[0]))
    head = "<th scope='col' data-words><button>decoding</button></th><th scope='col'><button>front</button></th>"
    head += "".join(f"<th scope='col'><button>{escape(name)}</button></th>" for name in names)
    body = "".join(_line(row, flat) for row, flat in zip(rows, records(rows), strict=True))
    return f"<div class='wide'><table id='figures'><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _line(row: dict, values: dict) -> str:
    label, on = escape(row["label"]), row["front"]
    cells = [f"<th scope='row' data-value='{label}'>{label}</th>"]
    cells.append(f"<td class='mark' data-value='{int(not on)}'>{'•' if on else ''}</td>")
    cells += [f"<td data-value='{values[VALUES[name]]}'>{escape(text)}</td>" for name, text in columns(row).items()]
    return f"<tr{' class=front' if on else ''}>{''.join(cells)}</tr>"

"""The report as one HTML page that needs nothing else: no script, no network; pictures and videos
are in it.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from diagd_cli.clip.image import png_bytes
from diagd_cli.files.atomic import write_text
from diagd_cli.report.comparison import Comparison, ComparisonRow
from diagd_cli.report.drawings import curve, step_map
from diagd_cli.report.pages import render
from diagd_cli.report.sheet import contact_sheet_of
from diagd_cli.report.timeline import Timeline

COLUMNS: dict[str, Callable[[ComparisonRow], float | None]] = {
    "k": lambda row: row.decoding["k"],
    "d": lambda row: row.decoding["d"],
    "steps": lambda row: row.steps,
    "decode s": lambda row: row.seconds["decode"],
    "tokens/s": lambda row: row.tokens_per_second,
    "frames/s": lambda row: row.frames_per_second,
    "gap s": lambda row: row.longest_gap,
    "speed-up": lambda row: row.speedup,
    "PSNR dB": lambda row: row.fidelity.psnr if row.fidelity else None,
    "SSIM": lambda row: row.fidelity.ssim if row.fidelity else None,
    "same": lambda row: row.token_agreement,
    "ms/step": lambda row: row.ms_per_step,
    "prefill s": lambda row: row.seconds["prefill"],
}


def write_page(
    path: Path,
    facts: dict,
    comparison: Comparison,
    videos: Mapping[str, Path],
    lines: Sequence[Timeline],
) -> None:
    """Write the page, `path` complete or untouched. Whatever comes from outside is text.

    facts: the JSON report.
    videos: MP4s by caption.
    lines: each decoding's timeline.

    Raises MissingExtra and OutputError.
    """
    write_text(path, page(facts, comparison, videos, lines))


def page(
    facts: dict, comparison: Comparison, videos: Mapping[str, Path], lines: Sequence[Timeline]
) -> str:
    """The HTML; see `write_page`."""
    rows, limit, name = comparison.rows, comparison.limit, Path(facts["input"]["path"]).name
    known = {
        key: value
        for key, value in facts.items()
        if key not in ("command", "decodings", "tokenizer_limit")
    }
    known |= {row.label: ", ".join(f"{k}={v}" for k, v in row.decoding.items()) for row in rows}
    drawings = [
        (row.label, step_map(line, row.decoding["k"], row.decoding["d"]))
        for row, line in zip(rows, lines, strict=True)
    ]
    return render(
        "report.html",
        title=f"{name}, continued by {listed([row.label for row in rows])}",
        told=(
            f"{facts['preset']}: {facts['frames']} new frames after {facts['context_frames']}, "
            f"seed {facts['seed']}"
        ),
        videos=[
            (caption, b64encode(path.read_bytes()).decode()) for caption, path in videos.items()
        ],
        columns=list(COLUMNS),
        rows=[(row.label, [number(cell(row)) for cell in COLUMNS.values()]) for row in rows],
        limit=limit,
        curve=curve(rows, limit) if rows[0].fidelity else None,
        sheet=b64encode(png_bytes(contact_sheet_of(comparison))).decode(),
        drawings=drawings,
        **settings(known, facts),
    )


def number(value: float | None) -> str:
    """A figure as the JSON has it, whole numbers with commas; - for none."""
    if value is None:
        return "-"
    return (
        f"{value:,}"
        if isinstance(value, int)
        else f"{value:,g}"
        if abs(value) < 1e5
        else f"{value:,.0f}"
    )


def settings(known: dict, facts: dict) -> dict:
    """What `settings` of `pages/parts.html` shows: the command, the `known` settings as text, the
    whole report as JSON.
    """
    return {"command": facts["command"], "known": flat(known), "json": json.dumps(facts, indent=1)}


def listed(names: list[str]) -> str:
    """Names as a sentence has them."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def flat(values: dict, above: str = "") -> list[tuple[str, str]]:
    """(key, text) of nested settings; keys within keys are joined by spaces."""
    lines: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{above} {key}".strip().replace("_", " ")
        if isinstance(value, dict):
            lines += flat(value, name)
        else:
            lines.append((name, value if isinstance(value, str) else json.dumps(value)))
    return lines

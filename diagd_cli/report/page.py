"""The report as one HTML page that needs nothing else: no script, no network; pictures and videos are in it."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from html import escape
from pathlib import Path

import numpy as np

from diagd_cli.clip.image import png_bytes
from diagd_cli.files.atomic import write_text
from diagd_cli.picture.timeline import Timeline
from diagd_cli.report.drawings import curve, step_map

TEMPLATE = Path(__file__).with_name("page.html")
COLUMNS = {
    "k": lambda row: row["decoding"]["k"],
    "d": lambda row: row["decoding"]["d"],
    "steps": lambda row: row["steps"],
    "decode s": lambda row: row["seconds"]["decode"],
    "tokens/s": lambda row: row["tokens_per_second"],
    "frames/s": lambda row: row["frames_per_second"],
    "speed-up": lambda row: row["speedup"],
    "PSNR dB": lambda row: row.get("psnr"),
    "SSIM": lambda row: row.get("ssim"),
    "same": lambda row: row["token_agreement"],
    "ms/step": lambda row: row["ms_per_step"],
    "prefill s": lambda row: row["seconds"]["prefill"],
    "pixels s": lambda row: row["seconds"]["pixels"],
}


def write_page(path: Path, facts: dict, videos: dict[str, Path], sheet: np.ndarray, lines: list[Timeline]) -> None:
    """Write the page: `facts` as the JSON report has them, MP4s by caption, the contact sheet, each decoding's timeline.

    sheet: uint8 [H, W, 3]. Whatever comes from outside is text. `path` is complete or untouched. Raises MissingExtra and
    OutputError.
    """
    write_text(path, page(facts, videos, sheet, lines))


def page(facts: dict, videos: dict[str, Path], sheet: np.ndarray, lines: list[Timeline]) -> str:
    """The HTML; see `write_page`."""
    rows, name = facts["decodings"], Path(facts["input"]["path"]).name
    title = f"{name}, continued by {listed([row['label'] for row in rows])}"
    told = f"{facts['preset']}: {facts['frames']} new frames after {facts['context_frames']}, seed {facts['seed']}"
    parts = [f"<header><h1>{escape(title)}</h1><p class='faint'>{escape(told)}</p></header>"]
    parts += [video(caption, file) for caption, file in videos.items()]
    parts += ["<h2>Figures</h2>", figures(rows), limits(facts["tokenizer_limit"])]
    parts.append("<h2>PSNR by frame</h2>")
    if "psnr_by_frame" in rows[0]:
        parts.append(f"<figure class='curve'>{curve(rows, facts['tokenizer_limit'])}</figure>")
    else:
        parts.append("<p>The clip ends with its context: there is no ground truth to hold the frames against.</p>")
    parts += ["<h2>Frames</h2>", image("Frames of every decoding", sheet), "<h2>Order of tokens</h2>"]
    parts.append(
        "<p>The first new frames as grids of tokens. The number is the step, from 0, in which a token is made; the later, "
        "the lighter. A row starts k steps after the row above, a frame d steps after the frame before.</p>"
    )
    for row, line in zip(rows, lines, strict=True):
        drawn = step_map(line, row["decoding"]["k"], row["decoding"]["d"])
        parts.append(f"<h3>{escape(row['label'])}</h3><figure class='wide'>{drawn}</figure>")
    known = {key: value for key, value in facts.items() if key not in ("command", "decodings", "tokenizer_limit")}
    known |= {row["label"]: ", ".join(f"{k}={v}" for k, v in row["decoding"].items()) for row in rows}
    parts += ["<h2>Settings</h2>", settings(known, facts)]
    return filled(title, parts)


def filled(title: str, parts: list[str], style: str = "", script: str = "") -> str:
    """A page with its title, a text, and its body, parts that are HTML already; more rules of style, and a script if any."""
    slots = {
        "POLICY": "; script-src 'unsafe-inline'" if script else "",
        "TITLE": escape(title),
        "STYLE": style,
        "BODY": "\n".join(parts),
        "SCRIPT": f"<script>\n{script}</script>\n" if script else "",
    }
    # in one pass: what is filled in is not looked through for other slots
    return re.sub(r"@([A-Z]+)@", lambda slot: slots[slot[1]], TEMPLATE.read_text(encoding="utf-8"))


def video(caption: str, path: Path) -> str:
    """A video with its bytes in it."""
    data = b64encode(path.read_bytes()).decode()
    label = escape(caption)
    return (
        f"<figure><video controls loop muted playsinline preload='auto' aria-label='{label}' "
        f"src='data:video/mp4;base64,{data}'></video><figcaption>{label}</figcaption></figure>"
    )


def image(caption: str, pixels: np.ndarray) -> str:
    """A picture uint8 [H, W, 3] as a PNG with its bytes in it."""
    data = b64encode(png_bytes(pixels)).decode()
    return f"<figure class='wide'><img class='fit' alt='{escape(caption)}' src='data:image/png;base64,{data}'></figure>"


def figures(rows: list[dict]) -> str:
    """The table: a row for each decoding."""
    head = "".join(f"<th scope='col'>{name}</th>" for name in ("decoding", *COLUMNS))
    body = "".join(
        f"<tr><th scope='row'>{escape(row['label'])}</th>"
        + "".join(f"<td>{number(cell(row))}</td>" for cell in COLUMNS.values())
        + "</tr>"
        for row in rows
    )
    return f"<div class='wide'><table id='figures'><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def number(value: float | None) -> str:
    """A figure as the JSON has it, whole numbers with commas; - for none."""
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:,g}" if abs(value) < 1e5 else f"{value:,.0f}"


def limits(limit: dict | None) -> str:
    """What the columns mean, and what the tokenizer alone scores."""
    text = "Speed-up is of the decode, over the first row. Same: the share of tokens equal to the first row's."
    if limit:
        text += " PSNR and SSIM are to ground truth, means over the new frames; "
        text += f"the tokenizer alone scores {limit['psnr']} dB and {limit['ssim']} on them."
    return f"<p class='faint'>{text}</p>"


def settings(known: dict, facts: dict) -> str:
    """The command, a line for each of the `known` settings, and the whole report as JSON."""
    lines = "".join(f"<tr><th scope='row'>{escape(key)}</th><td>{escape(text)}</td></tr>" for key, text in flat(known))
    whole = escape(json.dumps(facts, indent=1))
    return (
        f"<pre id='command'>{escape(facts['command'])}</pre><table id='settings'><tbody>{lines}</tbody></table>"
        f"<details><summary>The report as JSON</summary><pre id='json'>{whole}</pre></details>"
    )


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

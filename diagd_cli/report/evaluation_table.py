"""The report as tables: for a terminal, and in Markdown in the column order of the paper."""

from __future__ import annotations

from collections.abc import Sequence

from diagd_cli.report.table import Table

VBENCH = {
    "subject consistency": "subject_consistency",
    "image quality": "imaging_quality",
    "dynamic degree": "dynamic_degree",
}
MEASURES = {"PSNR": ("psnr", 2), "SSIM": ("ssim", 3), "NLL": ("nll", 3), "actions": ("action_accuracy", 3)}
KEY = (
    "±: half of a 95% interval over clips. NLL: nats a token under {base}'s next-token prediction. actions: read from the "
    "frames as intended. same: tokens equal to the first decoding's. FD-inv: Frechet distance of motion features"
)
NOTHING = "-"


def number(estimate: dict | None, digits: int, sign: str = "") -> str:
    """`20.13 ±0.41`, without an interval where there is none."""
    if estimate is None:
        return NOTHING
    text = f"{estimate['mean']:{sign}.{digits}f}"
    if estimate["low"] is None:
        return text
    return f"{text} ±{(estimate['high'] - estimate['low']) / 2:.{digits}f}"


def plain(row: dict) -> dict[str, str]:
    """Every column of a row as text."""
    vbench = row.get("vbench") or {}
    columns = {"FVD": _distance(row.get("fvd"))}
    columns |= {name: f"{vbench[key]:.4g}" if key in vbench else NOTHING for name, key in VBENCH.items()}
    for name, key, digits in (("FPS", "frames_per_second", 1), ("TP", "tokens_per_second", 0)):
        columns[name] = f"{row[key]['mean']:.{digits}f}" if row.get(key) else NOTHING
    columns["STEP"] = str(row["steps"]) if "steps" in row else NOTHING
    columns |= {name: number(row.get(key), digits) for name, (key, digits) in MEASURES.items()}
    columns["same"] = f"{row['token_agreement']['mean']:.0%}" if row.get("token_agreement") else NOTHING
    columns["FD-inv"] = _distance(row.get("fd_inv"))
    return columns


def _distance(value: dict | None) -> str:
    return NOTHING if value is None else f"{value['value']:.3g}" if value["value"] < 100 else f"{value['value']:.0f}"


def differences(report: dict) -> list[tuple[str, dict[str, str]]]:
    """(Label, columns) of every decoding but the first: its paired differences to the first."""
    rows = [row for row in report["rows"] if row.get("difference")]
    return [(r["label"], {n: number(r["difference"][k], d, "+") for n, (k, d) in MEASURES.items()}) for r in rows]


def markdown(report: dict) -> str:
    """The whole report as Markdown."""
    rows = [(row["label"], plain(row)) for row in report["rows"]]
    first = next(row["label"] for row in report["rows"] if "steps" in row)
    parts = [f"# {title(report)}", _table(rows, list(rows[0][1])).markdown()]
    if paired := differences(report):
        told = f"Paired differences to {first}, over the same clips and seeds:"
        parts += [told, _table(paired, list(MEASURES)).markdown()]
    notes = [KEY.format(base=report["base_preset"]) + ".", *report["notes"]]
    return "\n\n".join([*parts, "\n".join(f"- {note}" for note in notes)]) + "\n"


def title(report: dict) -> str:
    """One line: what was evaluated."""
    count = {"clip": len(report["clips"]), "seed": len(report["seeds"])}
    sizes = ", ".join(f"{n} {name}{'s' * (n != 1)}" for name, n in count.items())
    return f"{report['preset']}: {sizes}, {report['frames']} new frames"


def tables(report: dict) -> list[Table]:
    """The report for a terminal: the figures that there are, paired differences below, and what they mean."""
    rows = [(row["label"], plain(row)) for row in report["rows"]]
    used = [name for name in rows[0][1] if any(columns[name] != NOTHING for _, columns in rows)]
    first = [name for name in used if name in MEASURES]
    names, notes = [*first, *(name for name in used if name not in MEASURES)], legend(report)
    paired = differences(report)
    told = [_table(rows, names, title(report), () if paired else notes)]
    if paired:
        told.append(_table(paired, list(MEASURES), "Differences to the first decoding, paired", notes))
    return told


def legend(report: dict) -> list[str]:
    """What the columns are, and what there is to say of the figures; a line each."""
    return [KEY.format(base=report["base_preset"]), *report["notes"]]


def _table(rows: list[tuple[str, dict]], names: list[str], title: str = "", notes: Sequence[str] = ()) -> Table:
    """Some columns of (label, columns)."""
    return Table(["decoding", *names], [[label, *(columns[n] for n in names)] for label, columns in rows], title, notes)

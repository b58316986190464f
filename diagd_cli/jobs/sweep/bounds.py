"""Bounds on quality, such as nll<=+2%, and the fastest decoding within them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from diagd_cli.errors import UsageError, did_you_mean

MEASURES = {  # by the name in a bound: the row's key, what it is called, digits, which way is worse, and its unit
    "nll": ("nll", "NLL", 3, "<=", ""),
    "psnr": ("psnr", "PSNR", 2, ">=", " dB"),
    "ssim": ("ssim", "SSIM", 3, ">=", ""),
    "actions": ("action_accuracy", "actions", 3, ">=", ""),
}
_BOUND = re.compile(r"\s*([a-z]+)\s*(<=|>=)\s*([+-])?(\d+\.?\d*|\.\d+)(%?)\s*")


@dataclass(frozen=True)
class Bound:
    """A limit to a measure's difference to NTP: in the measure's unit, or a share of NTP's value (0.02 is 2%)."""

    name: str
    limit: float
    relative: bool
    text: str


@dataclass(frozen=True)
class Verdict:
    """How a decoding stands to a bound. Difference, low and high are in the bound's unit; low and high: the 95% interval.

    settled: the interval lies on one side of the bound; never so where there is none.
    """

    bound: Bound
    value: float
    difference: float
    low: float | None
    high: float | None
    within: bool
    settled: bool


def parse_bounds(text: str) -> list[Bound]:
    """Bounds by comma. Raises UsageError for one that cannot be read, or that allows only what is better than NTP."""
    return [_parse(part) for part in text.split(",")]


def _parse(part: str) -> Bound:
    example = "Write a measure and a difference to NTP with its sign, such as nll<=+2% or psnr>=-0.5"
    match = _BOUND.fullmatch(part)
    if not match:
        raise UsageError(f"Cannot read the bound {part.strip()!r}", example)
    name, side, sign, number, percent = match.groups()
    if name not in MEASURES:
        raise UsageError(f"{name!r} is not one of {', '.join(MEASURES)}", did_you_mean(name, MEASURES, example))
    wanted = MEASURES[name][3]
    if side != wanted:
        better = "low" if wanted == "<=" else "high"
        raise UsageError(f"{part.strip()!r} asks for the worse: {name} is good where it is {better}", f"Write {wanted}")
    if not sign:
        raise UsageError(f"{part.strip()!r} has no sign, and bounds are differences to NTP", example)
    limit = float(sign + number) / (100 if percent else 1)
    return Bound(name, limit, bool(percent), part.strip())


def judge(bound: Bound, row: dict, base: dict) -> Verdict:
    """How a row stands to a bound; `base` is NTP's row. Raises UsageError where the measure has no figures."""
    key = MEASURES[bound.name][0]
    if not row[key] or not base[key]:
        raise UsageError(f"There is no {bound.name} for {bound.text!r}", "Bound another measure")
    if row is base:
        return Verdict(bound, row[key]["mean"], 0.0, 0.0, 0.0, _within(bound, 0.0), True)
    found = row["difference"][key]
    unit = abs(base[key]["mean"]) if bound.relative else 1.0
    mean, low, high = (None if found[name] is None else found[name] / unit for name in ("mean", "low", "high"))
    within = _within(bound, mean)
    settled = low is not None and _within(bound, low) == _within(bound, high) == within
    return Verdict(bound, row[key]["mean"], mean, low, high, within, settled)


def _within(bound: Bound, difference: float) -> bool:
    return difference <= bound.limit if MEASURES[bound.name][3] == "<=" else difference >= bound.limit


@dataclass(frozen=True)
class Choice:
    """The fastest decoding within all bounds, None where not even NTP is; and the fastest of which the intervals say so.

    verdicts: of `row`, one a bound. nearest: where NTP alone remains, the decoding that misses by least, and its verdicts.
    """

    row: dict | None
    verdicts: list[Verdict]
    sure: dict | None
    nearest: tuple[dict, list[Verdict]] | None = None

    @property
    def settled(self) -> bool:
        return all(verdict.settled for verdict in self.verdicts)


def choose(rows: list[dict], bounds: list[Bound]) -> Choice:
    """The choice among rows of a sweep, the first of which is NTP. Raises UsageError where a measure has no figures."""
    base = rows[0]
    judged = [(row, [judge(bound, row, base) for bound in bounds]) for row in rows]
    judged.sort(key=lambda pair: -pair[0]["speedup"]["mean"])
    within = [pair for pair in judged if all(verdict.within for verdict in pair[1])]
    sure = next((row for row, verdicts in within if all(verdict.settled for verdict in verdicts)), None)
    row, verdicts = within[0] if within else (None, [])
    others = [pair for pair in judged if pair[0] is not base]
    alone = row is base or row is None
    return Choice(row, verdicts, sure, min(others, key=lambda pair: _miss(pair[1])) if alone and others else None)


def advise(rows: list[dict], bounds: list[Bound], clips: int) -> tuple[Choice, dict]:
    """The choice, and what the report says of it. Raises UsageError where a measure has no figures."""
    choice = choose(rows, bounds)
    label, sure = choice.row and choice.row["label"], choice.sure and choice.sure["label"]
    told = {"bounds": [bound.text for bound in bounds], "label": label, "settled": bool(label) and choice.settled}
    return choice, {**told, "settled_label": sure, "text": explain(choice, bounds, clips)}


def _miss(verdicts: list[Verdict]) -> float:
    """How far beyond its bounds a decoding is at most, as a multiple of what they allow."""
    return max(abs(v.difference - v.bound.limit) / max(abs(v.bound.limit), 1e-9) for v in verdicts if not v.within)


def explain(choice: Choice, bounds: list[Bound], clips: int) -> list[str]:
    """The choice in words, a line each."""
    asked = ", ".join(bound.text for bound in bounds)
    if choice.row is None:
        lines = [f"Nothing is within {asked}: not even NTP"]
    elif choice.row.get("difference") is None:
        lines = [f"Only NTP is within {asked}"]
    else:
        lines = [f"{choice.row['label']} is the fastest within {asked}: {speed(choice.row)}"]
        lines += [f"  {figures(verdict)}" for verdict in choice.verdicts]
    if choice.nearest:
        row, verdicts = choice.nearest
        told = "; ".join(figures(verdict) for verdict in verdicts)
        doubt = (
            "" if any(v.settled for v in verdicts if not v.within) else ". The intervals do not settle that it is not"
        )
        lines.append(f"  The nearest, {row['label']} ({speed(row)}): {told}{doubt}")
    elif choice.row and not choice.settled:
        lines.append(f"  Not settled: {_doubt(choice, clips)}")
    return lines


def _doubt(choice: Choice, clips: int) -> str:
    sure = choice.sure
    rest = f"{sure['label']}, {sure['speedup']['mean']:.1f}x" if sure and sure.get("difference") else "NTP alone"
    if clips < 2:
        return "one clip has no interval. Give more clips"
    names = ", ".join(MEASURES[v.bound.name][1] for v in choice.verdicts if not v.settled)
    return f"over {clips} clips the interval of {names} reaches past the bound. Settled within: {rest}"


def speed(row: dict) -> str:
    """`9.1x NTP, 813 tokens/s, 156 steps`."""
    steps, tokens = row["steps"], row["tokens_per_second"]["mean"]
    return f"{row['speedup']['mean']:.1f}x NTP, {tokens:,.0f} tokens/s, {steps:,} steps"


def figures(verdict: Verdict) -> str:
    """`NLL 2.345, +1.2% (95%: +0.4% to +1.9%)`."""
    _, name, digits, _, unit = MEASURES[verdict.bound.name]

    def told(value: float) -> str:
        return f"{value:+.1%}" if verdict.bound.relative else f"{value:+.{digits}f}"

    text = f"{name} {verdict.value:.{digits}f}{unit}, {told(verdict.difference)}"
    if verdict.low is None:
        return text
    return f"{text} (95%: {told(verdict.low)} to {told(verdict.high)})"

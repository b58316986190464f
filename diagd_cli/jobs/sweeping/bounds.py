"""Bounds on quality, such as nll<=+2%, and the fastest decoding within them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from diagd_cli.errors import UsageError, did_you_mean
from diagd_cli.report.evaluation import EvaluationRow
from diagd_cli.report.measures import NLL_FIRST, Estimate, Measure
from diagd_cli.report.sweep import Recommendation

BOUNDED = {measure.bound: measure for measure in NLL_FIRST}  # by the name in a bound
_BOUND = re.compile(r"\s*([a-z]+)\s*(<=|>=)\s*([+-])?(\d+\.?\d*|\.\d+)(%?)\s*")


@dataclass(frozen=True)
class Bound:
    """A limit to a measure's difference to NTP.

    limit: in the measure's unit; or, where it is relative, a share of NTP's value, such as 0.02 for
        2%.
    text: as it was given.
    """

    measure: Measure
    limit: float
    relative: bool
    text: str

    def allows(self, difference: float) -> bool:
        """Whether a difference to NTP, in the bound's unit, is within it."""
        return difference <= self.limit if self.measure.low_is_good else difference >= self.limit


@dataclass(frozen=True)
class Verdict:
    """How a decoding stands to a bound.

    value: of the measure, in its unit.
    difference: to NTP, in the bound's unit.
    low, high: the difference's 95% interval; None where there is none.
    within: whether the bound allows the difference.
    settled: whether the interval lies on one side of the bound; never so where there is none.
    """

    bound: Bound
    value: float
    difference: float
    low: float | None
    high: float | None
    within: bool
    settled: bool


def parse_bounds(text: str) -> list[Bound]:
    """Bounds by comma.

    Raises UsageError for one that cannot be read, or that allows only what is better than NTP.
    """
    return [_parse(part) for part in text.split(",")]


def _parse(part: str) -> Bound:
    example = (
        "Write a measure and a difference to NTP with its sign, such as nll<=+2% or psnr>=-0.5"
    )
    match = _BOUND.fullmatch(part)
    if not match:
        raise UsageError(f"Cannot read the bound {part.strip()!r}", example)
    name, side, sign, number, percent = match.groups()
    if name not in BOUNDED:
        raise UsageError(
            f"{name!r} is not one of {', '.join(BOUNDED)}", did_you_mean(name, BOUNDED, example)
        )
    measure = BOUNDED[name]
    better, wanted = ("low", "<=") if measure.low_is_good else ("high", ">=")
    if side != wanted:
        raise UsageError(
            f"{part.strip()!r} asks for the worse: {name} is good where it is {better}",
            f"Write {wanted}",
        )
    if not sign:
        raise UsageError(
            f"{part.strip()!r} has no sign, and bounds are differences to NTP", example
        )
    limit = float(sign + number) / (100 if percent else 1)
    return Bound(measure, limit, bool(percent), part.strip())


def judge(bound: Bound, row: EvaluationRow, base: EvaluationRow) -> Verdict:
    """How a row stands to a bound; base: NTP's row.

    Raises UsageError where the measure has no figures.
    """
    own, ntp = row.estimate(bound.measure), base.estimate(bound.measure)
    change = Estimate(0.0, 0.0, 0.0, 1) if row is base else row.change(bound.measure)
    if own is None or ntp is None or change is None:
        raise UsageError(
            f"There is no {bound.measure.bound} for {bound.text!r}", "Bound another measure"
        )
    if row is base:
        return Verdict(bound, own.mean, 0.0, 0.0, 0.0, bound.allows(0.0), True)
    unit = abs(ntp.mean) if bound.relative else 1.0
    difference = change.mean / unit
    low, high = (None if end is None else end / unit for end in (change.low, change.high))
    within = bound.allows(difference)
    settled = (
        low is not None and high is not None and bound.allows(low) == bound.allows(high) == within
    )
    return Verdict(bound, own.mean, difference, low, high, within, settled)


@dataclass(frozen=True)
class Choice:
    """The fastest decoding within all bounds.

    row: None where not even NTP is within them.
    verdicts: of `row`, one a bound.
    sure: the fastest of which the intervals say that it is within all bounds.
    nearest: where NTP alone remains, the decoding that misses by least, and its verdicts.
    alone: whether no decoding but NTP is within them.
    """

    row: EvaluationRow | None
    verdicts: Sequence[Verdict]
    sure: EvaluationRow | None
    nearest: tuple[EvaluationRow, Sequence[Verdict]] | None = None
    alone: bool = True

    @property
    def settled(self) -> bool:
        """Whether the intervals say so, too."""
        return all(verdict.settled for verdict in self.verdicts)


def choose(rows: Sequence[EvaluationRow], bounds: Sequence[Bound]) -> Choice:
    """The choice among rows of a sweep, the first of which is NTP.

    Raises UsageError where a measure has no figures.
    """
    base = rows[0]
    judged = [(row, [judge(bound, row, base) for bound in bounds]) for row in rows]
    judged.sort(key=lambda pair: -pair[0].mean("speedup"))
    within = [pair for pair in judged if all(verdict.within for verdict in pair[1])]
    sure = next(
        (row for row, verdicts in within if all(verdict.settled for verdict in verdicts)), None
    )
    row, verdicts = within[0] if within else (None, [])
    beyond = [pair for pair in judged if pair not in within and pair[0] is not base]
    alone = not any(pair[0] is not base for pair in within)
    nearest = min(beyond, key=lambda pair: _miss(pair[1])) if alone and beyond else None
    return Choice(row, verdicts, sure, nearest, alone)


def recommend(rows: Sequence[EvaluationRow], bounds: Sequence[Bound], clips: int) -> Recommendation:
    """What a report says of the choice. Raises UsageError where a measure has no figures."""
    choice = choose(rows, bounds)
    return Recommendation(
        bounds=[bound.text for bound in bounds],
        label=choice.row.label if choice.row else None,
        settled=choice.row is not None and choice.settled,
        settled_label=choice.sure.label if choice.sure else None,
        text=explain(choice, bounds, clips),
    )


def _miss(verdicts: Sequence[Verdict]) -> float:
    """How far beyond its bounds a decoding is at most, as a multiple of what they allow."""
    return max(
        abs(v.difference - v.bound.limit) / max(abs(v.bound.limit), 1e-9)
        for v in verdicts
        if not v.within
    )


def explain(choice: Choice, bounds: Sequence[Bound], clips: int) -> list[str]:
    """The choice in words, a line each."""
    asked = ", ".join(bound.text for bound in bounds)
    if choice.row is None:
        lines = [f"Nothing is within {asked}: not even NTP"]
    elif choice.row.difference is None:
        # A decoding of fewer steps can be the slower one: of a tiny model, on a busy machine.
        lines = [f"{'Only NTP is' if choice.alone else 'NTP is the fastest'} within {asked}"]
    else:
        lines = [f"{choice.row.label} is the fastest within {asked}: {speed(choice.row)}"]
        lines += [f"  {figures(verdict)}" for verdict in choice.verdicts]
    if choice.nearest:
        row, verdicts = choice.nearest
        settled = any(verdict.settled for verdict in verdicts if not verdict.within)
        doubt = "" if settled else ". The intervals do not settle that it is not"
        lines.append(
            f"  The nearest, {row.label} ({speed(row)}): {'; '.join(map(figures, verdicts))}{doubt}"
        )
    elif choice.row and not choice.settled:
        lines.append(f"  Not settled: {_doubt(choice, clips)}")
    return lines


def _doubt(choice: Choice, clips: int) -> str:
    """Why the intervals do not settle a choice."""
    if clips < 2:
        return "one clip has no interval. Give more clips"
    sure = choice.sure
    rest = f"{sure.label}, {sure.mean('speedup'):.1f}x" if sure and sure.difference else "NTP alone"
    names = ", ".join(
        verdict.bound.measure.name for verdict in choice.verdicts if not verdict.settled
    )
    return (
        f"over {clips} clips the interval of {names} reaches past the bound. Settled within: {rest}"
    )


def speed(row: EvaluationRow) -> str:
    """`9.1x NTP, 813 tokens/s, 156 steps`."""
    return (
        f"{row.mean('speedup'):.1f}x NTP, {row.mean('tokens_per_second'):,.0f} tokens/s, "
        f"{row.steps:,} steps"
    )


def figures(verdict: Verdict) -> str:
    """`NLL 2.345, +1.2% (95%: +0.4% to +1.9%)`."""
    measure, relative = verdict.bound.measure, verdict.bound.relative

    def shown(value: float) -> str:
        return f"{value:+.1%}" if relative else f"{value:+.{measure.digits}f}"

    value = f"{verdict.value:.{measure.digits}f}{measure.unit}"
    text = f"{measure.name} {value}, {shown(verdict.difference)}"
    if verdict.low is None or verdict.high is None:
        return text
    return f"{text} (95%: {shown(verdict.low)} to {shown(verdict.high)})"

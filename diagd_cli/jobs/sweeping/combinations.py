"""Which decodings a sweep runs: every combination that fits the grid, each plan once, NTP first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from diagd_cli.errors import UsageError
from diagd_cli.schedule.decoding import Decoding, window_of
from diagd_cli.schedule.standin import StandIn
from diagd_cli.tokens.grid import Grid

_DECODING = TypeAdapter(Decoding)


@dataclass(frozen=True)
class Combinations:
    """Which decodings a sweep runs.

    decodings: each plan once, NTP first.
    skipped: (what was asked for, why it is left out).
    """

    decodings: list[Decoding]
    skipped: list[tuple[str, str]]


def combine(
    named: list[Decoding],
    stand_ins: Sequence[StandIn],
    repairs: list[bool],
    grid: Grid,
    context: int,
    windows: Sequence[str] = ("roll",),
) -> Combinations:
    """NTP and the decodings `named`, each with every stand-in and with and without repair where
    these matter, and in every window.

    One that is out of range, or whose plan is that of another, is skipped with the reason.

    grid, context (latent frames): of what is decoded.
    """
    seen: dict[tuple, str] = {}
    decodings, skipped = [], {}
    for base in [Decoding("ntp"), *named]:
        for decoding in (
            in_window(replace(base, stand_in=name, repair=repair), window)
            for name in stand_ins
            for repair in repairs
            for window in windows
        ):
            asked = _asked(decoding)
            try:
                plan = plan_of(decoding, grid, context)
            except UsageError as error:
                skipped[asked] = str(error)
                continue
            if plan not in seen:
                decodings.append(replace(decoding, stand_in=plan[2], repair=plan[3]))
                seen[plan] = asked
            elif seen[plan] != asked:
                skipped[asked] = f"The same plan as {seen[plan]}"
    return Combinations(decodings, list(skipped.items()))


def in_window(decoding: Decoding, word: str) -> Decoding:
    """The decoding in a window as `window_of` reads it."""
    return replace(decoding, **(window_of(word) or {}))


def check_any(decodings: list[Decoding], grid: Grid, context: int) -> None:
    """Raise UsageError, what is wrong with the first, unless at least one of the decodings fits the
    grid.
    """
    problems = []
    for decoding in decodings:
        try:
            plan_of(decoding, grid, context)
        except UsageError as error:
            problems.append(error)
    if len(problems) == len(decodings):
        raise problems[0]


def plan_of(decoding: Decoding, grid: Grid, context: int) -> tuple:
    """What decides a decoding's tokens and steps: (k, d, stand-in, repair, zero slots, window,
    sinks), and how tokens are guessed where they are.

    Raises UsageError when out of range.

    NTP needs no stand-in and sees no empty slot: by whatever name it is asked for, it is one plan.
    """
    k, d, stand_in, repair = decoding.resolve(grid, context)
    window = decoding.window_word, decoding.sinks
    if (k, d) == (grid.w, grid.area):
        plan = k, d, "previous-frame", True, False, *window
        guesses = decoding.width, decoding.row, decoding.guess
        return (*plan, *guesses) if decoding.method == "exact" else plan
    return k, d, stand_in, repair, decoding.zero_slots, *window


def _asked(decoding: Decoding) -> str:
    """A decoding as it was asked for: `diagd k=2 d=99`, which need not exist."""
    numbers = {
        "ntp": "",
        "exact": f" window={decoding.width}",
        "diagd": f" k={decoding.k} d={decoding.d}",
    }
    return decoding.method + numbers.get(decoding.method, f" k={decoding.k}")


def earlier(
    known: Sequence[dict[str, Any]], decodings: Sequence[Decoding], grid: Grid, context: int
) -> list[tuple[Decoding, dict]]:
    """The decodings that a folder has samples of and that are not asked for, with their facts.

    Facts that are malformed, do not fit the grid or are of another preset's Transformer are left
    out.

    known: facts of the folder's decodings.
    decodings: those that are asked for.
    grid, context (latent frames): of what is decoded.
    """
    plans = {plan_of(decoding, grid, context) for decoding in decodings}
    found = []
    for facts in known:
        try:
            decoding = _DECODING.validate_python(facts)
            plan = plan_of(decoding, grid, context)
        except (ValidationError, UsageError):
            continue
        if plan not in plans and "preset" not in facts:
            plans.add(plan)
            found.append((decoding, facts))
    return found

"""Which decodings a sweep runs: every combination that fits the grid, each plan once, NTP first."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from diagd_cli.errors import UsageError
from diagd_cli.schedule.decoding import Decoding
from diagd_cli.tokens.grid import Grid

_DECODING = TypeAdapter(Decoding)


@dataclass(frozen=True)
class Combinations:
    """What is run, and what is not: (what was asked for, why it is left out)."""

    walks: list[Decoding]
    skipped: list[tuple[str, str]]


def combine(named: list[Decoding], stand_ins: list[str], repairs: list[bool], grid: Grid, context: int) -> Combinations:
    """NTP and the decodings `named`, each with every stand-in and with and without repair where these matter.

    grid, context (latent frames): of what is decoded. One that is out of range, or whose plan is that of another, is
    skipped with the reason.
    """
    seen: dict[tuple, str] = {}
    walks, skipped = [], {}
    for base in [Decoding("ntp"), *named]:
        for walk in (replace(base, stand_in=name, repair=repair) for name in stand_ins for repair in repairs):
            asked = _asked(walk)
            try:
                plan = plan_of(walk, grid, context)
            except UsageError as error:
                skipped[asked] = str(error)
                continue
            if plan not in seen:
                walks.append(replace(walk, stand_in=plan[2], repair=plan[3]))
                seen[plan] = asked
            elif seen[plan] != asked:
                skipped[asked] = f"The same plan as {seen[plan]}"
    return Combinations(walks, list(skipped.items()))


def check_any(walks: list[Decoding], grid: Grid, context: int) -> None:
    """Raise UsageError, what is wrong with the first, unless at least one of the decodings fits the grid."""
    problems = []
    for walk in walks:
        try:
            plan_of(walk, grid, context)
        except UsageError as error:
            problems.append(error)
    if len(problems) == len(walks):
        raise problems[0]


def plan_of(walk: Decoding, grid: Grid, context: int) -> tuple[int, int, str, bool, bool]:
    """What decides a decoding's tokens: (k, d, stand-in, repair, zero slots). Raises UsageError when out of range.

    NTP needs no stand-in and sees no empty slot: by whatever name it is asked for, it is one plan.
    """
    k, d, stand_in, repair = walk.resolve(grid, context)
    if (k, d) == (grid.w, grid.area):
        return k, d, "previous-frame", True, False
    return k, d, stand_in, repair, walk.zero_slots


def _asked(walk: Decoding) -> str:
    """A decoding as it was asked for: `diagd k=2 d=99`, which need not exist."""
    numbers = {"ntp": "", "diagd": f" k={walk.k} d={walk.d}"}
    return walk.method + numbers.get(walk.method, f" k={walk.k}")


def earlier(told: list[dict[str, Any]], walks: list[Decoding], grid: Grid, context: int) -> list[tuple[Decoding, dict]]:
    """The decodings of facts that a folder tells and that are not among `walks`, with their facts.

    Facts that are malformed, do not fit the grid or are of another preset's Transformer are left out.
    """
    known = {plan_of(walk, grid, context) for walk in walks}
    found = []
    for facts in told:
        try:
            walk = _DECODING.validate_python(facts)
            plan = plan_of(walk, grid, context)
        except (ValidationError, UsageError):
            continue
        if plan not in known and "preset" not in facts:
            known.add(plan)
            found.append((walk, facts))
    return found

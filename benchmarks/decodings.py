"""Every decoding against our own NTP, on every family's grid and at a size that fits a laptop;
weights are random.

A schedule with a tenth of the steps could be ten times as fast: `share` is how much of that comes
true. Where only some of the steps are timed, they lie evenly in the schedule, and the rates are
extrapolated, and the row says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from benchmarks import common
from benchmarks.common import Prompted
from diagd_cli import Decoding, Plan, Preset, random_transformer
from diagd_cli.model.linear import pack


@dataclass(frozen=True)
class Family:
    """A preset cut to size, the latent frames of its context and those to make, and how many steps
    are timed; 0: all.
    """

    about: str
    preset: Preset
    context: int
    frames: int
    steps: int


def families() -> dict[str, Family]:
    return {
        "tiny": Family("4x6, to try the script", common.mineworld("tiny", 3), 1, 2, 8),
        "freedoom": Family("15x20, as shipped", common.vary("freedoom"), 4, 4, 0),
        "mineworld": Family("14x24, 512 wide, 8 layers", common.mineworld("512", 5), 1, 4, 60),
        "wham": Family(
            "18x30, 200M's width, 4 layers",
            common.vary("wham-200m", transformer={"layers": 4}),
            1,
            4,
            60,
        ),
        "vavim": Family(
            "18x32, VaViM-S's width, 4 layers",
            common.vary("vavim-s", transformer={"layers": 4}),
            1,
            4,
            60,
        ),
        "cosmos": Family(
            "40x64, 4B's width, 1 layer",
            common.vary("cosmos-4b", transformer={"layers": 1}),
            1,
            3,
            6,
        ),
    }


def main(argv: list[str] | None = None) -> None:
    known = families()
    parser = common.options(__doc__)
    parser.add_argument(
        "--families", nargs="+", default=[name for name in known if name != "tiny"], choices=known
    )
    parser.add_argument(
        "--steps", type=int, help="steps timed of each decoding; 0: all; by default it depends"
    )
    args = common.parse(parser, argv)
    rows = [row for name in args.families for row in contest(name, known[name], args)]
    common.report("decodings", args, rows)


def contest(name: str, family: Family, args) -> list[dict]:
    """Rows of every decoding of one family, next-token prediction first."""
    preset = family.preset
    steps = family.steps if args.steps is None else args.steps
    clip = Prompted(
        preset,
        pack(common.sharpen(random_transformer(preset, seed=0))),
        family.context,
        family.frames,
    )
    plans = {decoding.label(preset.grid): clip.plan(decoding) for decoding in decodings(preset)}
    sampling = preset.sampling()
    runs = {label: partial(clip.run, some(plan, steps), sampling) for label, plan in plans.items()}
    laps = common.interleave(runs, args.repeats)
    rows, baseline = [], None
    for label, plan in plans.items():
        lap = common.median(laps[label])
        seconds = lap.seconds / lap.steps * plan.steps
        baseline = baseline or (seconds, plan.steps)
        gain, ratio = baseline[0] / seconds, baseline[1] / plan.steps
        row = {
            "family": name,
            "size": family.about,
            "decoding": label,
            "steps": plan.steps,
            "steps timed": lap.steps,
        }
        row |= {"ms/step": 1000 * lap.seconds / lap.steps, "tokens/s": plan.new_tokens / seconds}
        ratios = {
            "extrapolated": "" if lap.steps == plan.steps - 1 else "yes",
            "speed-up": gain,
            "schedule's": ratio,
        }
        rows.append({**row, **ratios, "share": gain / ratio})
    return rows


def decodings(preset: Preset) -> list[Decoding]:
    """NTP, ZipAR, DiagD within frames and across them, and what the preset does by default; each
    once.
    """
    h = preset.grid.h
    walks = [
        Decoding("ntp"),
        Decoding("zipar", k=4),
        Decoding("spatial", k=2),
        Decoding("diagd", k=2, d=2 * h),
        Decoding("diagd", k=1, d=h),
        preset.decoding.decoding,
    ]
    return list({walk.label(preset.grid): walk for walk in walks}.values())


def some(plan: Plan, steps: int) -> Plan:
    """The plan, or `steps` of its steps, evenly spaced, after its first, which is not timed."""
    if not steps or plan.steps <= steps + 1:
        return plan
    return common.pick(plan, np.linspace(0, plan.steps - 1, steps + 1).astype(int))


if __name__ == "__main__":
    main()

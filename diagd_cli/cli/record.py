"""diagd record: first-person clips with actions from Freedoom, to train on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diagd_cli.cli import options as o
from diagd_cli.cli.console import Reporter
from diagd_cli.cli.guard import guard
from diagd_cli.cli.kinds import COUNT, POSITIVE, number
from diagd_cli.train.requests import SCENARIOS, RecordRequest

TWO_OR_MORE = number(int, "a whole number, 2 or more", 2)
HEIGHT_HELP, WIDTH_HELP = (f"Pixels; a whole fraction of {side}." for side in (480, 640))
HELP = """Record clips and their per-frame actions from ViZDoom's Freedoom levels (extra: world).

Every 12th episode goes to OUT/val, the rest to OUT/train; each is an MP4 and a
JSONL of the same name.

[bold]Examples[/]

  diagd record --out data                            # 420 clips, 12 minutes

  diagd record --out try --episodes 4 --frames 40    # a look
"""


def record(
    out: Annotated[Path, typer.Option(help="Folder to write into.")],
    episodes: Annotated[int, typer.Option(**POSITIVE, help="Clips in all.")] = 420,
    frames: Annotated[int, typer.Option(**TWO_OR_MORE, help="Frames a clip.")] = 160,
    scenarios: Annotated[str, typer.Option(help="Levels, by comma.")] = ",".join(SCENARIOS),
    seed: Annotated[int, typer.Option(**COUNT, help="Seed of the first episode.")] = 0,
    height: Annotated[int, typer.Option(**POSITIVE, help=HEIGHT_HELP)] = 120,
    width: Annotated[int, typer.Option(**POSITIVE, help=WIDTH_HELP)] = 160,
    quiet: o.QuietOption = False,
    verbose: o.VerboseOption = False,
) -> None:
    reporter = Reporter(quiet, verbose)
    with guard(reporter):
        from diagd_cli.train.record import record

        request = RecordRequest(
            out=out,
            scenarios=tuple(name.strip() for name in scenarios.split(",")),
            episodes=episodes,
            frames=frames,
            seed=seed,
            height=height,
            width=width,
        )
        record(request, reporter)
        reporter.result(str(out))

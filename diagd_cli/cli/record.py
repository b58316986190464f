"""diagd record: first-person clips with actions from Freedoom, to train on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diagd_cli.cli import options as o
from diagd_cli.cli.console import Reporter
from diagd_cli.cli.guard import guard

SCENARIOS = "my_way_home,health_gathering_supreme"
HELP = """Record clips and their per-frame actions from ViZDoom's Freedoom levels (extra: world).

Every 12th episode goes to OUT/val, the rest to OUT/train; each is an MP4 and a JSONL of the same name.

[bold]Examples[/]

  diagd record --out data                            # 420 clips, 12 minutes

  diagd record --out try --episodes 4 --frames 40    # a look
"""


def record(
    out: Annotated[Path, typer.Option(help="Folder to write into.")],
    episodes: Annotated[int, typer.Option(**o.POSITIVE, help="Clips in all.")] = 420,
    frames: Annotated[int, typer.Option(**o.number(int, "a whole number, 2 or more", 2), help="Frames a clip.")] = 160,
    scenarios: Annotated[str, typer.Option(help="Levels, by comma.")] = SCENARIOS,
    seed: Annotated[int, typer.Option(**o.COUNT, help="Seed of the first episode.")] = 0,
    height: Annotated[int, typer.Option(**o.POSITIVE, help="Pixels; a whole fraction of 480.")] = 120,
    width: Annotated[int, typer.Option(**o.POSITIVE, help="Pixels; a whole fraction of 640.")] = 160,
    quiet: o.QuietOption = False,
    verbose: o.VerboseOption = False,
) -> None:
    reporter = Reporter(quiet, verbose)
    with guard(reporter):
        from diagd_cli.train.record import record as run

        with reporter.bar("recording", episodes, "clips") as bar:
            run(out, [s.strip() for s in scenarios.split(",")], episodes, frames, seed, height, width,
                on_episode=lambda done, total: bar.update(done))  # fmt: skip
        reporter.result(str(out))

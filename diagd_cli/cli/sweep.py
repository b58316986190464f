"""diagd sweep: many k and d over the same clips, quality against speed, and the fastest within a
bound.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from diagd_cli.cli import groups as g
from diagd_cli.cli import options as o
from diagd_cli.cli.compare import command_line
from diagd_cli.cli.console import Reporter
from diagd_cli.cli.decodings import parse_decoding
from diagd_cli.cli.eval import trials_of
from diagd_cli.cli.guard import guard
from diagd_cli.cli.kinds import FILE, check_window_word, numbers, one_of, option
from diagd_cli.cli.layout import lay_out, width_of, wrapped
from diagd_cli.cli.settings import machine_of, merge
from diagd_cli.cli.threads import set_threads
from diagd_cli.schedule.decoding import STAND_INS

if TYPE_CHECKING:
    from diagd_cli.jobs.settings import Settings
    from diagd_cli.jobs.sweeping.combinations import Combinations
    from diagd_cli.preset import Preset
    from diagd_cli.report.sweep import SweepReport
    from diagd_cli.schedule.standin import StandIn

HELP = """Run many decodings over clips, to choose k and d: quality against speed.

Every pair of --k and --d, the decodings of --decodings and NTP continue every
clip, and are measured as in diagd eval. Those that no other one beats in both
speed and NLL are the front. Started again, it goes on where it was; with more
values, it adds to what is there. The folder gets sweep.html, .png, .csv and
.json. See docs/choosing.md.

[bold]Examples[/]

  diagd sweep clips/*.mp4 --out sweep

  diagd sweep clips/*.mp4 --k 1,2,4 --d 1,10,40 --batch 4 --out sweep

  diagd sweep clips/*.mp4 --recommend 'nll<=+2%,psnr>=-0.5' --out sweep

  diagd sweep *.mp4 --out s --recommend 'nll<=+2%' --write-preset fast.yaml
"""

REPAIRS = {"yes": True, "no": False}


@g.grouped
def sweep(
    ctx: typer.Context,
    clips: Annotated[
        list[Path],
        typer.Argument(help="Video files, longer than context and new frames together."),
    ],
    *,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the results.")],
    k: Annotated[str, option("--k", "-k", help="By comma.")] = "1,2,4",
    d: Annotated[
        str | None, option("--d", "-d", help="By comma; by default 1, half a row and a row.")
    ] = None,
    decodings: Annotated[
        str, typer.Option(help="More, by comma, each NAME, NAME:K or NAME:K:D; '' is none.")
    ] = "spatial",
    stand_ins: Annotated[
        str | None, typer.Option(help="By comma; the preset's by default.")
    ] = None,
    repairs: Annotated[
        str, typer.Option(help="Replace stand-ins by the truth: yes, no, or both by comma.")
    ] = "yes",
    windows: Annotated[
        str | None, typer.Option(help="slide, roll, or both by comma; the preset's by default.")
    ] = None,
    preset: o.PresetOption = "freedoom",
    base_preset: Annotated[
        str | None,
        typer.Option(
            help="Whose next-token prediction scores the tokens; the preset itself by default."
        ),
    ] = None,
    lengths: g.Lengths,
    sampling: g.SamplingOptions,
    trials: g.Trials,
    recommend: Annotated[
        str | None,
        typer.Option(
            help=(
                "Name the fastest within bounds on the difference to NTP: nll, psnr, ssim, actions."
            )
        ),
    ] = None,
    write_preset: Annotated[
        Path | None,
        typer.Option(
            **FILE,
            help="Write the preset with what is recommended as its default: a .yaml file.",
        ),
    ] = None,
    chart: Annotated[
        bool, typer.Option("--chart/--no-chart", help="Draw sweep.png, with matplotlib.")
    ] = True,
    machine: g.MachineOptions,
    cluster: g.ClusterOptions,
    force: o.ForceOption = False,
    messages: g.OutputOptions,
) -> None:
    reporter = Reporter(messages.quiet, messages.verbose)
    with guard(reporter):
        from diagd_cli.cli.rows import cluster_of
        from diagd_cli.jobs.sweeping.bounds import parse_bounds
        from diagd_cli.jobs.sweeping.request import PAGE, Sweeping
        from diagd_cli.jobs.sweeping.request import sweep as run
        from diagd_cli.preset_files import load_preset

        workers = cluster_of(cluster, machine.threads)
        chosen = load_preset(preset)
        settings = merge(chosen, lengths, sampling=sampling, seed=trials.seed, method="ntp")
        sweeping = Sweeping(
            preset=chosen,
            settings=settings,
            clips=clips,
            combinations=combinations(
                chosen, settings, k, d, decodings, stand_ins, repairs, windows
            ),
            out=out,
            trials=trials_of(trials),
            machine=machine_of(machine),
            bounds=parse_bounds(recommend) if recommend else [],
            base=load_preset(base_preset) if base_preset else None,
            write_preset=write_preset,
            chart=chart,
            force=force,
            command=command_line(ctx, trials.seed),
        )
        if machine.threads and not workers:
            sweeping.check()  # before torch is imported, which takes long
            set_threads(machine.threads)
        report = run(sweeping, reporter, lambda report: show(report, reporter), workers)
        if messages.json:
            reporter.result(report.facts())
            return
        reporter.result(str(out / PAGE))
        for line in report.recommended.text if report.recommended else ():
            reporter.result("\n".join(wrapped(line, width_of(sys.stdout))))
        if write_preset:
            reporter.result(str(write_preset))


def show(report: SweepReport, reporter: Reporter) -> None:
    """The table on stderr."""
    from diagd_cli.report.sweep_table import table

    if not reporter.quiet:
        reporter.note(lay_out(table(report), width_of(sys.stderr)))


def combinations(
    preset: Preset,
    settings: Settings,
    k: str,
    d: str | None,
    names: str,
    stand_ins: str | None,
    repairs: str,
    windows: str | None,
) -> Combinations:
    """What is asked for, as far as it fits the grid. Raises UsageError."""
    from diagd_cli.jobs.sweeping.combinations import check_any, combine, in_window

    grid, default, context = preset.grid, preset.decoding.decoding, preset.latents(settings.context)
    named = [
        parse_decoding(name, default, words=False) for name in names.split(",") if name.strip()
    ]
    rows, diagonals = (
        numbers(k, 1, "--k"),
        numbers(d or f"1,{max(1, grid.w // 2)},{grid.w}", 1, "--d"),
    )
    pairs = [
        replace(default, method="diagd", k=row, d=diagonal)
        for row in rows
        for diagonal in diagonals
    ]
    check_any(pairs, grid, context)
    kinds = [name.strip() for name in (stand_ins or default.stand_in).split(",")]
    for name in kinds:
        one_of(name, STAND_INS, "'--stand-ins'")
    wanted = [name.strip() for name in repairs.split(",")]
    for name in wanted:
        one_of(name, tuple(REPAIRS), "'--repairs'")
    kept = [name.strip() for name in (windows or default.window_word).split(",")]
    for name in kept:
        check_window_word(name, "'--windows'")
        preset.check_window(in_window(default, name))
    return combine(
        [*named, *pairs],
        cast("list[StandIn]", kinds),
        [REPAIRS[name] for name in wanted],
        grid,
        context,
        kept,
    )

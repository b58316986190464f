"""diagd sweep: many k and d over the same clips, quality against speed, and the fastest within a bound."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diagd_cli.cli import options as o
from diagd_cli.cli.compare import command_line
from diagd_cli.cli.console import Reporter
from diagd_cli.cli.decodings import parse_decoding
from diagd_cli.cli.eval import results_of
from diagd_cli.cli.guard import guard
from diagd_cli.cli.layout import lay_out, width_of, wrapped
from diagd_cli.cli.settings import machine_of, merge
from diagd_cli.cli.threads import set_threads
from diagd_cli.errors import UsageError
from diagd_cli.files.paths import path_text
from diagd_cli.inputs import clip_inputs, preset_inputs
from diagd_cli.schedule.decoding import STAND_INS, Decoding

if TYPE_CHECKING:
    from diagd_cli.files.outputs import Named
    from diagd_cli.jobs.evaluate.run import Evaluation
    from diagd_cli.jobs.settings import Settings
    from diagd_cli.jobs.sweep.bounds import Choice
    from diagd_cli.jobs.sweep.combinations import Combinations
    from diagd_cli.preset import Preset

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

FILES = ("sweep.csv", "sweep.json", "sweep.png", "sweep.html")
REPAIRS = {"yes": True, "no": False}


@o.grouped
def sweep(
    ctx: typer.Context,
    clips: Annotated[list[Path], typer.Argument(help="Video files, longer than context and new frames together.")],
    *,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the results.")],
    k: Annotated[str, o.option("--k", "-k", help="By comma.")] = "1,2,4",
    d: Annotated[str | None, o.option("--d", "-d", help="By comma; by default 1, half a row and a row.")] = None,
    decodings: Annotated[
        str, typer.Option(help="More, by comma, each NAME, NAME:K or NAME:K:D; '' is none.")
    ] = "spatial",
    stand_ins: Annotated[str | None, typer.Option(help="By comma; the preset's by default.")] = None,
    repairs: Annotated[str, typer.Option(help="Replace stand-ins by the truth: yes, no, or both by comma.")] = "yes",
    preset: o.PresetOption = "freedoom",
    base_preset: Annotated[
        str | None, typer.Option(help="Whose next-token prediction scores the tokens; the preset itself by default.")
    ] = None,
    lengths: o.Lengths,
    draw: o.SamplingOptions,
    trials: o.Trials,
    recommend: Annotated[
        str | None,
        typer.Option(help="Name the fastest within bounds on the difference to NTP: nll, psnr, ssim, actions."),
    ] = None,
    write_preset: Annotated[
        Path | None,
        typer.Option(**o.FILE, help="Write the preset with what is recommended as its default: a .yaml file."),
    ] = None,
    chart: Annotated[bool, typer.Option("--chart/--no-chart", help="Draw sweep.png, with matplotlib.")] = True,
    machine: o.MachineOptions,
    force: o.ForceOption = False,
    tell: o.OutputOptions,
) -> None:
    reporter = Reporter(tell.quiet, tell.verbose)
    with guard(reporter):
        from diagd_cli.clip.read import check_clip
        from diagd_cli.jobs.prompts import find_prompts
        from diagd_cli.jobs.sweep.bounds import advise, parse_bounds
        from diagd_cli.preset import load_preset

        chosen = load_preset(preset)
        settings = merge(chosen, lengths, sampling=draw, seed=trials.seed, method="ntp")
        combined = combinations(chosen, settings, k, d, decodings, stand_ins, repairs)
        bounds = parse_bounds(recommend) if recommend else []
        base = load_preset(base_preset) if base_preset else chosen
        reads = preset_inputs(chosen, base, folder=machine.weights_dir) + clip_inputs(chosen, clips)
        check(out, chart, write_preset, bool(bounds), reads, force)
        for clip in clips:
            check_clip(clip, whole=True)
        from diagd_cli.jobs.evaluate.judged import read_case
        from diagd_cli.jobs.models import machine_facts
        from diagd_cli.jobs.sweep.run import results, run  # and torch, which takes long

        for name, reason in combined.skipped:
            reporter.note(f"left out: {name}: {reason}")
        prompts = find_prompts(chosen, clips)
        prompts.embed(reporter)
        evaluation = prepare(chosen, base, settings, combined, trials, out, machine, reporter)
        if evaluation.models.inverse is None and any(bound.name == "actions" for bound in bounds):
            raise UsageError(f"The preset {chosen.name} has nothing that reads actions", "Bound another measure")
        groups = trials.groups(clips)
        cases = ([read_case(path, chosen, settings, trials.start, prompts) for path in group] for group in groups)
        run(evaluation, cases, chosen.latents(settings.context))
        report = {"command": command_line(ctx, trials.seed), "preset": chosen.name}
        report |= {"base_preset": evaluation.models.base.preset.name, "context": settings.context}
        report |= {
            "frames": settings.frames,
            "sampling": settings.sampling.facts,
            "clips": [path_text(c) for c in clips],
        }
        report |= {"seeds": evaluation.seeds, "batch": trials.batch, "skipped": dict(combined.skipped)}
        report |= {**results(evaluation), **machine_facts(evaluation.models.loaded)}
        choice, report["recommended"] = advise(report["rows"], bounds, len(clips)) if bounds else (None, None)
        show(report, reporter, out, chart)
        if write_preset:
            save(choice, evaluation, write_preset, settings, machine.weights_dir, reporter)
        if tell.json:
            reporter.result(report)
            return
        told = report["recommended"]["text"] if choice else []
        reporter.result(str(out / "sweep.html"))
        for line in told:
            reporter.result("\n".join(wrapped(line, width_of(sys.stdout))))
        if write_preset:
            reporter.result(str(write_preset))


def combinations(
    preset: Preset, settings: Settings, k: str, d: str | None, names: str, stand_ins: str | None, repairs: str
) -> Combinations:
    """What is asked for, as far as it fits the grid. Raises UsageError."""
    from diagd_cli.jobs.sweep.combinations import check_any, combine

    grid, default, context = preset.grid, preset.decoding.decoding, preset.latents(settings.context)
    named = [parse_decoding(name, default, words=False) for name in names.split(",") if name.strip()]
    rows, diagonals = o.numbers(k, 1, "--k"), o.numbers(d or f"1,{max(1, grid.w // 2)},{grid.w}", 1, "--d")
    pairs = [replace(default, method="diagd", k=row, d=diagonal) for row in rows for diagonal in diagonals]
    check_any(pairs, grid, context)
    kinds = [name.strip() for name in (stand_ins or default.stand_in).split(",")]
    for name in kinds:
        o.one_of(name, STAND_INS, "'--stand-ins'")
    wanted = [name.strip() for name in repairs.split(",")]
    for name in wanted:
        o.one_of(name, tuple(REPAIRS), "'--repairs'")
    return combine([*named, *pairs], kinds, [REPAIRS[name] for name in wanted], grid, context)


def check(
    out: Path, chart: bool, write_preset: Path | None, bounded: bool, reads: list[Named], force: bool
) -> None:  # fmt: skip
    """Refuse, before any work is done, what cannot be written or drawn. Raises DiagdError."""
    from diagd_cli.files.outputs import check_free, check_outputs
    from diagd_cli.report.sweep_chart import check as check_chart

    if write_preset:
        check_preset(write_preset, bounded)
        check_free(write_preset, force)
    presets = [(write_preset, "the new preset")] if write_preset else []
    check_outputs(results_of(out, FILES) + presets, reads, instead="Choose another folder with --out, or another name")
    if chart:
        check_chart()


def check_preset(write_preset: Path, bounded: bool) -> None:
    """Raise UsageError where no preset can be written under this name, or none will be chosen."""
    from diagd_cli.preset import is_plain

    if not bounded:
        raise UsageError("--write-preset needs a choice", "Give the bounds with --recommend, such as 'nll<=+2%'")
    if write_preset.suffix not in (".yaml", ".yml"):
        raise UsageError(f"--write-preset is {str(write_preset)!r}", "Name a .yaml file")
    if not is_plain(write_preset.stem):
        raise UsageError(f"No preset can be called {write_preset.stem!r}", "Give --write-preset another file name")


def prepare(
    preset: Preset, base: Preset, settings: Settings, combined: Combinations, trials: o.Trials, out: Path,
    machine: o.MachineOptions, reporter: Reporter,
) -> Evaluation:  # fmt: skip
    """The models, loaded, and the evaluation of every combination, with what `out` has of it. Raises DiagdError."""
    from diagd_cli.jobs.candidates import check_same_tokens
    from diagd_cli.jobs.evaluate.judged import decisive, load_judged
    from diagd_cli.jobs.evaluate.run import Evaluation
    from diagd_cli.jobs.evaluate.store import Store
    from diagd_cli.schedule.decoding import labels

    check_same_tokens(base, preset)
    with reporter.stage(f"loading {preset.name}"):
        set_threads(machine.threads)
        models = load_judged(preset, base, settings, machine_of(machine), batch=trials.batch)
    walks = dict(zip(labels(combined.walks, preset.grid), combined.walks, strict=True))
    store = Store(out, decisive(models, settings, trials.batch))
    return Evaluation(models, walks, trials.drawn, store, reporter.follow)


def save(
    choice: Choice, evaluation: Evaluation, path: Path, settings: Settings, folder: Path | None, reporter: Reporter
) -> None:
    """Write the preset of the choice. Raises UsageError where there is none."""
    from diagd_cli.jobs.sweep.preset import write_chosen

    if choice.row is None:
        raise UsageError(
            f"No decoding is within the bounds: {path} is not written", "Allow more, or sweep other k and d"
        )
    walk: Decoding = evaluation.walks[choice.row["label"]]
    write_chosen(path, evaluation.models.loaded.preset, walk, settings.sampling.facts, folder)
    if not walk.repair:
        reporter.note(f"A preset does not say --no-repair: give it with each use of {path}")


def show(report: dict, reporter: Reporter, out: Path, chart: bool) -> None:
    """The files in `out`, all of them or none, and the tables on stderr."""
    from diagd_cli.files.atomic import together, write_json
    from diagd_cli.report.evaluation_table import title
    from diagd_cli.report.sweep_chart import write_chart
    from diagd_cli.report.sweep_page import write_page
    from diagd_cli.report.sweep_table import table, write_csv

    about, drawn = f"Decodings of {title(report)}", out / "sweep.png" if chart else None
    with reporter.stage("drawing"), together() as held:
        write_csv(out / "sweep.csv", report["rows"])
        if drawn:
            write_chart(drawn, report["rows"], about)
        write_page(out / "sweep.html", report, about, held.at(drawn) if drawn else None)
        write_json(out / "sweep.json", report)
    if not reporter.quiet:
        reporter.note(lay_out(table(report), width_of(sys.stderr)))

"""diagd eval: how faithful decodings are, over many clips and seeds, with intervals."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diagd_cli.cli import groups as g
from diagd_cli.cli import options as o
from diagd_cli.cli.console import Reporter
from diagd_cli.cli.decodings import DECODINGS_HELP, parse_candidates
from diagd_cli.cli.guard import guard
from diagd_cli.cli.layout import lay_out, width_of
from diagd_cli.cli.settings import machine_of, merge
from diagd_cli.cli.threads import set_threads

if TYPE_CHECKING:
    from diagd_cli.jobs.evaluation.trials import Trials
    from diagd_cli.report.evaluation import EvaluationReport

HELP = """Measure the fidelity of decodings over clips and seeds, with 95% intervals.

Every clip is continued by every decoding, steered by the actions beside it, and
held against how it really goes on: PSNR and SSIM, the likelihood of the tokens
under the base model's next-token prediction, whether the actions can be read
from the frames, Frechet distances, steps and speed. See docs/evaluation.md.

[bold]Examples[/]

  diagd eval clips/*.mp4 --decodings ntp,spatial:2,diagd:2:10

  diagd eval val/*.mp4 --seeds 2 --batch 4 --out results   # can be resumed

  diagd eval clips/*.mp4 -p tuned.yaml --base-preset freedoom

  diagd eval clips/*.mp4 --i3d i3d_torchscript.pt --export-vbench videos
"""


@g.grouped
def evaluate(
    clips: Annotated[
        list[Path],
        typer.Argument(help="Video files, longer than context and new frames together."),
    ],
    *,
    decodings: Annotated[str, typer.Option(help=DECODINGS_HELP)] = "ntp,diagd",
    preset: o.PresetOption = "freedoom",
    base_preset: Annotated[
        str | None,
        typer.Option(
            help="Whose next-token prediction scores the tokens; the preset itself by default."
        ),
    ] = None,
    lengths: g.Lengths,
    order: g.DecodingOptions,
    sampling: g.SamplingOptions,
    trials: g.Trials,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", help="Folder for results.jsonl (to resume), report.json, table.md."
        ),
    ] = None,
    i3d: Annotated[
        Path | None,
        typer.Option(help="I3D as TorchScript, for FVD. It is a program: give one that you trust."),
    ] = None,
    export_vbench: Annotated[
        Path | None,
        typer.Option(
            help="Write the videos for VBench, a folder a decoding, and print what to run."
        ),
    ] = None,
    vbench_results: Annotated[
        list[Path] | None,
        typer.Option(help="VBench's result of exported videos, for the table; may be repeated."),
    ] = None,
    machine: g.MachineOptions,
    cluster: g.ClusterOptions,
    messages: g.OutputOptions,
) -> None:
    reporter = Reporter(messages.quiet, messages.verbose)
    with guard(reporter):
        from diagd_cli.cli.rows import cluster_of
        from diagd_cli.jobs.evaluation.request import Evaluating
        from diagd_cli.jobs.evaluation.request import evaluate as run
        from diagd_cli.preset_files import load_preset

        workers = cluster_of(cluster, machine.threads)
        chosen = load_preset(preset)
        settings = merge(chosen, lengths, order, sampling, trials.seed)
        evaluating = Evaluating(
            preset=chosen,
            settings=settings,
            clips=clips,
            candidates=parse_candidates(decodings, chosen, settings),
            trials=trials_of(trials),
            machine=machine_of(machine),
            base=load_preset(base_preset) if base_preset else None,
            out=out,
            i3d=i3d,
            export_vbench=export_vbench,
            vbench_results=vbench_results or [],
        )
        if machine.threads and not workers:
            evaluating.check()  # before torch is imported, which takes long
            set_threads(machine.threads)
        report = run(evaluating, reporter, workers)
        show(report, reporter, out, messages.json)


def trials_of(options: g.Trials) -> Trials:
    """Seeds, batch and first frame, as a job takes them."""
    from diagd_cli.jobs.evaluation.trials import Trials

    return Trials(options.drawn, options.batch, options.start)


def text(report: EvaluationReport, width: int | None) -> str:
    """The report for a terminal."""
    from diagd_cli.report.evaluation_table import tables

    return "\n\n".join(lay_out(table, width) for table in tables(report))


def show(report: EvaluationReport, reporter: Reporter, out: Path | None, json: bool) -> None:
    """Tables on stderr, and the result on stdout: JSON, or the path of the Markdown, or that
    itself.

    On a terminal the tables stand for the Markdown, whose lines would not fit.
    """
    from diagd_cli.jobs.evaluation.request import TABLE
    from diagd_cli.report.evaluation_table import markdown

    document = not (out or json) and not sys.stdout.isatty()  # on a terminal the tables say it all
    if not reporter.quiet and (out or json or document):
        reporter.note(text(report, width_of(sys.stderr)))
    for command in report.vbench_commands or ():
        reporter.note(command, whole=True)
    if json or out:
        reporter.result(report.facts() if json else str(Path(out or "") / TABLE))
    else:
        reporter.result(
            markdown(report).rstrip() if document else text(report, width_of(sys.stdout))
        )

"""diagd eval: how faithful decodings are, over many clips and seeds, with intervals."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diagd_cli.cli import options as o
from diagd_cli.cli.console import Reporter
from diagd_cli.cli.decodings import DECODINGS_HELP, parse_candidates
from diagd_cli.cli.guard import guard
from diagd_cli.cli.layout import lay_out, width_of
from diagd_cli.cli.settings import machine_of, merge
from diagd_cli.cli.threads import set_threads
from diagd_cli.files.paths import path_text
from diagd_cli.inputs import clip_inputs, preset_inputs

if TYPE_CHECKING:
    from collections.abc import Iterable

    from diagd_cli.files.outputs import Named

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

FILES = ("report.json", "table.md")


@o.grouped
def evaluate(
    clips: Annotated[list[Path], typer.Argument(help="Video files, longer than context and new frames together.")],
    *,
    decodings: Annotated[str, typer.Option(help=DECODINGS_HELP)] = "ntp,diagd",
    preset: o.PresetOption = "freedoom",
    base_preset: Annotated[
        str | None, typer.Option(help="Whose next-token prediction scores the tokens; the preset itself by default.")
    ] = None,
    lengths: o.Lengths,
    walk: o.DecodingOptions,
    draw: o.SamplingOptions,
    trials: o.Trials,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder for results.jsonl (to resume), report.json, table.md.")
    ] = None,
    i3d: Annotated[
        Path | None, typer.Option(help="I3D as TorchScript, for FVD. It is a program: give one that you trust.")
    ] = None,
    export_vbench: Annotated[
        Path | None, typer.Option(help="Write the videos for VBench, a folder a decoding, and print what to run.")
    ] = None,
    vbench_results: Annotated[
        list[Path] | None, typer.Option(help="VBench's result of exported videos, for the table; may be repeated.")
    ] = None,
    machine: o.MachineOptions,
    tell: o.OutputOptions,
) -> None:
    reporter = Reporter(tell.quiet, tell.verbose)
    with guard(reporter):
        from diagd_cli.clip.read import check_clip
        from diagd_cli.files.outputs import check_outputs
        from diagd_cli.jobs.candidates import others_of
        from diagd_cli.jobs.evaluate import vbench
        from diagd_cli.jobs.prompts import find_prompts
        from diagd_cli.preset import load_preset

        chosen = load_preset(preset)
        settings = merge(chosen, lengths, walk, draw, trials.seed)
        asked = parse_candidates(decodings, chosen, settings)
        folders = [vbench.folder_of(one.facts(chosen, settings.context)) for one in asked]
        base = load_preset(base_preset) if base_preset else chosen
        judged = vbench.read_results(vbench_results or [], folders)
        writes = results_of(out, FILES) if out else []
        if export_vbench:
            writes += exports(export_vbench, folders, clips, trials.drawn)
        reads = preset_inputs(chosen, base, *others_of(asked), folder=machine.weights_dir) + clip_inputs(chosen, clips)
        reads += [(i3d, "I3D")] if i3d else []
        reads += [(path, "VBench's result") for path in vbench_results or []]
        check_outputs(writes, reads, instead="Choose other folders")
        from diagd_cli.jobs.candidates import check_same_tokens
        from diagd_cli.jobs.evaluate.i3d import I3d  # and torch, which takes long
        from diagd_cli.jobs.evaluate.judged import decisive, load_judged, read_case
        from diagd_cli.jobs.evaluate.run import Evaluation
        from diagd_cli.jobs.evaluate.store import Store
        from diagd_cli.jobs.models import load_others, machine_facts

        check_same_tokens(base, chosen)
        for clip in clips:
            check_clip(clip, whole=True)
        prompts = find_prompts(chosen, clips)
        prompts.embed(reporter)
        with reporter.stage(f"loading {chosen.name}"):
            batch = min(trials.batch, len(clips))
            set_threads(machine.threads)
            models = load_judged(chosen, base, settings, machine_of(machine), batch=batch, beside=others_of(asked))
            others = load_others(asked, models.loaded, machine.weights_dir)
            judge = I3d(i3d, models.loaded.device) if i3d else None
        evaluation = Evaluation(
            models, {one.label: one.decoding for one in asked}, trials.drawn,
            Store(out, decisive(models, settings, trials.batch)), reporter.follow, judge, export_vbench, others=others,
        )  # fmt: skip
        for group in trials.groups(clips):
            evaluation.add([read_case(path, chosen, settings, trials.start, prompts) for path in group])
        about = {
            "preset": chosen.name,
            "base_preset": base.name,
            "frames": settings.frames,
            "sampling": settings.sampling.facts,
        }
        about |= {"clips": [path_text(clip) for clip in clips], "seeds": evaluation.seeds, "batch": trials.batch}
        report = {**about, **evaluation.report(judged), **machine_facts(models.loaded)}
        if export_vbench:
            report["vbench_commands"] = [path_text(line) for line in vbench.commands(export_vbench, folders)]
        show(report, reporter, out, tell.json)


def results_of(out: Path, names: Iterable[str]) -> list[Named]:
    """What an evaluation writes into its folder: its store, and files of these names."""
    from diagd_cli.jobs.evaluate.store import files

    return files(out) + [(out / name, "the report") for name in names]


def exports(root: Path, folders: list[str], clips: list[Path], seeds: list[int]) -> list[Named]:
    """The videos for VBench. Raises OutputError where their folders hold others."""
    from diagd_cli.jobs.evaluate.vbench import check_export, video_name

    names = {video_name(n, clip, seed) for n, clip in enumerate(clips) for seed in seeds}
    for folder in folders:
        check_export(root / folder, names)
    return [(root / folder / name, "a video for VBench") for folder in folders for name in sorted(names)]


def text(report: dict, width: int | None) -> str:
    """The report for a terminal."""
    from diagd_cli.report.evaluation_table import tables

    return "\n\n".join(lay_out(table, width) for table in tables(report))


def show(report: dict, reporter: Reporter, out: Path | None, json: bool) -> None:
    """Tables on stderr, files in `out`, and the result on stdout: JSON, or the path of the Markdown, or that itself.

    On a terminal the tables stand for the Markdown, whose lines would not fit.
    """
    from diagd_cli.files.atomic import together, write_json, write_text
    from diagd_cli.report.evaluation_table import markdown

    document = not (out or json) and not sys.stdout.isatty()  # on a terminal the tables say it all
    if not reporter.quiet and (out or json or document):
        reporter.note(text(report, width_of(sys.stderr)))
    for command in report.get("vbench_commands", ()):
        reporter.note(command, whole=True)
    if out:
        with together():
            write_json(out / "report.json", report)
            write_text(out / "table.md", markdown(report))
    if json or out:
        reporter.result(report if json else str(out / "table.md"))
    else:
        reporter.result(markdown(report).rstrip() if document else text(report, width_of(sys.stdout)))

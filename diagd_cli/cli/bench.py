"""diagd bench: how fast a preset decodes on this machine, and how far that is from what the machine
allows.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diagd_cli.cli import groups as g
from diagd_cli.cli import options as o
from diagd_cli.cli.console import Reporter
from diagd_cli.cli.decodings import parse_decoding
from diagd_cli.cli.guard import guard
from diagd_cli.cli.kinds import FILE, POSITIVE
from diagd_cli.cli.layout import lay_out, width_of, wrapped
from diagd_cli.cli.settings import merge
from diagd_cli.cli.threads import THREADS

if TYPE_CHECKING:
    from diagd_cli.report.bench import BenchReport

HELP = """Time decodings of a preset, and compare them with what this machine allows.

No clip is needed: the context is codes drawn at random from the seed. Load,
prefill, decode and pixels are timed apart; the medians of the repeats count.

The machine is measured too: how fast it reads memory and multiplies. A step
has to read the weights and the cache and to compute its products; the least
time for that, over the time taken, is the column "limit". "ideal" is the
speed-up over what the number of steps promises, and a speed-up is over NTP at
the same dtype and batch size. Peak memory on a CPU is the process's so far.

[bold]Examples[/]

  diagd bench                        # the shipped preset, NTP and DiagD

  diagd bench --decodings ntp,spatial:2,diagd:2:10 --batch 1,4

  diagd bench --frames 4 --output speed.json --plot speed.png

  diagd bench -p cosmos-4b --random-weights --steps 3 --no-pixels
"""


@g.grouped
def bench(
    *,
    preset: o.PresetOption = "freedoom",
    decodings: Annotated[
        str | None,
        typer.Option(
            help="By comma, each NAME, NAME:K or NAME:K:D; NTP and the preset's by default."
        ),
    ] = None,
    batch: Annotated[str, typer.Option(help="Clips at once; several numbers by comma.")] = "1",
    dtypes: Annotated[
        str,
        typer.Option(
            help="auto, float32, bfloat16 or float16, with weights of 8 bits as float32+int8; "
            "several by comma."
        ),
    ] = "auto",
    lengths: g.Lengths,
    repeats: Annotated[
        int, typer.Option(**POSITIVE, help="Runs of each, after a warm-up; the median counts.")
    ] = 3,
    steps: Annotated[
        int | None,
        typer.Option(
            **POSITIVE,
            help="Time this many steps of each only, after the first; the rest is extrapolated.",
        ),
    ] = None,
    pixels: Annotated[
        bool, typer.Option("--pixels/--no-pixels", help="Time the tokenizer's decoder too.")
    ] = True,
    seed: o.SeedOption = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", **FILE, help="Write the report as JSON.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(**FILE, help="Write a PNG: speed-up against steps.")
    ] = None,
    device: o.DeviceOption = "auto",
    compile: o.CompileOption = False,
    threads: o.ThreadsOption = 0,
    weights_dir: o.WeightsDirOption = None,
    random_weights: o.RandomWeightsOption = False,
    force: o.ForceOption = False,
    messages: g.OutputOptions,
) -> None:
    reporter = Reporter(messages.quiet, messages.verbose)
    with guard(reporter):
        from diagd_cli.jobs.benchmark.request import Benchmark
        from diagd_cli.jobs.benchmark.request import bench as run
        from diagd_cli.jobs.settings import Machine
        from diagd_cli.preset_files import load_preset

        chosen = load_preset(preset)
        settings = merge(chosen, lengths, seed=seed)
        names = (decodings or ",".join(dict.fromkeys(["ntp", chosen.decoding.method]))).split(",")
        benchmark = Benchmark(
            preset=chosen,
            settings=settings,
            decodings=[parse_decoding(name, settings.decoding) for name in names],
            batches=parse_batches(batch),
            dtypes=dtypes.split(","),
            machine=Machine(
                device, weights_dir=weights_dir, random_weights=random_weights, compile=compile
            ),
            repeats=repeats,
            steps=steps,
            pixels=pixels,
            output=output,
            plot=plot,
            force=force,
        )
        benchmark.check()  # before torch is imported, which takes long
        THREADS.fix(threads)  # what is measured is this machine, whoever else is using it
        report = run(benchmark, reporter)
        reporter.result(report.facts() if messages.json else text(report, width_of(sys.stdout)))


def text(report: BenchReport, width: int | None) -> str:
    """The report for a terminal: the machine in one line, and the timings below."""
    from diagd_cli.report.bench_table import describe, table

    return "\n".join([*wrapped(describe(report), width), lay_out(table(report), width)])


def parse_batches(text: str) -> list[int]:
    """Batch sizes by comma, each once. Raises typer.BadParameter."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise typer.BadParameter(
            f"{text!r} is not whole numbers above 0, by comma", param_hint="'--batch'"
        )
    return list(dict.fromkeys(map(int, parts)))

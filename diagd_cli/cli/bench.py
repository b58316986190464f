"""diagd bench: how fast a preset decodes on this machine, and how far that is from what the machine allows."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated

import typer

from diagd_cli.cli import options as o
from diagd_cli.cli.console import Reporter
from diagd_cli.cli.decodings import parse_decoding
from diagd_cli.cli.guard import guard
from diagd_cli.cli.layout import lay_out, width_of, wrapped
from diagd_cli.cli.settings import merge
from diagd_cli.cli.threads import THREADS
from diagd_cli.errors import UsageError
from diagd_cli.inputs import preset_inputs

if TYPE_CHECKING:
    import numpy as np
    import torch

    from diagd_cli.files.outputs import Named
    from diagd_cli.jobs.benchmark.measure import Timing
    from diagd_cli.jobs.settings import Settings
    from diagd_cli.preset import Preset
    from diagd_cli.schedule.decoding import Decoding

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


@o.grouped
def bench(
    *,
    preset: o.PresetOption = "freedoom",
    decodings: Annotated[
        str | None, typer.Option(help="By comma, each NAME, NAME:K or NAME:K:D; NTP and the preset's by default.")
    ] = None,
    batch: Annotated[str, typer.Option(help="Clips at once; several numbers by comma.")] = "1",
    dtypes: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16; several by comma.")] = "auto",
    lengths: o.Lengths,
    repeats: Annotated[int, typer.Option(**o.POSITIVE, help="Runs of each, after a warm-up; the median counts.")] = 3,
    steps: Annotated[
        int | None,
        typer.Option(
            **o.POSITIVE, help="Time this many steps of each only, after the first; the rest is extrapolated."
        ),
    ] = None,
    pixels: Annotated[bool, typer.Option("--pixels/--no-pixels", help="Time the tokenizer's decoder too.")] = True,
    seed: o.SeedOption = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", **o.FILE, help="Write the report as JSON.")] = None,
    plot: Annotated[Path | None, typer.Option(**o.FILE, help="Write a PNG: speed-up against steps.")] = None,
    device: o.DeviceOption = "auto",
    compile: o.CompileOption = False,
    threads: o.ThreadsOption = 0,
    weights_dir: o.WeightsDirOption = None,
    random_weights: o.RandomWeightsOption = False,
    force: o.ForceOption = False,
    tell: o.OutputOptions,
) -> None:
    reporter = Reporter(tell.quiet, tell.verbose)
    with guard(reporter):
        from diagd_cli.files.atomic import together, write_json
        from diagd_cli.preset import load_preset
        from diagd_cli.report.bench_table import describe
        from diagd_cli.weights.memory import require

        chosen = load_preset(preset)
        settings = merge(chosen, lengths, seed=seed)
        texts = (decodings or ",".join(dict.fromkeys(["ntp", chosen.decoding.method]))).split(",")
        walks = [parse_decoding(text, settings.decoding) for text in texts]
        for walk in walks:
            walk.resolve(chosen.grid, chosen.latents(settings.context))
        batches = parse_batches(batch)
        reads = preset_inputs(chosen, folder=weights_dir, weights=not random_weights)
        check(output, plot, reads, force)
        THREADS.fix(threads)  # what is measured is this machine, whoever else is using it
        where, kinds = machine_of(device, dtypes, chosen)
        for kind in kinds:
            require(chosen, where, batch=max(batches), dtype=kind, frames=settings.context + settings.frames)
        cases = [(walk, size) for size in batches for walk in walks]
        runs = Runs(reporter, chosen, settings, cases, repeats, steps, pixels, compile)
        for kind in kinds:
            runs.add(where, kind, weights_dir, random_weights)
        facts = runs.report(where, random_weights)
        with together():
            if output:
                write_json(output, facts)
            if plot:
                from diagd_cli.report.bench_plot import write_plot

                write_plot(plot, facts["rows"], f"{chosen.name}, {settings.frames} new frames\n{describe(facts)}")
        reporter.result(facts if tell.json else text(facts, width_of(sys.stdout)))


def text(facts: dict, width: int | None) -> str:
    """The report for a terminal: the machine in one line, and the timings below."""
    from diagd_cli.report.bench_table import describe, table

    return "\n".join([*wrapped(describe(facts), width), lay_out(table(facts), width)])


def parse_batches(text: str) -> list[int]:
    """Batch sizes by comma, each once. Raises typer.BadParameter."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise typer.BadParameter(f"{text!r} is not whole numbers above 0, by comma", param_hint="'--batch'")
    return list(dict.fromkeys(map(int, parts)))


def check(output: Path | None, plot: Path | None, reads: list[Named], force: bool) -> None:
    """Refuse, before any work is done, files that cannot be written. Raises DiagdError."""
    from diagd_cli.files.outputs import check_outputs

    writes = [(path, what) for path, what in ((output, "the report"), (plot, "the plot")) if path]
    check_outputs(writes, reads, force=force, instead="Choose another name for it")
    if plot:
        from diagd_cli.report.figure import figure_class

        if plot.suffix.lower() != ".png":
            raise UsageError(f"--plot is {str(plot)!r}", "Name a .png file")
        figure_class("--plot")


def machine_of(device: str, dtypes: str, preset: Preset) -> tuple[torch.device, list[torch.dtype]]:
    """The device and the dtypes asked for, each once. Raises DiagdError."""
    from diagd_cli.device import choose_device, choose_dtype
    from diagd_cli.weights.parameters import transformer_parameters

    where = choose_device(device)
    size = transformer_parameters(preset.transformer, preset.positions)
    return where, list(dict.fromkeys(choose_dtype(name.strip(), where, size) for name in dtypes.split(",")))


@dataclass
class Runs:
    """The timings of one call: every dtype, and in it every case, a decoding and a batch size."""

    reporter: Reporter
    preset: Preset
    settings: Settings
    cases: list[tuple[Decoding, int]]
    repeats: int
    steps: int | None
    pixels: bool
    compile: bool
    timings: list[Timing] = field(default_factory=list)
    models: list[dict] = field(default_factory=list)

    def add(self, device: torch.device, dtype: torch.dtype, folder: Path | None, random: bool) -> None:
        """Load the models in one dtype, time everything with them, and let them go."""
        from diagd_cli.jobs.benchmark.measure import draw_codes, time_pixels
        from diagd_cli.pipeline import load, warm_up

        s = self.settings
        with self.reporter.stage(f"loading {self.preset.name}"):
            seed = s.seed if random else None
            loaded = load(
                self.preset, device, dtype, folder=folder, random=seed, pixels=self.pixels, compile=self.compile
            )
        codes = draw_codes(self.preset, s.context, s.seed)
        made = None
        if self.compile:
            with self.reporter.stage("compiling"):
                for walk, batch in self.cases:
                    loaded = warm_up(loaded, s.request(walk), len(codes), batch)
        for walk, batch in self.cases:
            timing = self.time(loaded, codes, walk, batch)
            self.timings.append(timing)
            made = timing.codes
        model = {"dtype": str(dtype).removeprefix("torch."), "load_seconds": loaded.seconds, "pixels": None}
        model["compile_seconds"] = loaded.compile_seconds
        if self.pixels:
            with self.reporter.stage("decoding pixels"):
                shown = draw_codes(self.preset, s.context + s.frames, s.seed) if made is None else made
                seconds = time_pixels(loaded, shown, self.repeats)
            count = 1 + (len(shown) - 1) * self.preset.tokenizer.temporal
            model["pixels"] = {"seconds": seconds, "frames": count, "frames_per_second": count / median(seconds)}
        self.models.append(model)

    def time(self, loaded, codes: np.ndarray, walk: Decoding, batch: int) -> Timing:
        """One decoding at one batch size, followed on stderr."""
        from diagd_cli.jobs.benchmark.measure import measure, plans_of, steps_run

        plans = plans_of(self.preset, len(codes), self.settings.frames, walk)
        total = steps_run(plans, self.repeats, self.steps)
        name = f"{walk.label(self.preset.grid)}, batch {batch}, {str(loaded.dtype).removeprefix('torch.')}"
        request, done = self.settings.request(walk), 0
        with self.reporter.bar(name, total) as bar:

            def on_step() -> None:
                nonlocal done
                done += 1
                bar.update(done)

            return measure(loaded, codes, request, batch, repeats=self.repeats, steps=self.steps, on_step=on_step)

    def report(self, device: torch.device, random: bool) -> dict:
        """Everything, as JSON can hold it. The machine is measured last, so that peaks of memory are the model's."""
        from diagd_cli.device import DTYPES
        from diagd_cli.jobs.benchmark.machine import measure_machine
        from diagd_cli.jobs.benchmark.rows import rows_of
        from diagd_cli.versions import versions

        counts: dict = {}
        for timing in self.timings:
            counts.setdefault(DTYPES[timing.dtype], set()).add(timing.rows)
        with self.reporter.stage("measuring the machine"):
            machine = measure_machine(device, counts)
        s = self.settings
        settings = {"frames": s.frames, "context_frames": s.context, "seed": s.seed, "sampling": s.sampling.facts}
        settings |= {"repeats": self.repeats, "steps": self.steps, "context": "codes drawn at random from the seed"}
        return {
            "preset": self.preset.name,
            "weights": "random" if random else "the preset's",
            "machine": asdict(machine),
            "versions": versions(),
            "settings": settings,
            "models": self.models,
            "rows": rows_of(self.timings, self.preset, machine),
        }

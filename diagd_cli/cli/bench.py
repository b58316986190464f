"""diagd bench: how fast a preset decodes on this machine, and how far that is from what the machine allows."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated

import typer

from diagd_cli.cli import options as o
from diagd_cli.cli.app import app, guard
from diagd_cli.cli.console import Reporter
from diagd_cli.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    import torch

    from diagd_cli.bench.measure import Timing
    from diagd_cli.config import Preset
    from diagd_cli.schedule.decoding import Decoding

WIDTH = 100  # columns of the table

HELP = """Time decodings of a preset, and compare them with what this machine allows.

No clip is needed: the context is codes drawn at random from the seed. Load,
prefill, decode and pixels are timed apart, and medians of the repeats are told.

The machine is measured too: how fast it reads memory and multiplies. A step must
read the weights and the cache, and compute its products; the time for that is its
floor, and the column "limit" is the sum of the floors over the time that was taken.
"ideal" is the speed-up over the speed-up that the number of steps promises.

[bold]Examples[/]

  diagd bench                        # the shipped preset, NTP and DiagD

  diagd bench --decodings ntp,spatial:2,diagd:2:10 --batch 1,4

  diagd bench --frames 4 --output speed.json --plot speed.png

  diagd bench -p cosmos-4b --random-weights --steps 3 --no-pixels
"""


@app.command(help=HELP)
def bench(
    preset: o.PresetOption = "freedoom",
    decodings: Annotated[
        str | None, typer.Option(help="By comma, each NAME, NAME:K or NAME:K:D; NTP and the preset's by default.")
    ] = None,
    batch: Annotated[str, typer.Option(help="Clips at once; several numbers by comma.")] = "1",
    dtypes: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16; several by comma.")] = "auto",
    frames: o.FramesOption = None,
    context: o.ContextOption = None,
    repeats: Annotated[int, typer.Option(**o.POSITIVE, help="Runs of each, after a warm-up; the median counts.")] = 3,
    steps: Annotated[
        int | None,
        typer.Option(
            **o.POSITIVE, help="Time this many steps of each only, after the first; the rest is extrapolated."
        ),
    ] = None,
    pixels: Annotated[bool, typer.Option("--pixels/--no-pixels", help="Time the tokenizer's decoder too.")] = True,
    seed: o.SeedOption = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write the report as JSON.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write a PNG: speed-up against steps.")] = None,
    device: o.DeviceOption = "auto",
    threads: o.ThreadsOption = 0,
    weights_dir: o.WeightsDirOption = None,
    random_weights: o.RandomWeightsOption = False,
    force: o.ForceOption = False,
    json: o.JsonOption = False,
    quiet: o.QuietOption = False,
    verbose: o.VerboseOption = False,
) -> None:
    reporter = Reporter(quiet, verbose)
    with guard(reporter):
        from diagd_cli.config import load_preset

        chosen = load_preset(preset)
        settings = o.merge(chosen, frames, context, seed=seed)
        texts = (decodings or ",".join(dict.fromkeys(["ntp", chosen.decoding.method]))).split(",")
        walks = [o.parse_decoding(text, settings.decoding) for text in texts]
        for walk in walks:
            walk.resolve(chosen.grid, chosen.latents(settings.context))
        batches = parse_batches(batch)
        check_outputs(output, plot, force)
        o.set_threads(threads)
        where, kinds = machine_of(device, dtypes)
        require_all(chosen, settings, where, kinds, max(batches))
        cases = [(walk, size) for size in batches for walk in walks]
        runs = Runs(reporter, chosen, settings, cases, repeats, steps, pixels)
        for kind in kinds:
            runs.add(where, kind, weights_dir, random_weights)
        facts = runs.report(where, random_weights)
        if output:
            from diagd_cli.clip.write import write_json

            write_json(output, facts)
        if plot:
            from diagd_cli.bench.plot import write_plot

            write_plot(plot, facts["rows"], f"{chosen.name}, {settings.frames} new frames\n{describe(facts)}")
        reporter.result(facts if json else table(facts))


def parse_batches(text: str) -> list[int]:
    """Batch sizes by comma, each once. Raises typer.BadParameter."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise typer.BadParameter(f"{text!r} is not whole numbers above 0, by comma", param_hint="'--batch'")
    return list(dict.fromkeys(map(int, parts)))


def check_outputs(output: Path | None, plot: Path | None, force: bool) -> None:
    """Refuse, before any work is done, files that cannot be written. Raises DiagdError."""
    from diagd_cli.clip.write import check_target

    for path in filter(None, (output, plot)):
        check_target(path, force)
    if plot:
        from diagd_cli.bench.plot import figure_class

        if plot.suffix.lower() != ".png":
            raise UsageError(f"--plot is {str(plot)!r}", "Name a .png file")
        figure_class()


def machine_of(device: str, dtypes: str) -> tuple[torch.device, list[torch.dtype]]:
    """The device and the dtypes asked for, each once. Raises DiagdError."""
    from diagd_cli.engine.device import choose_device, choose_dtype

    where = choose_device(device)
    return where, list(dict.fromkeys(choose_dtype(name.strip(), where) for name in dtypes.split(",")))


def require_all(preset: Preset, settings: o.Settings, device: torch.device, kinds: list, batch: int) -> None:
    """Raise DiagdError unless the largest batch fits, in every dtype."""
    from diagd_cli.engine.memory import require

    for kind in kinds:
        require(preset, device, batch=batch, dtype=kind, frames=settings.context + settings.frames)


class Runs:
    """The timings of one call: every dtype, and in it every batch size and decoding."""

    def __init__(
        self,
        reporter: Reporter,
        preset: Preset,
        settings: o.Settings,
        cases: list[tuple[Decoding, int]],
        repeats: int,
        steps: int | None,
        pixels: bool,
    ):
        self.reporter, self.preset, self.settings, self.cases = reporter, preset, settings, cases
        self.repeats, self.steps, self.pixels = repeats, steps, pixels
        self.timings: list[Timing] = []
        self.models: list[dict] = []

    def add(self, device: torch.device, dtype: torch.dtype, folder: Path | None, random: bool) -> None:
        """Load the models in one dtype, time everything with them, and let them go."""
        from diagd_cli.bench.measure import draw_codes, load_models, time_pixels

        s = self.settings
        with self.reporter.stage(f"loading {self.preset.name}"):
            seed = s.seed if random else None
            loaded = load_models(self.preset, device, dtype, pixels=self.pixels, folder=folder, random=seed)
        codes = draw_codes(self.preset, s.context, s.seed)
        made = None
        for walk, batch in self.cases:
            timing = self.time(loaded, codes, walk, batch)
            self.timings.append(timing)
            made = timing.codes
        model = {"dtype": str(dtype).removeprefix("torch."), "load_seconds": loaded.seconds, "pixels": None}
        if self.pixels:
            with self.reporter.stage("decoding pixels"):
                shown = draw_codes(self.preset, s.context + s.frames, s.seed) if made is None else made
                seconds = time_pixels(loaded, shown, self.repeats)
            count = 1 + (len(shown) - 1) * self.preset.tokenizer.temporal
            model["pixels"] = {"seconds": seconds, "frames": count, "frames_per_second": count / median(seconds)}
        self.models.append(model)

    def time(self, loaded, codes: np.ndarray, walk: Decoding, batch: int) -> Timing:
        """One decoding at one batch size, followed on stderr."""
        from diagd_cli.bench.measure import measure, plans_of, steps_run

        plans = plans_of(self.preset, len(codes), self.settings.frames, walk)
        total = steps_run(plans, self.repeats, self.steps)
        name = f"{walk.label(self.preset.grid)}, batch {batch}, {str(loaded.dtype).removeprefix('torch.')}"
        request, done = o.request(self.settings, walk, None), 0
        with self.reporter.bar(name, total) as bar:

            def on_step() -> None:
                nonlocal done
                done += 1
                bar.update(done)

            return measure(loaded, codes, request, batch, repeats=self.repeats, steps=self.steps, on_step=on_step)

    def report(self, device: torch.device, random: bool) -> dict:
        """Everything, as JSON can hold it. The machine is measured last, so that peaks of memory are the model's."""
        from diagd_cli.bench.machine import measure_machine
        from diagd_cli.bench.report import rows_of
        from diagd_cli.cli.info import versions
        from diagd_cli.engine.device import DTYPES

        counts: dict = {}
        for timing in self.timings:
            counts.setdefault(DTYPES[timing.dtype], set()).add(timing.rows)
        with self.reporter.stage("measuring the machine"):
            machine = measure_machine(device, counts)
        s = self.settings
        sampling = {"temperature": s.temperature, "top_k": s.top_k, "top_p": s.top_p, "top_p_rule": s.top_p_rule}
        settings = {"frames": s.frames, "context_frames": s.context, "seed": s.seed, "sampling": sampling}
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


def describe(facts: dict) -> str:
    """The machine in one line."""
    m = facts["machine"]
    rates = ", ".join(f"{rate / 1e9:.0f} GFLOP/s {dtype}" for dtype, rate in m["flops"].items())
    threads = f"{m['threads']} thread{'s' if m['threads'] > 1 else ''}"
    return f"{m['name']}, {threads}, torch {facts['versions']['torch']}: {m['bandwidth'] / 1e9:.1f} GB/s, {rates}"


def table(facts: dict) -> str:
    """The rows as a table at most WIDTH columns wide, the machine and the other stages in lines around it."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    grid = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    names = (
        "decoding",
        "dtype",
        "B",
        "steps",
        "tok/step",
        "ms/step",
        "tok/s",
        "fps",
        "speed-up",
        "ideal",
        "limit",
        "GB",
    )
    for n, name in enumerate(names):
        grid.add_column(name, justify="right" if n > 1 else "left", no_wrap=True)
    for row in facts["rows"]:
        grid.add_row(*cells(row))
    s = facts["settings"]
    console = Console(width=WIDTH, file=None, no_color=True, highlight=False, emoji=False, markup=False)
    with console.capture() as text:
        console.print(grid)
    made = f"{facts['preset']}, {s['frames']} new frames after {s['context_frames']} drawn at random, seed {s['seed']}"
    lines = [describe(facts), made, *(line.rstrip() for line in text.get().strip("\n").splitlines())]
    lines += [
        *stages(facts),
        "ideal: speed-up over what the steps promise. limit: the machine's least time over the time taken.",
    ]
    if s["steps"]:
        lines.append(
            f"~ is extrapolated from {s['steps']} steps after the first, by the machine's least time for the rest."
        )
    return "\n".join(lines)


def cells(row: dict) -> list[str]:
    """A row of the table; what is extrapolated has a ~ before it."""
    from diagd_cli.bench.report import rates

    rate, mark = rates(row), "~" if row["extrapolated"] else ""
    memory = row["peak_memory_bytes"]
    return [
        row["label"], row["dtype"], str(row["batch"]), str(row["steps"]), f"{row['tokens_per_step']:.1f}",
        short(row["ms_per_step"]), mark + short(rate["tokens_per_second"]), mark + short(rate["frames_per_second"]),
        f"{mark}{short(rate['speedup'])}x", f"{mark}{rate['speedup_share']:.0%}", f"{row['limit_share']:.0%}",
        f"{memory.get('device', memory['host']) / 1e9:.2f}",
    ]  # fmt: skip


def short(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def stages(facts: dict) -> list[str]:
    """Load, prefill and pixels of every dtype, a line each."""
    lines = []
    for model in facts["models"]:
        rows = [row for row in facts["rows"] if row["dtype"] == model["dtype"]]
        prefill = ", ".join(
            f"{median(row['seconds']['prefill']):.2f} s (B={row['batch']})"
            for row in {row["batch"]: row for row in rows}.values()
        )
        line = f"{model['dtype']}: load {model['load_seconds']:.2f} s, prefill {prefill}"
        if model["pixels"]:
            done = model["pixels"]
            line += f", pixels {median(done['seconds']):.2f} s ({done['frames_per_second']:.1f} frames/s)"
        lines.append(line)
    return lines

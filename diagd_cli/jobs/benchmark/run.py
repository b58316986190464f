"""A benchmark at work: in every dtype the models are loaded, every decoding is timed, and they are
let go.
"""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

import numpy as np
import torch

from diagd_cli.device import choose_device, choose_dtype, choose_weights
from diagd_cli.jobs.benchmark.machine import measure_machine
from diagd_cli.jobs.benchmark.measure import (
    Timing,
    draw_codes,
    measure,
    plans_of,
    steps_run,
    time_pixels,
)
from diagd_cli.jobs.benchmark.rows import rows_of
from diagd_cli.loading import Loaded, load
from diagd_cli.pipeline import warm_up
from diagd_cli.progress import Progress
from diagd_cli.report.bench import BenchReport, ModelTimes, PixelTimes
from diagd_cli.schedule.decoding import Decoding
from diagd_cli.versions import versions
from diagd_cli.weights.memory import require
from diagd_cli.weights.parameters import transformer_parameters

if TYPE_CHECKING:
    from diagd_cli.jobs.benchmark.request import Benchmark


def run(benchmark: Benchmark, progress: Progress) -> BenchReport:
    """Every timing, and the machine, which is measured last, so that peaks of memory are the
    models'.

    Raises DiagdError.
    """
    preset, settings = benchmark.preset, benchmark.settings
    device = choose_device(benchmark.machine.device)
    kinds = dtypes_of(benchmark, device)
    for dtype, weights in kinds:
        require(
            preset,
            device,
            batch=max(benchmark.batches),
            dtype=dtype,
            frames=settings.context + settings.frames,
            weights=weights,
            pixels=benchmark.pixels,
        )
    timings: list[Timing] = []
    models = []
    for dtype, weights in kinds:
        own, model = time_dtype(benchmark, device, dtype, weights, progress)
        timings += own
        models.append(model)

    rows_by_dtype: dict[str, set[int]] = {}
    for timing in timings:
        rows_by_dtype.setdefault(timing.dtype, set()).add(timing.rows)
    with progress.stage("measuring the machine"):
        machine = measure_machine(device, rows_by_dtype)
    return BenchReport(
        preset=preset.name,
        weights="random" if benchmark.machine.random_weights else "the preset's",
        machine=machine,
        versions=versions(),
        frames=settings.frames,
        context_frames=settings.context,
        seed=settings.seed,
        sampling=settings.sampling.facts,
        repeats=benchmark.repeats,
        steps=benchmark.steps,
        models=models,
        rows=rows_of(timings, preset, machine),
    )


def dtypes_of(benchmark: Benchmark, device: torch.device) -> list[tuple[torch.dtype, str]]:
    """The dtypes asked for, each once, and how the weights are held. Raises UsageError."""
    preset = benchmark.preset
    parameters = transformer_parameters(preset.transformer, preset.positions)
    found = []
    for asked in benchmark.dtypes:
        name, plus, weights = asked.strip().partition("+")
        dtype = choose_dtype(name, device, parameters)
        found.append((dtype, choose_weights(weights if plus else "float", device)))
    return list(dict.fromkeys(found))


def time_dtype(
    benchmark: Benchmark,
    device: torch.device,
    dtype: torch.dtype,
    weights: str,
    progress: Progress,
) -> tuple[list[Timing], ModelTimes]:
    """Load the models in one dtype, weights held so, and time everything with them."""
    preset, settings, machine = benchmark.preset, benchmark.settings, benchmark.machine
    cases = [(decoding, batch) for batch in benchmark.batches for decoding in benchmark.decodings]
    with progress.stage(f"loading {preset.name}"):
        machine.fetch_weights(preset)
        loaded = load(
            preset,
            device,
            dtype,
            folder=machine.weights_folder,
            random=settings.seed if machine.random_weights else None,
            pixels=benchmark.pixels,
            compile=machine.compile,
            weights=weights or "float",
        )
    codes = draw_codes(preset, settings.context, settings.seed)
    if machine.compile:
        with progress.stage("compiling"):
            for decoding, batch in cases:
                loaded = warm_up(loaded, settings.request(decoding), len(codes), batch)
    timings = [
        time_case(benchmark, loaded, codes, decoding, batch, progress) for decoding, batch in cases
    ]
    pixels = None
    if benchmark.pixels:
        with progress.stage("decoding pixels"):
            pixels = pixels_of(benchmark, loaded, timings[-1].codes)
    return timings, ModelTimes(loaded.numbers, loaded.seconds, pixels, loaded.compile_seconds)


def time_case(
    benchmark: Benchmark,
    loaded: Loaded,
    codes: np.ndarray,
    decoding: Decoding,
    batch: int,
    progress: Progress,
) -> Timing:
    """One decoding at one batch size, after a context of codes int64 [T, h, w]."""
    preset, repeats, steps = benchmark.preset, benchmark.repeats, benchmark.steps
    total = steps_run(
        plans_of(preset, len(codes), benchmark.settings.frames, decoding), repeats, steps
    )
    name = f"{decoding.label(preset.grid)}, batch {batch}, {loaded.numbers}"
    request = benchmark.settings.request(decoding)
    with progress.bar(name, total) as bar:
        return measure(
            loaded, codes, request, batch, repeats=repeats, steps=steps, on_step=bar.update
        )


def pixels_of(benchmark: Benchmark, loaded: Loaded, made: np.ndarray | None) -> PixelTimes:
    """Time the tokenizer's decoder on codes int64 [T, h, w]; on others as many, where decoding was
    not ended.
    """
    preset, settings = benchmark.preset, benchmark.settings
    codes = (
        draw_codes(preset, settings.context + settings.frames, settings.seed)
        if made is None
        else made
    )
    seconds = time_pixels(loaded, codes, benchmark.repeats)
    frames = 1 + (len(codes) - 1) * preset.tokenizer.temporal
    return PixelTimes(seconds, frames, frames / median(seconds))

"""A benchmark as text: the machine in one line, a row for each timing, and the other stages."""

from __future__ import annotations

from statistics import median

from diagd_cli.report.bench import BenchReport, BenchRow
from diagd_cli.report.table import Table

HEAD = [
    "decoding", "dtype", "B", "steps", "tok/step", "ms/step", "tok/s", "fps", "speed-up", "ideal",
    "limit", "peak GB",
]  # fmt: skip


def describe(report: BenchReport) -> str:
    """The machine in one line."""
    machine = report.machine
    speeds = ", ".join(f"{rate / 1e9:.0f} GFLOP/s {dtype}" for dtype, rate in machine.flops.items())
    threads = f"{machine.threads} thread{'s' if machine.threads > 1 else ''}"
    torch = f"torch {report.versions['torch']}"
    return f"{machine.name}, {threads}, {torch}: {machine.bandwidth / 1e9:.1f} GB/s, {speeds}"


def table(report: BenchReport) -> Table:
    """The rows, and the other stages in lines below."""
    context = f"{report.context_frames} drawn at random, seed {report.seed}"
    title = f"{report.preset}, {report.frames} new frames after {context}"
    notes = [
        *stages(report),
        "ideal: speed-up over what the steps promise. limit: the machine's least time over the "
        "time taken.",
    ]
    if report.steps:
        least = "by the machine's least time for the rest."
        notes.append(f"~ is extrapolated from {report.steps} steps after the first, {least}")
    return Table(HEAD, [cells(row) for row in report.rows], title, notes, left=("dtype",))


def cells(row: BenchRow) -> list[str]:
    """A row of the table; what is extrapolated has a ~ before it."""
    rates, mark = row.rates, "~" if row.extrapolated else ""
    memory = row.peak_memory_bytes
    return [
        row.label,
        row.dtype,
        str(row.batch),
        str(row.steps),
        f"{row.tokens_per_step:.1f}",
        short(row.ms_per_step),
        mark + short(rates.tokens_per_second),
        mark + short(rates.frames_per_second),
        f"{mark}{short(rates.speedup)}x",
        f"{mark}{rates.speedup_share:.0%}",
        f"{row.limit_share:.0%}",
        f"{memory.get('device', memory['host']) / 1e9:.2f}",
    ]


def short(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def stages(report: BenchReport) -> list[str]:
    """Load, prefill and pixels of every dtype, a line each."""
    lines = []
    for model in report.models:
        by_batch = {row.batch: row for row in report.rows if row.dtype == model.dtype}
        prefill = ", ".join(
            f"{median(row.seconds['prefill']):.2f} s (B={batch})" for batch, row in by_batch.items()
        )
        compiling = f", compile {model.compile_seconds:.0f} s" if model.compile_seconds else ""
        line = f"{model.dtype}: load {model.load_seconds:.2f} s{compiling}, prefill {prefill}"
        if done := model.pixels:
            line += f", pixels {median(done.seconds):.2f} s ({done.frames_per_second:.1f} frames/s)"
        lines.append(line)
    return lines

"""The report as text: the machine in one line, a row for each timing, and the other stages."""

from __future__ import annotations

from statistics import median

from rich import box
from rich.console import Console
from rich.table import Table

from diagd_cli.bench.report import rates

WIDTH = 100  # columns


def describe(facts: dict) -> str:
    """The machine in one line."""
    m = facts["machine"]
    speeds = ", ".join(f"{rate / 1e9:.0f} GFLOP/s {dtype}" for dtype, rate in m["flops"].items())
    threads = f"{m['threads']} thread{'s' if m['threads'] > 1 else ''}"
    return f"{m['name']}, {threads}, torch {facts['versions']['torch']}: {m['bandwidth'] / 1e9:.1f} GB/s, {speeds}"


def table(facts: dict) -> str:
    """The rows as a table at most WIDTH columns wide, the machine and the other stages in lines around it."""
    grid = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    names = [
        "decoding", "dtype", "B", "steps", "tok/step", "ms/step", "tok/s", "fps", "speed-up", "ideal", "limit", "peak GB",
    ]  # fmt: skip
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
    lines += stages(facts)
    lines.append("ideal: speed-up over what the steps promise. limit: the machine's least time over the time taken.")
    if s["steps"]:
        lines.append(
            f"~ is extrapolated from {s['steps']} steps after the first, by the machine's least time for the rest."
        )
    return "\n".join(lines)


def cells(row: dict) -> list[str]:
    """A row of the table; what is extrapolated has a ~ before it."""
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
        compiling = f", compile {model['compile_seconds']:.0f} s" if model["compile_seconds"] else ""
        line = f"{model['dtype']}: load {model['load_seconds']:.2f} s{compiling}, prefill {prefill}"
        if model["pixels"]:
            done = model["pixels"]
            line += f", pixels {median(done['seconds']):.2f} s ({done['frames_per_second']:.1f} frames/s)"
        lines.append(line)
    return lines

"""A benchmark as text: the machine in one line, a row for each timing, and the other stages."""

from __future__ import annotations

from statistics import median

from diagd_cli.report.table import Table


def describe(facts: dict) -> str:
    """The machine in one line."""
    m = facts["machine"]
    speeds = ", ".join(f"{rate / 1e9:.0f} GFLOP/s {dtype}" for dtype, rate in m["flops"].items())
    threads = f"{m['threads']} thread{'s' if m['threads'] > 1 else ''}"
    return f"{m['name']}, {threads}, torch {facts['versions']['torch']}: {m['bandwidth'] / 1e9:.1f} GB/s, {speeds}"


def table(facts: dict) -> Table:
    """The rows, and the other stages in lines below."""
    head = [
        "decoding", "dtype", "B", "steps", "tok/step", "ms/step", "tok/s", "fps", "speed-up", "ideal", "limit", "peak GB",
    ]  # fmt: skip
    s = facts["settings"]
    made = f"{facts['preset']}, {s['frames']} new frames after {s['context_frames']} drawn at random, seed {s['seed']}"
    notes = [
        *stages(facts),
        "ideal: speed-up over what the steps promise. limit: the machine's least time over the time taken.",
    ]
    if s["steps"]:
        notes.append(
            f"~ is extrapolated from {s['steps']} steps after the first, by the machine's least time for the rest."
        )
    return Table(head, [cells(row) for row in facts["rows"]], made, notes, left=("dtype",))


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


def rates(row: dict) -> dict:
    """The rates of a row, wherever they stand."""
    return row["extrapolated"] or row

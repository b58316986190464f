"""Timings and a machine's figures as rows: rates, speed-up, and the share of what the machine
allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from diagd_cli.jobs.benchmark.measure import Timing
from diagd_cli.preset import Preset
from diagd_cli.report.bench import BenchRow, MachineSpeed, Rates
from diagd_cli.schedule.decoding import labels


def rows_of(timings: Sequence[Timing], preset: Preset, machine: MachineSpeed) -> list[BenchRow]:
    """A row of figures for each timing."""
    floors = [
        timing.work.floors(machine.bandwidth, machine.flops[timing.dtype]) for timing in timings
    ]
    seconds = [timing.seconds(floor) for timing, floor in zip(timings, floors, strict=True)]
    names = labels([timing.request.decoding for timing in timings], preset.grid)
    rows = []
    for timing, floor, own, name in zip(timings, floors, seconds, names, strict=True):
        base, decoding = baseline(timings, timing), timing.request.decoding
        speedup = seconds[base] / own
        rates = Rates(
            decode_seconds=own,
            tokens_per_second=timing.tokens / own,
            frames_per_second=timing.batch * timing.request.frames / own,
            speedup=speedup,
            speedup_share=speedup * timing.steps / timings[base].steps,
        )
        rows.append(
            BenchRow(
                label=name,
                decoding=decoding.facts(preset.grid, timing.plans[0].context),
                dtype=timing.dtype,
                batch=timing.batch,
                steps=timing.steps,
                tokens=timing.tokens,
                fed_tokens=timing.fed,
                tokens_per_step=timing.tokens / timing.steps,
                rows=timing.rows,
                timed_steps=len(timing.timed),
                seconds={"prefill": timing.prefill, "decode": timing.decode},
                ms_per_step=1000 * median(timing.decode) / len(timing.timed),
                peak_memory_bytes=timing.peak,
                baseline=base,
                floor_ms_per_step=1000 * float(floor.mean()),
                limit_share=float(timing.limit_share(floor)),
                flops_at_rows=machine.flops_by_rows[timing.dtype][timing.rows],
                extrapolated=timing.extrapolated,
                rates=rates,
            )
        )
    return rows


def baseline(timings: Sequence[Timing], of: Timing) -> int:
    """Index of the timing that one is compared with: the first NTP, else the first, of the same
    dtype and batch.
    """
    same = [
        n
        for n, timing in enumerate(timings)
        if (timing.dtype, timing.batch) == (of.dtype, of.batch)
    ]
    return next((n for n in same if timings[n].request.decoding.method == "ntp"), same[0])

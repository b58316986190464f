"""Timings and a machine's figures as rows: rates, speed-up, and the share of what the machine allows."""

from __future__ import annotations

from statistics import median

from diagd_cli.jobs.benchmark.machine import Machine
from diagd_cli.jobs.benchmark.measure import Timing
from diagd_cli.preset import Preset

RATES = ("decode_seconds", "tokens_per_second", "frames_per_second", "speedup", "speedup_share")


def rows_of(timings: list[Timing], preset: Preset, machine: Machine) -> list[dict]:
    """A row of figures for each timing, as JSON can hold them.

    The rates of a decoding that was timed to its end stand in the row itself, and `extrapolated` is None. Of one that
    was not, they stand under `extrapolated`, so that nothing can take them for measured ones.
    """
    floors = [t.work.floors(machine.bandwidth, machine.flops[t.dtype]) for t in timings]
    seconds = [timing.seconds(floor) for timing, floor in zip(timings, floors, strict=True)]
    rows = []
    for n, (timing, floor) in enumerate(zip(timings, floors, strict=True)):
        base = baseline(timings, timing)
        rates = {
            "decode_seconds": seconds[n],
            "tokens_per_second": timing.tokens / seconds[n],
            "frames_per_second": timing.batch * timing.request.frames / seconds[n],
            "speedup": seconds[base] / seconds[n],
            "speedup_share": seconds[base] / seconds[n] * timing.steps / timings[base].steps,
        }
        row = facts_of(timing, preset) | {
            "baseline": base,
            "floor_ms_per_step": 1000 * float(floor.mean()),
            "limit_share": float(timing.limit_share(floor)),
            "flops_at_rows": machine.flops_by_rows[timing.dtype][timing.rows],
        }
        rows.append(row | ({"extrapolated": rates} if timing.extrapolated else {"extrapolated": None, **rates}))
    return rows


def facts_of(timing: Timing, preset: Preset) -> dict:
    """What was run, and what was measured of it."""
    walk, grid = timing.request.decoding, preset.grid
    return {
        "label": walk.label(grid),
        "decoding": walk.facts(grid, timing.plans[0].context),
        "dtype": timing.dtype,
        "batch": timing.batch,
        "steps": timing.steps,
        "tokens": timing.tokens,
        "fed_tokens": timing.fed,
        "tokens_per_step": timing.tokens / timing.steps,
        "rows": timing.rows,
        "timed_steps": len(timing.timed),
        "seconds": {"prefill": timing.prefill, "decode": timing.decode},
        "ms_per_step": 1000 * median(timing.decode) / len(timing.timed),
        "peak_memory_bytes": timing.peak,
    }


def baseline(timings: list[Timing], of: Timing) -> int:
    """Index of the timing that one is compared with: the first NTP, else the first, of the same dtype and batch."""
    same = [n for n, timing in enumerate(timings) if (timing.dtype, timing.batch) == (of.dtype, of.batch)]
    return next((n for n in same if timings[n].request.decoding.method == "ntp"), same[0])

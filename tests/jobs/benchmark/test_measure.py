"""The measuring loop on the real engine: what is counted, which steps are timed, and how rows come
of it.
"""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from diagd_cli.errors import UsageError
from diagd_cli.jobs.benchmark.limit import Work
from diagd_cli.jobs.benchmark.measure import (
    draw_codes,
    measure,
    plans_of,
    steps_run,
    time_pixels,
    timed_steps,
)
from diagd_cli.jobs.benchmark.rows import rows_of
from diagd_cli.pipeline import Request, load
from diagd_cli.preset_files import load_preset
from diagd_cli.report.bench import MachineSpeed, Rates
from diagd_cli.schedule.decoding import Decoding
from diagd_cli.schedule.plan import build_plan
from diagd_cli.tokens.grid import Grid

NTP, DIAGONAL = Decoding("ntp"), Decoding("diagd", 1, 2)
MACHINE = MachineSpeed(
    "cpu", "CPU", 1, 1e9, {"float32": 1e9}, {"float32": {1: 5.0, 2: 6.0, 3: 7.0}}
)


@pytest.fixture(scope="module")
def loaded(tiny):
    return load(
        load_preset(tiny.preset),
        torch.device("cpu"),
        torch.float32,
        pixels=True,
        folder=None,
        random=None,
    )


@pytest.fixture(scope="module")
def time(loaded):
    """A timing of the tiny preset: 2 known frames, `frames` new ones."""

    def run(decoding, frames=3, batch=1, **options):
        codes = draw_codes(loaded.preset, 2, seed=0)
        return measure(loaded, codes, Request(frames, decoding, seed=7), batch, **options)

    return run


def test_codes_are_drawn_from_the_seed_alone(loaded):
    codes = draw_codes(loaded.preset, 2, seed=0)
    assert codes.shape == (2, 2, 3) and codes.min() >= 0 and codes.max() < 25
    assert (codes == draw_codes(loaded.preset, 2, seed=0)).all() and (
        codes != draw_codes(loaded.preset, 2, seed=1)
    ).any()


def test_tokenizer_is_left_out_where_no_pixels_are_wanted(tiny):
    preset = load_preset(tiny.preset)
    alone = load(preset, torch.device("cpu"), torch.float32, pixels=False, folder=None, random=3)
    assert (
        alone.tokenizer is None
        and alone.seconds > 0
        and alone.transformer.config == preset.transformer
    )


def test_whole_run(time):
    timing = time(DIAGONAL, repeats=2)
    plan = build_plan(Grid(2, 3, 1), 2, 3, DIAGONAL)
    assert (timing.steps, timing.tokens, timing.fed) == (8, 18, len(plan.source))
    assert timing.timed == range(8) and not timing.extrapolated and len(timing.work.bytes) == 8
    assert (
        len(timing.prefill) == len(timing.decode) == 2 and min(timing.prefill + timing.decode) > 0
    )
    assert timing.codes.shape == (5, 2, 3) and timing.peak["host"] > 0


def test_window_rolls_as_it_does_when_a_clip_is_made(time):
    timing = time(NTP, frames=5, repeats=1)
    assert [(plan.context, plan.latents) for plan in timing.plans] == [(2, 3), (2, 2)]
    assert (timing.steps, timing.tokens, len(timing.work.flops)) == (
        30,
        30,
        30,
    ) and timing.codes.shape == (7, 2, 3)


def test_context_that_fills_the_window_loses_a_frame(loaded):
    assert [(plan.context, plan.latents) for plan in plans_of(loaded.preset, 5, 2, NTP)] == [
        (4, 1),
        (2, 1),
    ]


def test_clips_of_a_batch_are_those_that_their_seeds_give_alone(loaded, time):
    codes, request = draw_codes(loaded.preset, 2, seed=0), Request(3, DIAGONAL, seed=7)
    alone = measure(loaded, codes, request, repeats=1)
    both = time(DIAGONAL, batch=2, repeats=1)
    assert (both.codes == alone.codes).all()
    assert (both.tokens, both.fed, both.steps) == (2 * alone.tokens, 2 * alone.fed, alone.steps)


def test_only_some_steps(time):
    calls = []
    timing = time(NTP, frames=5, repeats=2, steps=4, on_step=calls.append)
    assert timing.timed == range(1, 5) and timing.extrapolated and timing.codes is None
    assert calls == [*range(1, 16)] and calls[-1] == steps_run(timing.plans, 2, 4)
    assert len(timing.decode) == 2 and min(timing.prefill + timing.decode) > 0


def test_passes_of_exact_count_as_the_steps_that_they_save(time):
    """So that a bar over the steps of next-token prediction is full in the end."""
    told = []
    timing = time(Decoding("exact"), frames=5, repeats=2, on_step=told.append)
    assert told == sorted(told) and told[-1] == steps_run(timing.plans, 2, None)
    assert len(told) < told[-1]


def test_steps_are_those_of_the_first_window():
    plans = [build_plan(Grid(2, 3), 2, frames, NTP) for frames in (2, 1)]
    assert timed_steps(plans, None) == range(18) and timed_steps(plans, 3) == range(1, 4)
    assert timed_steps(plans, 100) == range(1, 12)
    with pytest.raises(UsageError, match="one step only"):
        timed_steps([build_plan(Grid(1, 1), 1, 1, NTP)], 3)


def test_share_and_extrapolation_by_hand(time):
    """The second of four steps took 2 s and may take 1: half the limit, so 10 s of floors become
    20.
    """
    floors = np.array([1.0, 1.0, 3.0, 5.0])
    plans = [build_plan(Grid(2, 2), 1, 1, NTP)]
    part = replace(time(NTP, repeats=1), plans=plans, timed=range(1, 2), decode=[9.0, 2.0, 1.0])
    assert part.limit_share(floors) == 0.5 and part.seconds(floors) == 20
    whole = replace(part, timed=range(4))
    assert whole.limit_share(floors) == 5 and whole.seconds(floors) == 2


def test_rows_by_hand(loaded, time):
    """NTP is the baseline wherever it stands; 18 steps in 9 s against 8 in 4.5 s: twice as fast,
    where 2.25 is ideal.
    """
    slow, fast = time(NTP, repeats=1), time(DIAGONAL, repeats=1)
    slow, fast = replace(slow, decode=[9.0, 8.0, 10.0]), replace(fast, decode=[4.5])
    first, second = rows_of([fast, slow], loaded.preset, MACHINE)
    rates = first.rates
    assert (first.baseline, second.baseline) == (1, 1)
    assert (second.rates.speedup, second.rates.speedup_share, second.ms_per_step) == (1, 1, 500)
    assert rates.speedup == 2 and rates.speedup_share == pytest.approx(2 / 2.25)
    assert (rates.tokens_per_second, rates.frames_per_second, first.tokens_per_step) == (
        4,
        3 / 4.5,
        18 / 8,
    )
    assert first.limit_share == pytest.approx(fast.work.floors(1e9, 1e9).sum() / 4.5)
    assert (
        first.flops_at_rows == MACHINE.flops_by_rows["float32"][fast.rows]
        and not first.extrapolated
    )
    facts = first.facts()
    assert facts["extrapolated"] is None and facts["speedup"] == 2


def test_rows_are_compared_within_their_batch(loaded, time):
    timings = [
        time(decoding, batch=batch, repeats=1) for batch in (1, 2) for decoding in (DIAGONAL, NTP)
    ]
    machine = replace(MACHINE, flops_by_rows={"float32": {timing.rows: 1.0 for timing in timings}})
    assert [row.baseline for row in rows_of(timings, loaded.preset, machine)] == [1, 1, 3, 3]


def test_extrapolated_rates_are_kept_apart(loaded, time):
    timing = time(DIAGONAL, repeats=1, steps=3)
    [row] = rows_of([timing], loaded.preset, MACHINE)
    facts, names = row.facts(), {field.name for field in fields(Rates)}
    assert set(facts["extrapolated"]) == names and not names & set(facts)
    assert row.ms_per_step == pytest.approx(1000 * timing.decode[0] / 3) and row.timed_steps == 3
    floors = Work.floors(timing.work, 1e9, 1e9)
    assert row.rates.decode_seconds == pytest.approx(floors.sum() / row.limit_share)


def test_pixels(loaded):
    seconds = time_pixels(loaded, draw_codes(loaded.preset, 3, seed=0), repeats=2)
    assert len(seconds) == 2 and min(seconds) > 0

"""However many frames, or without end, in the arrays of a few: the feeds are those of the whole
plan.
"""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import World, decodings, grids

from diagd_cli.errors import UsageError
from diagd_cli.schedule.decoding import STAND_INS, Decoding
from diagd_cli.schedule.plan import build_plan
from diagd_cli.schedule.wavefront import wavefront, whole
from diagd_cli.tokens.grid import Grid

FREEDOOM = Grid(15, 20, conditioning=1)


@st.composite
def long_worlds(draw) -> World:
    """Clips of a few windows: longer than the frames that are made at once."""
    grid = draw(grids())
    return World(grid, draw(st.integers(1, 40)), draw(st.integers(1, 40)), draw(decodings(grid)))


def feeds_of(plan, step):
    part = slice(plan.starts[step], plan.starts[step + 1])
    return [plan.source[part].tolist(), plan.position[part].tolist(), plan.target[part].tolist()]


def assert_the_same_feeds(world):
    plan, latents = world.plan(), world.frames
    wave = wavefront(world.grid, world.context, latents, world.decoding)
    endless = wavefront(world.grid, world.context, None, world.decoding)
    assert (wave.steps, wave.prefill, wave.context) == (plan.steps, plan.prefill, plan.context)
    fed = 0
    for step in range(plan.steps):
        feeds = feeds_of(plan, step)
        assert wave.feeds(step).tolist() == feeds
        if step < latents * plan.decoding.resolve(world.grid, 1).d:  # no ramp-down yet
            assert endless.feeds(step).tolist() == feeds
        fed += len(feeds[0])
        assert wave.fed(step + 1) == fed


@given(long_worlds())
def test_the_feeds_are_those_of_the_whole_plan(world):
    assert_the_same_feeds(world)


@pytest.mark.parametrize("repair", [True, False])
@pytest.mark.parametrize("stand_in", STAND_INS)
def test_every_k_and_the_smallest_and_largest_d_of_a_small_grid(stand_in, repair):
    for ends in ((), (1,), (1, 0, (7, 8), (9,))):
        grid = Grid(3, 4, *ends)
        for k in range(1, grid.w + 1):
            span = 2 * k + grid.w
            for d in (1, 2, span // 2, span):
                decoding = Decoding("diagd", k, d, stand_in, repair)
                assert_the_same_feeds(World(grid, context=3, frames=30, decoding=decoding))


@given(long_worlds())
def test_a_frame_is_complete_when_its_last_token_is_made(world):
    plan, made = world.plan(), np.zeros(world.frames, dtype=int)
    wave = wavefront(world.grid, world.context, world.frames, world.decoding)
    assert wave.complete(0) == 0
    for step in range(plan.steps):
        targets = np.array(feeds_of(plan, step)[2])
        latent = (targets[targets >= 0] - world.grid.prefix) // world.grid.block - world.context
        np.add.at(made, latent, 1)
        assert wave.complete(step + 1) == (made == world.grid.area).sum()


@given(long_worlds(), st.integers(2, 6))
def test_no_step_needs_more_frames_than_are_held(world, window):
    """What is written, fed and, within the window, read: a run of frames; the first prompt frame
    apart, where it stands in.
    """
    grid, plan, endless = world.grid, world.plan(), wavefront(world.grid, 50, None, world.decoding)
    apart = world.rules[2] == "prompt-frame"
    begun, held = 0, endless.frames_held(window, kept=int(apart))
    for step in range(plan.steps):
        sources, positions, targets = (
            (np.array(values) - grid.prefix) // grid.block for values in feeds_of(plan, step)
        )
        begun = max(begun, positions.max(), targets.max())
        if apart:
            sources = sources[sources > 0]
        oldest = min([*(positions - window + 1), *sources])
        assert begun - max(oldest, int(apart)) < held


def test_arrays_and_time_do_not_grow_with_the_clip():
    decoding = Decoding("diagd", k=2, d=10)
    few, many, endless = (wavefront(FREEDOOM, 4, n, decoding) for n in (100, 10**6, None))
    assert len(few.plan.source) == len(many.plan.source) == len(endless.plan.source)
    assert (few.steps, many.steps, endless.steps) == (99 * 10 + 48, (10**6 - 1) * 10 + 48, None)
    source, position, target = endless.feeds(10**9)
    assert target.max() > 10**8 * FREEDOOM.block and (source <= position + FREEDOOM.block).all()


def test_a_plan_that_is_written_out_repeats_nothing():
    plan = build_plan(FREEDOOM, 4, 3, Decoding("diagd", k=2, d=10))
    wave = whole(plan)
    assert wave.steps == plan.steps and wave.prefill == plan.prefill
    assert [wave.at(step) for step in (0, 1, plan.steps - 1)] == [(0, 0), (1, 0), (67, 0)]


def test_what_a_plan_refuses_a_wavefront_refuses():
    for decoding in (Decoding("diagd", k=21), Decoding("diagd", k=2, d=49)):
        with pytest.raises(UsageError):
            wavefront(FREEDOOM, 4, None, decoding)
    above = Decoding("diagd", k=2, d=4, stand_in="above")
    with pytest.raises(UsageError, match="nothing can stand in"):
        wavefront(Grid(3, 4, prefix=1), 0, None, above)
    assert wavefront(Grid(3, 4, prefix=1), 0, None, replace(above, d=5)).steps is None

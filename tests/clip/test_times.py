"""Rates and time steps of time stamps."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diagd_cli.clip.times import pace

RATES = [1, 12.5, 17.5, 24000 / 1001, 24, 25, 30000 / 1001, 30, 50, 60000 / 1001, 60, 90, 120, 240]


@pytest.mark.parametrize("tick", [1e-3, 1 / 90_000])
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("count", [2, 24, 5000])
def test_rounded_times_are_of_constant_rate(rate, tick, count):
    times = 5 + np.round(np.arange(count) / rate / tick) * tick
    fps, steps = pace(times, [rate], tick)
    assert fps == rate and (steps == np.arange(count)).all()
    fps, steps = pace(times, [1 / tick, 2 * rate], tick)  # claims that nothing bears out
    assert (
        fps == pytest.approx(rate, rel=2 * tick * rate / count)
        and (steps == np.arange(count)).all()
    )


@given(st.sampled_from(RATES), st.sets(st.integers(1, 198), max_size=80))
def test_steps_that_were_left_out_stay_empty(rate, missing):
    kept = np.array([n for n in range(200) if n not in missing])
    _, steps = pace(kept / rate, [rate], 1e-9)
    # then another rate is as true
    assert (steps == kept).all() or ((np.diff(steps) == 1).all() and len(missing) > 60)


@given(st.lists(st.floats(-0.3, 0.3), min_size=10, max_size=300))
def test_a_trembling_clock_drops_and_doubles_nothing(tremble):
    fps, steps = pace(np.arange(len(tremble)) / 30 + np.array(tremble) / 30, [], 1e-5)
    assert (steps == np.arange(len(tremble))).all() and fps == pytest.approx(30, rel=0.12)


def test_a_file_cannot_claim_a_frame_that_stands_for_ever():
    _, steps = pace(np.array([0, 0.05, 0.1, 1e12]), [20], 1e-3)
    assert steps[-1] <= 2 + 3600 * 20


def test_nothing_is_known_of_one_frame():
    assert pace(np.array([3.0]), [], 1e-3)[0] is None and pace(np.array([3.0]), [25], 1e-3)[0] == 25

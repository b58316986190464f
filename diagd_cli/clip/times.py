"""When the frames of a video are shown, and which of them stand at constant time steps."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

MAX_FPS = 1000
# Rates that cameras, screens and players keep; a rate that is measured is one of these where it
# cannot be told from it.
_USUAL = (
    *(whole / 1.001 for whole in (24, 30, 60, 120)),
    12,
    12.5,
    15,
    24,
    25,
    30,
    48,
    50,
    60,
    90,
    100,
    120,
    240,
)
# A frame keeps its place in a row of frames where it is this many steps early or late, for a clock
# is never exact; a larger distance is a frame that was left out, or one too many.
_PATIENCE = 0.7
# seconds that one frame may stand; a file can claim any number, and each step would be made
_LONGEST = 3600.0


def pace(
    times: np.ndarray, declared: Iterable[float], tick: float
) -> tuple[float | None, np.ndarray]:
    """Frames per second, None where nothing tells, and the time step of each frame, int64 [F], from
    0 on.

    times: float64 [F], seconds, strictly ascending; `tick` is the unit they were rounded to, also
        in seconds. `declared` are the rates that the file claims, of which one that fits the times
        is taken. Steps are consecutive where the frames are as evenly spaced as rounding allows;
        elsewhere a step that is left out is to show the frame before it, and of frames of equal
        step only the last is shown.
    """
    count = len(times)
    if count < 2 or times[-1] <= times[0]:
        return usable(declared), np.arange(count)
    gaps = np.minimum(np.diff(times), _LONGEST)
    times = np.concatenate([[0.0], np.cumsum(gaps)])
    near = gaps[np.abs(gaps - np.median(gaps)) <= np.maximum(tick, 0.25 * np.median(gaps))]
    local = 1 / (near.mean() if len(near) else np.median(gaps))
    declared = [rate for rate in declared if rate and rate > 0]
    exact = [(rate, 1.01 * tick * rate) for rate in (*declared, *_whole(local), *_USUAL)]
    for rate, error in (*exact, *((rate, tick * rate + 0.02) for rate in (*declared, *_USUAL))):
        # whole numbers, but for rounding, though single frames may have been left out
        places = times * rate
        steps = places.round().astype(np.int64)
        alike = abs(rate - local) <= (0.03 + tick * local) * local and rate <= MAX_FPS
        if alike and np.abs(places - steps).max() <= error and (np.diff(steps) > 0).all():
            return float(rate), steps
    index = np.arange(count)
    mean = np.polyfit(index, times, 1)[0] if count > 2 else times[1]
    error = _spread(times, index, mean)
    if error < 0.49 * mean:
        rates = (*declared, *_whole(1 / mean), *_USUAL)
        rate = next(
            (r for r in rates if _spread(times, index, 1 / r) <= error + 0.51 * tick), 1 / mean
        )
        return usable([rate]), index
    rate = local
    usual = min((*declared, *_USUAL), key=lambda one: abs(one - rate))
    if abs(usual - rate) <= 0.002 * rate:
        rate = usual
    rate = min(rate, MAX_FPS)
    return usable([rate]), _steps(times, rate)


def usable(rates: Iterable[float]) -> float | None:
    """The first of the rates that a video can have; None where none is."""
    return next((float(rate) for rate in rates if rate and 0 < rate <= MAX_FPS), None)


def _whole(rate: float) -> list[float]:
    return [round(rate)] if round(rate) else []


def _spread(times: np.ndarray, index: np.ndarray, step: float) -> float:
    """How far the times are at most from steps of equal length, in seconds, wherever those
    begin.
    """
    rest = times - index * step
    return float(rest.max() - rest.min()) / 2


def _steps(times: np.ndarray, rate: float) -> np.ndarray:
    steps, step = [], -1
    for place in (times * rate).tolist():
        step = step + 1 if abs(place - step - 1) <= _PATIENCE else max(step, round(place))
        steps.append(step)
    return np.array(steps)

"""Decodings as they ran: each panel shows a frame from the moment on at which its decoder had all
of its tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from diagd_cli.clip.panels import PAPER, captioned, enlarged, enlargement, footed, tiled
from diagd_cli.clip.write import VideoWriter
from diagd_cli.report.comparison import Comparison, duration, steps

FPS = 20  # pictures a second
# seconds that are replayed in real time, and what others are brought to
LEAST, MOST, ABOUT = 5, 25, 20
LEAD, HOLD = 0.5, 2.0  # seconds of the video before the start, and after the last decoding is done
# seconds in which a frame fades while the next one is awaited; how bright it stays
FADE, DIM = 0.5, 0.5
SHADES = 6  # steps of fading


def write_race(path: Path, comparison: Comparison) -> dict:
    """Write the video. Returns `speed` (1 is real time, 2 twice as fast) and its length in
    `seconds`. Raises OutputError.
    """
    there = [
        arrivals(row.completed, comparison.temporal, comparison.new) for row in comparison.rows
    ]
    total = max(float(own[-1]) for own in there)
    speed = speed_of(total)
    count = math.ceil((LEAD + total / speed + HOLD) * FPS)
    frames = pictures(comparison, there, total, speed, count)
    first = next(frames)
    with VideoWriter(path, first.shape[0], first.shape[1], FPS) as writer:
        writer.write(first[None])
        for frame in frames:
            writer.write(frame[None])
    return {"speed": speed, "seconds": count / FPS}


def arrivals(completed: Sequence[float], temporal: int, new: int) -> np.ndarray:
    """Seconds after which each of `new` frames can be seen, float64 [new], from those of its latent
    frame.
    """
    return np.repeat(np.asarray(completed, dtype=np.float64), temporal)[:new]


def speed_of(seconds: float) -> float:
    """How much faster than it was a decoding of `seconds` is replayed, to two digits: 1 where it is
    neither short nor long.
    """
    if LEAST <= seconds <= MOST:
        return 1.0
    return float(f"{max(seconds, 1e-9) / ABOUT:.2g}")


def pace(speed: float) -> str:
    """The speed in words."""
    if speed == 1:
        return "real time"
    return f"replayed {speed:g}x faster" if speed > 1 else f"replayed {1 / speed:.2g}x slower"


def pictures(
    comparison: Comparison, there: list[np.ndarray], total: float, speed: float, count: int
) -> Iterator[np.ndarray]:
    """The video's frames uint8 [H, W, 3].

    there: `arrivals` of each decoding; total: seconds of the slowest one.
    """
    scale = enlargement(comparison.videos[0].shape[2])

    @lru_cache(maxsize=4 * len(there))  # most panels are as they were in the picture before
    def panel(n: int, made: int, shade: int) -> Image.Image:
        row, new = comparison.rows[n], comparison.new
        frame = enlarged(comparison.videos[n][comparison.context - 1 + made], scale)
        dimmed = Image.blend(frame, Image.new("RGB", frame.size, PAPER), (1 - DIM) * shade / SHADES)
        done = f"done in {duration(row.seconds['decode'])}, {row.speedup:.1f}x"
        state = done if made == new else steps(row)
        return captioned(dimmed, f"{row.label}\n{state}", f"frame {made}/{new}", made / new)

    @lru_cache(maxsize=1)
    def board(states: tuple[tuple[int, int], ...]) -> np.ndarray:
        return tiled([panel(n, *own) for n, own in enumerate(states)])

    for picture in range(count):
        now = min(total, max(0.0, (picture / FPS - LEAD) * speed))
        yield footed(
            board(tuple(state(own, now, speed) for own in there)),
            f"decoding for {now:.{digits(total)}f} s",
            pace(speed),
        )


def state(there: np.ndarray, now: float, speed: float) -> tuple[int, int]:
    """After `now` seconds: how many frames are made, and how far the last one has faded, 0..SHADES;
    not when all are.
    """
    made = int(np.searchsorted(there, now, side="right"))
    if made == len(there):
        return made, 0
    since = (now - there[made - 1]) / speed if made else FADE
    return made, min(SHADES, int(SHADES * since / FADE))


def digits(total: float) -> int:
    """Decimals of the clock that are seen to move."""
    return max(1, 2 - math.floor(math.log10(max(total, 1e-9))) if total < 1 else 1)

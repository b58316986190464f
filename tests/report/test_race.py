"""The race: what each panel shows when, and at which speed."""

import numpy as np
import pytest
from report.small import comparison

from diagd_cli.clip.panels import BAR, CAPTION, GAP, LINE, TRACK
from diagd_cli.clip.read import read_clip
from diagd_cli.report.race import (
    FPS,
    HOLD,
    LEAD,
    SHADES,
    arrivals,
    digits,
    pace,
    pictures,
    speed_of,
    state,
    write_race,
)

WIDE = 24 * 14


@pytest.mark.parametrize(
    "seconds, speed, words",
    [
        (5, 1, "real time"),
        (25, 1, "real time"),
        (57.5, 2.9, "replayed 2.9x faster"),
        (4000, 200, "replayed 200x faster"),
        (0.5, 0.025, "replayed 40x slower"),
        (3, 0.15, "replayed 6.7x slower"),
    ],
)
def test_short_runs_are_in_real_time_and_others_take_about_twenty_seconds(seconds, speed, words):
    assert speed_of(seconds) == speed and pace(speed) == words
    assert 4 < seconds / speed < 27


def test_frames_arrive_with_their_latent_frame():
    assert arrivals([1.0, 2.5], 1, 2).tolist() == [1, 2.5]
    assert arrivals([1.0, 2.5], 4, 6).tolist() == [1, 1, 1, 1, 2.5, 2.5]


def test_a_frame_is_bright_when_it_arrives_and_fades_until_the_next():
    there = np.array([3.0, 6.0])
    assert state(there, 0.0, 1) == (0, SHADES)
    assert state(there, 3.0, 1) == (1, 0) and state(there, 5.9, 1) == (1, SHADES)
    assert 0 < state(there, 3.3, 1)[1] < SHADES and state(there, 3.3, 0.1)[1] == SHADES
    assert state(there, 6.0, 1) == state(there, 60.0, 1) == (2, 0)


def test_clock_has_as_many_decimals_as_are_seen_to_move():
    assert [digits(s) for s in (60, 1.2, 0.5, 0.04)] == [1, 1, 3, 4]


def bars(picture: np.ndarray) -> list[float]:
    """How far the bar of each panel reaches, as a share of its width."""
    line = picture[CAPTION + LINE - 3]
    return [(line[n * (WIDE + GAP) :][:WIDE] == BAR).all(-1).mean() for n in range(3)]


def test_slow_decodings_crawl_while_quick_ones_are_done():
    one = comparison()
    there = [arrivals(row.completed, 1, 4) for row in one.rows]
    shown = list(pictures(one, there, 12.0, 1.0, int((LEAD + 12 + HOLD) * FPS)))
    at = lambda seconds: bars(shown[round((LEAD + seconds) * FPS)])  # noqa: E731
    assert at(0) == [0, 0, 0] and (shown[0][CAPTION + LINE - 3, :WIDE] == TRACK).all()
    assert at(1.0) == pytest.approx([0, 0, 0.5], abs=0.01)
    assert at(3.1) == pytest.approx([0.25, 0.5, 1], abs=0.01)
    assert at(11.9) == pytest.approx([0.75, 1, 1], abs=0.01)
    assert at(12.0) == at(13.5) == [1, 1, 1]


def test_waiting_is_dim_and_done_is_not():
    one = comparison()
    there = [arrivals(row.completed, 1, 4) for row in one.rows]
    *_, before, last = pictures(one, there, 12.0, 1.0, int((LEAD + 2.9 + HOLD) * FPS))
    picture = np.s_[CAPTION + LINE : -CAPTION]
    waiting, done = (before[picture][:, n * (WIDE + GAP) :][:, :WIDE].mean() for n in (0, 2))
    assert waiting < 0.75 * done
    assert last.shape == before.shape


def test_video_tells_its_speed_and_length(tmp_path, monkeypatch):
    monkeypatch.setattr("diagd_cli.report.race.ABOUT", 2)
    about = write_race(tmp_path / "race.mp4", comparison(seconds=(0.1, 0.02)))
    assert about["speed"] == 0.05 and about["seconds"] == pytest.approx(2 + LEAD + HOLD, abs=0.1)
    video = read_clip(tmp_path / "race.mp4", 1)
    assert video.fps == FPS and video.frames.shape == (
        1,
        CAPTION + LINE + 16 * 14 + CAPTION,
        2 * WIDE + GAP,
        3,
    )

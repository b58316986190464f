"""Videos side by side."""

import numpy as np
from tiny import moving

from diagd_cli.clip.panels import CAPTION, PAPER, side_by_side


def test_layout():
    a, b = moving(3), 255 - moving(3)
    video = side_by_side([a, b], [["one"], ["two"]], least_width=48)
    assert (video.shape, video.dtype) == ((3, 16 * 2 + CAPTION, 2 * 24 * 2 + 4, 3), np.uint8)
    left, gap, right = video[:, CAPTION:, :48], video[:, CAPTION:, 48:52], video[:, CAPTION:, 52:]
    assert (gap == PAPER).all()
    for panel, frames in ((left, a), (right, b)):
        shrunk = panel.reshape(3, 16, 2, 24, 2, 3).mean((2, 4))
        assert np.abs(shrunk - frames).mean() < 12


def test_captions_change_with_the_frame():
    video = side_by_side([moving(3)], [["context", "context", "made"]])
    first, second, third = video[:, :CAPTION]
    assert (first == second).all() and (first != third).any() and (third != PAPER).any()


def test_shorter_video_stands_still():
    video = side_by_side([moving(2), moving(4)], [["a"], ["b"]], least_width=24)
    assert len(video) == 4 and (video[1, :, :24] == video[3, :, :24]).all()
    assert (video[1, CAPTION:, 28:] != video[3, CAPTION:, 28:]).any()


def test_wide_enough_videos_are_not_enlarged():
    assert side_by_side([moving(1, 16, 400)], [["a"]]).shape == (1, 16 + CAPTION, 400, 3)

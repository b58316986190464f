"""Pictures side by side."""

import numpy as np
import pytest
from PIL import Image
from tiny import moving

from diagd_cli.clip.panels import (
    BAR,
    CAPTION,
    GAP,
    LINE,
    PAPER,
    TRACK,
    captioned,
    enlarged,
    footed,
    side_by_side,
    stacked,
    tiled,
)


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


@pytest.mark.parametrize(
    "width, count, rows, columns",
    [(320, 4, 1, 4), (320, 5, 2, 3), (320, 8, 2, 4), (1024, 4, 2, 2), (5000, 2, 2, 1)],
)
def test_panels_that_have_no_room_in_a_row_are_in_several(width, count, rows, columns):
    panels = [Image.new("RGB", (width, 10), (n, n, n)) for n in range(200, 200 + count)]
    sheet = tiled(panels)
    assert sheet.shape == (rows * (10 + GAP) - GAP, columns * (width + GAP) - GAP, 3)
    row, column = divmod(count - 1, columns)
    assert (sheet[row * (10 + GAP) :, column * (width + GAP) :][:10, :width] == 199 + count).all()


def test_captions_have_lines_a_right_side_and_a_bar():
    image = Image.new("RGB", (320, 20))
    one, two = np.asarray(captioned(image, "NTP")), np.asarray(captioned(image, "NTP\n18 steps"))
    assert one.shape[0] == 20 + CAPTION and two.shape[0] == 20 + CAPTION + LINE
    assert (one[:CAPTION, 160:] == PAPER).all()
    right = np.asarray(captioned(image, "NTP", "frame 3/16"))
    assert (right[:CAPTION, 220:] != PAPER).any() and (right[:, 314:] != one[:, 314:]).sum() == 0
    for share in (0, 0.25, 1):
        line = np.asarray(captioned(image, "NTP", share=share))[CAPTION - 3]
        assert (line == BAR).all(-1).mean() == share and (line == TRACK).all(-1).mean() == 1 - share


def test_pictures_are_stacked_and_have_a_foot():
    above, below = enlarged(moving(1)[0], 2), Image.new("RGB", (48, 10), (9, 9, 9))
    both = np.asarray(stacked(above, below))
    assert (
        both.shape == (32 + GAP + 10, 48, 3)
        and (both[32 : 32 + GAP] == PAPER).all()
        and (both[-10:] == 9).all()
    )
    whole = footed(both, "4.2 s", "real time")
    assert whole.shape[0] == both.shape[0] + CAPTION and (whole[: len(both)] == both).all()
    assert (whole[len(both) :] != PAPER).any()


@pytest.mark.parametrize(
    "name, line", [("short", 0), ("a name so long that nothing fits beside it", 1)]
)
def test_what_stands_right_goes_where_there_is_room(name, line):
    image, text = Image.new("RGB", (320, 20)), f"{name}\nfew steps"
    with_count, without = (
        np.asarray(captioned(image, text, right)) for right in ("frame 16/16", "")
    )
    rows = np.flatnonzero((with_count != without).any((1, 2)))
    assert line * LINE <= rows.min() and rows.max() < CAPTION + line * LINE

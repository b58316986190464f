"""The contact sheet with its names."""

import numpy as np
from report.small import comparison

from diagd_cli.report.sheet import GAP, HEAD, PAPER, chosen, contact_sheet_of, sized


def test_columns_are_the_last_context_frame_and_new_ones_to_the_last():
    assert chosen(comparison(new=4)) == [1, 2, 3, 4, 5]
    assert chosen(comparison(new=16)) == [1, 2, 7, 12, 17] and chosen(comparison(new=1)) == [1, 2]


def test_rows_have_names_on_the_left_and_frames_have_numbers_above():
    sheet = contact_sheet_of(comparison())
    high, wide = 16 * 5 + GAP, 24 * 5 + GAP
    left = sheet.shape[1] - (5 * wide - GAP)
    assert sheet.shape[0] == HEAD + 4 * high - GAP and left > 80
    for row in range(4):
        assert (sheet[HEAD + row * high :][:high, :left] != PAPER).any()
    for column in range(5):
        assert (sheet[:HEAD, left + column * wide :][:, :wide] != PAPER).any()
    cell = sheet[HEAD + high :][: 16 * 5, left : left + 24 * 5]
    assert (
        np.abs(cell.reshape(16, 5, 24, 5, 3).mean((1, 3)) - comparison().videos[0][1]).mean() < 12
    )


def test_frames_are_brought_to_a_width_that_can_be_looked_at():
    sizes = [
        sized(np.zeros((40, width, 3), np.uint8)).shape[1]
        for width in (24, 120, 160, 480, 640, 1024)
    ]
    assert sizes == [120, 120, 160, 480, 320, 342]

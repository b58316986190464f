"""Frames brought to a preset's size."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import moving

from diagd_cli.tokens.fit import fit_frames


def test_right_size_is_untouched():
    frames = moving(2)
    assert (fit_frames(frames, 16, 24).numpy() == frames).all()


@given(*[st.integers(1, 60)] * 4)
def test_any_size_to_any_size(height, width, to_height, to_width):
    frames = np.full((2, height, width, 3), (10, 100, 200), np.uint8)
    fitted = fit_frames(frames, to_height, to_width).numpy()
    assert (fitted.shape, fitted.dtype) == ((2, to_height, to_width, 3), np.uint8)
    assert (fitted == (10, 100, 200)).all()  # covered: no border


@pytest.mark.parametrize("height, width", [(120, 80), (40, 160), (121, 83), (9, 16)])
def test_centre_is_kept_and_the_sides_are_cut(height, width):
    """A cross through the centre stays where it is; the picture is not squeezed."""
    frames = np.zeros((1, height, width, 3), np.uint8)
    frames[0, height // 2 - height // 8 : height // 2 + height // 8 + 1] = 255
    fitted = fit_frames(frames, 40, 40).numpy()[0, :, :, 0] > 127
    rows = np.flatnonzero(fitted.all(axis=1))
    assert abs(rows.mean() - 19.5) < 2
    assert len(rows) == pytest.approx((2 * (height // 8) + 1) * max(40 / height, 40 / width), abs=2)


def test_shrinking_averages():
    """Without antialiasing, stripes of one pixel would become black or white."""
    frames = np.zeros((1, 64, 64, 3), np.uint8)
    frames[:, :, ::2] = 255
    inner = fit_frames(frames, 8, 8).numpy()[:, :, 1:-1]
    assert np.abs(inner.astype(int) - 127).max() < 12

"""Difference maps: their values, their colours, and a scale that is told."""

import numpy as np
import pytest
from tiny import moving

from diagd_cli.report.heat import coloured, difference, legend, ramp, top_of


def test_difference_is_the_mean_over_colours():
    black, other = np.zeros((1, 2, 2, 3), np.uint8), np.zeros((3, 2, 2, 3), np.uint8)
    other[0, 0, 1] = 30, 0, 255
    values = difference(black, other)
    assert (values.shape, values.dtype) == ((1, 2, 2), np.float32)
    assert values[0].tolist() == [[0, 95], [0, 0]] and (difference(other, black) == values).all()


def test_top_is_round_and_leaves_wild_pixels_out():
    values = np.full((1, 100, 100), 33.0)
    values[0, 0, :50] = 250
    assert top_of([values, values / 2]) == 40
    assert top_of([np.zeros((1, 4, 4))]) == 10 and top_of([np.full((1, 4, 4), 255.0)]) == 255


def test_colours_grow_lighter_evenly():
    assert ramp()[0].tolist() == [0, 0, 0] and ramp()[-1].min() > 200
    linear = np.where(ramp() <= 10, ramp() / 255 / 12.92, ((ramp() / 255 + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    # CIE L*
    lightness = np.where(luminance < 0.008856, 903.3 * luminance, 116 * np.cbrt(luminance) - 16)
    assert np.abs(lightness - np.linspace(0, lightness[-1], 256)).max() < 12
    assert (np.diff(lightness[::8]) > 0).all()


@pytest.mark.parametrize("value, place", [(0, 0), (20, 128), (40, 255), (90, 255)])
def test_values_find_their_colour(value, place):
    assert coloured(np.array([float(value)]), 40)[0].tolist() == ramp()[place].tolist()


def test_legend_has_the_size_asked_for_and_shows_the_ramp():
    image = np.asarray(legend(320, 240, "ground truth", 60))
    assert image.shape == (240, 320, 3)
    colours = {tuple(c) for c in image.reshape(-1, 3).tolist()}
    assert {tuple(c) for c in ramp()[40:200:40].tolist()} <= colours
    assert (image != np.asarray(legend(320, 240, "NTP", 60))).any()


def test_equal_frames_are_black():
    assert not coloured(difference(moving(2), moving(2)), 10).any()

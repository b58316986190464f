"""The flat layout of video tokens and of what steers them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import grids

from diagd_cli.tokens.grid import Grid


def test_by_hand():
    """Two frames of 2x3 tokens, two conditioning tokens after each, one token before the first."""
    grid = Grid(2, 3, conditioning=2, prefix=1)
    assert (grid.area, grid.block, grid.length(2)) == (6, 8, 17)
    assert (grid.position(0, 0, 0), grid.position(0, 1, 2), grid.position(1, 0, 0)) == (1, 6, 9)
    assert grid.conditioning_positions(0).tolist() == [7, 8]
    assert grid.coords(11).tolist() == [
        [0, 0, 0],
        [0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 1, 0], [0, 1, 1], [0, 1, 2], [0, 2, 0], [0, 2, 1],
        [1, 0, 0], [1, 0, 1],
    ]  # fmt: skip


@given(grids(), st.integers(1, 4))
def test_coords_invert_position(grid, frames):
    coords = grid.coords(grid.length(frames))
    t, i, j = np.indices((frames, grid.h, grid.w)).reshape(3, -1)
    assert (coords[grid.position(t, i, j)] == np.stack([t, i, j], axis=1)).all()
    first = len(grid.frame_end)
    for frame in range(frames):
        steering = coords[grid.conditioning_positions(frame)]
        assert steering.tolist() == [[frame, grid.h, first + a] for a in range(grid.conditioning)]
    assert (coords[: grid.prefix] == 0).all()


@given(grids(), st.integers(1, 4))
def test_every_position_is_one_token(grid, frames):
    places = [grid.position(*np.indices((frames, grid.h, grid.w))).ravel(), np.arange(grid.prefix)]
    places += [grid.conditioning_positions(t) for t in range(frames)]
    places.append(grid.ends(grid.length(frames))[0])
    assert sorted(np.concatenate(places)) == list(range(grid.length(frames)))


@given(grids(), st.integers(1, 4), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_codes_invert_flatten(grid, frames, batch, seed):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 99, (batch, frames, grid.h, grid.w))
    steering, prefix = (
        rng.integers(0, 99, (batch, frames, grid.conditioning)),
        rng.integers(0, 99, grid.prefix),
    )
    flat = grid.flatten(codes, steering, prefix)
    assert flat.shape == (batch, grid.length(frames)) and flat.dtype == np.int64
    assert (grid.codes(flat, frames) == codes).all()
    t, i, j = np.indices(codes.shape[1:])
    assert (flat[:, grid.position(t, i, j)] == codes).all()
    for frame in range(frames):
        assert (flat[:, grid.conditioning_positions(frame)] == steering[:, frame]).all()
    assert (flat[:, : grid.prefix] == prefix).all()
    where, ids = grid.ends(grid.length(frames))
    assert (flat[:, where] == ids).all()


def test_ends_of_rows_and_frames_by_hand():
    """Two frames of 2x3 codes: two ids after each row, one after each frame, then one that
    steers.
    """
    grid = Grid(2, 3, conditioning=1, prefix=1, row_end=(90, 91), frame_end=(92,))
    assert (grid.area, grid.stride, grid.tail, grid.block, grid.length(2)) == (6, 5, 4, 12, 25)
    codes = np.arange(12).reshape(2, 2, 3)
    flat = grid.flatten(codes, np.array([[70], [71]]), np.array([80]))
    row = [90, 91]
    assert flat.tolist() == [
        80, 0, 1, 2, *row, 3, 4, 5, *row, 92, 70, 6, 7, 8, *row, 9, 10, 11, *row, 92, 71,
    ]  # fmt: skip
    assert grid.row_end_positions(1, 0).tolist() == [16, 17]
    assert grid.tail_positions(0).tolist() == [9, 10, 11, 12]
    assert np.flatnonzero(grid.is_code(np.arange(25)))[:7].tolist() == [1, 2, 3, 6, 7, 8, 13]
    assert grid.order(grid.position(1, *np.indices((2, 3)))).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert [x.tolist() for x in grid.ends(10)] == [[4, 5, 9], [90, 91, 90]]
    assert grid.coords(13)[4:].tolist() == [
        [0, 0, 3], [0, 0, 4], [0, 1, 0], [0, 1, 1], [0, 1, 2], [0, 1, 3], [0, 1, 4], [0, 2, 0], [0, 2, 1],
    ]  # fmt: skip


@given(grids(), st.integers(1, 4))
def test_codes_are_known_by_their_position(grid, frames):
    """And counted: `order` is the raster order in each frame."""
    positions = grid.position(*np.indices((frames, grid.h, grid.w))).ravel()
    every = np.arange(grid.prefix, grid.length(frames))
    assert every[grid.is_code(every)].tolist() == positions.tolist()
    assert grid.order(positions).tolist() == list(range(grid.area)) * frames


def test_codes_of_another_grid():
    with pytest.raises(ValueError, match="codes are 3x2, the grid is 2x3"):
        Grid(2, 3).flatten(np.zeros((1, 3, 2), int))

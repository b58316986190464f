"""Timelines: when each token is made, replaced by a stand-in, and fed late."""

import numpy as np
import pytest

from diagd_cli.report.timeline import NEVER, timeline
from diagd_cli.schedule.decoding import Decoding
from diagd_cli.schedule.plan import build_plan
from diagd_cli.tokens.grid import Grid

GRIDS = [
    Grid(3, 4), Grid(3, 4, conditioning=2, prefix=1), Grid(1, 5), Grid(4, 1, 1),
    Grid(3, 4, 1, 1, row_end=(7, 8), frame_end=(9,)),
]  # fmt: skip


def of(grid, frames, *decoding, context=1):
    return timeline([build_plan(grid, context, frames, Decoding(*decoding))])


@pytest.mark.parametrize("grid", GRIDS)
def test_tokens_are_made_by_equation_5(grid):
    line = of(grid, 3, "diagd", 1, 2 if grid.area > 4 else 1)
    d = 2 if grid.area > 4 else 1
    t, i, j = np.indices((3, grid.h, grid.w))
    assert (line.made == t * d + i + j).all() and line.steps == line.made.max() + 1


@pytest.mark.parametrize("grid", GRIDS)
def test_ntp_needs_no_stand_in(grid):
    line = of(grid, 2, "ntp")
    assert (line.made.ravel() == np.arange(2 * grid.area)).all()
    assert (line.stand_in == NEVER).all() and (line.gone == line.late).all()


def test_stand_ins_come_with_rows_and_go_when_the_truth_is_fed():
    """On 3x4 by k=2, d=3: row i of frame t starts at 3t + 2i, its predecessor is made at 3t +
    2(i-1) + 3.
    """
    line = of(Grid(3, 4), 2, "diagd", 2, 3)
    t, i = np.indices((2, 2))
    assert (line.stand_in[:, :2, 3] == 3 * t + 2 * i + 2).all() and line.stand_in[0, 2, 3] == 3
    assert (line.late[:, :2, 3] == line.made[:, :2, 3] + 1).all() and (line.gone == line.late).all()
    assert (line.stand_in[:, :, :3] == NEVER).all() and line.stand_in[1, 2, 3] == NEVER


def test_ends_of_rows_leave_no_stand_in_and_show_no_cell_of_their_own():
    """What is fed late is the last code of every row, the step after it is made."""
    line = of(Grid(3, 4, row_end=(7,)), 2, "diagd", 2, 3)
    assert line.made.shape == (2, 3, 4) and (line.stand_in == NEVER).all()
    late = line.late < NEVER
    late[1, 2, 3] = True  # the last code of all, which nobody needs
    assert late[:, :, 3].all() and not late[:, :, :3].any()
    assert (line.late[0] == line.made[0] + 1)[:, 3].all()


def test_without_repair_stand_ins_stay():
    line = timeline([build_plan(Grid(3, 4), 1, 2, Decoding("diagd", 2, 3, repair=False))])
    there = line.stand_in < NEVER
    assert there.sum() == 5 and (line.gone[there] == NEVER).all()


def test_windows_follow_one_another():
    grid, decoding = Grid(2, 3, conditioning=1), Decoding("diagd", 1, 2, repair=False)
    plans = [build_plan(grid, 2, 3, decoding), build_plan(grid, 3, 2, decoding)]
    line, parts = timeline(plans), [timeline([plan]) for plan in plans]
    assert (line.frames, line.steps) == (5, parts[0].steps + parts[1].steps)
    assert (line.made[3:] == parts[1].made + parts[0].steps).all()
    there = line.stand_in < NEVER
    assert (line.gone[:3][there[:3]] == parts[0].steps).all() and (
        line.gone[3:][there[3:]] == NEVER
    ).all()
    assert (line.first(2).made == line.made[:2]).all() and line.first(2).steps == line.steps

"""The animation of a plan: its cells, its pace, its layout."""

from dataclasses import replace

import numpy as np
import pytest

from diagd_cli.errors import UsageError
from diagd_cli.report import animation
from diagd_cli.report.animation import (
    CURRENT,
    EARLY,
    EMPTY,
    LATE,
    PAPER,
    RECENT,
    STAND_IN,
    Layout,
    colours,
)
from diagd_cli.report.timeline import timeline
from diagd_cli.schedule.decoding import Decoding
from diagd_cli.schedule.plan import build_plan
from diagd_cli.tokens.grid import Grid


def line(grid, frames, *decoding):
    return timeline([build_plan(grid, 1, frames, Decoding(*decoding))])


def cells(part, done, every=1):
    return [[tuple(cell) for cell in row] for row in colours(part, done, every)[0][0].tolist()]


def test_cells_of_each_step():
    """One frame of 2x2 by k=1, in three steps: row 1 starts on a stand-in for (0, 1), which is
    repaired at once.
    """
    part = line(Grid(2, 2), 1, "diagd", 1, 1)
    middle = tuple(int(e + (r - e) / 2) for e, r in zip(EARLY, RECENT, strict=True))
    assert cells(part, 0) == [[EMPTY, EMPTY], [EMPTY, EMPTY]]
    assert cells(part, 1) == [[CURRENT, EMPTY], [EMPTY, EMPTY]]
    assert cells(part, 2) == [[EARLY, CURRENT], [CURRENT, EMPTY]]
    assert cells(part, 3) == [[EARLY, LATE], [middle, CURRENT]]


def test_stand_in_is_shown_until_it_is_replaced():
    part = line(Grid(2, 4), 1, "diagd", 2, 1)
    last = [cells(part, done)[0][3] for done in range(part.steps + 1)]
    assert last == [EMPTY, EMPTY, EMPTY, STAND_IN, CURRENT, LATE, tuple(part_colour(part, 3))]
    assert {cells(line(Grid(2, 4), 1, "ntp"), done)[0][3] for done in range(9)}.isdisjoint(
        {STAND_IN, LATE}
    )


def part_colour(part, step):
    return [int(e + step / (part.steps - 1) * (r - e)) for e, r in zip(EARLY, RECENT, strict=True)]


def test_no_step_is_lost_where_pictures_take_several():
    part = line(Grid(3, 5), 2, "diagd", 2, 4)
    for every in (1, 2, 3):
        seen = sum(
            (colours(part, done, every)[1] == 0).astype(int)
            for done in range(every, part.steps + every, every)
        )
        late = sum(
            (colours(part, done, every)[1] == 2).astype(int)
            for done in range(every, part.steps + every, every)
        )
        assert ((seen == 1) | (late == 1)).all() and (late == (part.late < part.steps)).all()


@pytest.mark.parametrize("steps", [1, 11, 78, 162, 400, 1200, 7680, 400_000])
def test_pace(steps):
    """Whole in time, as slow as that allows, a picture a step where it can be."""
    part = line(Grid(1, 1), 1, "ntp")
    part = replace(part, steps=steps, made=np.array([[[steps - 1]]]))
    pace = animation.pace_of([part])
    assert (
        pace.shown == steps <= pace.rate * 18.5
        and (pace.every == 1 or pace.fps == 25)
        and 100 % pace.fps == 0
    )
    race = animation.pace_of(
        [part, replace(part, steps=50 * steps, made=np.array([[[50 * steps - 1]]]))]
    )
    assert steps <= race.rate * 8 and race.shown / race.rate <= 18.5 and race.shown >= steps


@pytest.mark.parametrize(
    "frames, h, w", [(3, 40, 64), (4, 15, 20), (2, 6, 8), (16, 15, 20), (1, 1, 1), (1, 1, 400)]
)
@pytest.mark.parametrize("decodings", [1, 2])
def test_layout_fits_and_panels_do_not_overlap(frames, h, w, decodings):
    part = line(Grid(h, w), frames, "diagd", 1, 1)
    layout = animation.fit([part] * decodings)
    height, width = layout.size
    assert (
        layout.frames == frames
        and height <= 720 + 1
        and width <= 1280
        and height % 2 == width % 2 == 0
    )
    taken = np.zeros((height, width), int)
    for decoding in range(decodings):
        for frame in range(frames):
            top, left = layout.place(decoding, frame)
            assert (
                top + h * layout.cell <= height - animation.LEGEND
                and left + w * layout.cell <= width
            )
            taken[
                top - animation.CAPTION : top + h * layout.cell, left : left + w * layout.cell
            ] += 1
    assert taken.max() == 1


def test_as_many_frames_as_fit():
    part = line(Grid(40, 64), 100, "diagd", 1, 1)
    layout = animation.fit([part])
    assert layout.frames == 24 and layout.cell == animation.LEAST
    with pytest.raises(UsageError, match="A frame of 300x500 tokens is too large to be drawn"):
        animation.fit([line(Grid(300, 500), 1, "diagd", 1, 1)])


def test_marks_have_shapes_where_there_is_room():
    red = np.full((1, 1, 3), 200, np.uint8)
    for side in (9, 15, 48):
        plain, cross, dot = (
            animation.enlarged(red, np.array([[mark]]), side) for mark in (0, 1, 2)
        )
        assert (
            plain.shape == (side, side, 3)
            and (plain[:-1, :-1] == 200).all()
            and (plain[-1] == PAPER).all()
        )
        assert (cross != plain).any() and (dot != plain).any() and (cross != dot).any()
    assert (animation.enlarged(red, np.array([[1]]), 4) == 200).all()


def test_pictures_show_what_the_cells_are():
    part = line(Grid(2, 3), 2, "diagd", 1, 2)
    layout, pace = Layout(2, 3, 4, 2, 2, 1), animation.pace_of([part])
    pictures = list(animation.draw([part], [part], layout, pace, part.steps + 1))
    for done, picture in enumerate(pictures):
        assert picture.shape == (*layout.size, 3) and picture.dtype == np.uint8
        for frame in range(2):
            top, left = layout.place(0, frame)
            assert (
                picture[top : top + 8 : 4, left : left + 12 : 4] == colours(part, done, 1)[0][frame]
            ).all()
    titles = [picture[: animation.MARGIN + animation.TITLE].tobytes() for picture in pictures]
    assert len(set(titles)) == part.steps + 1

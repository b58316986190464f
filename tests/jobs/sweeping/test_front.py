"""The Pareto front."""

import random

from jobs.sweeping.small import ntp, row

from diagd_cli.jobs.sweeping.front import front, ranked, unsteady


def test_front():
    points = [(1, 2.0), (5, 2.1), (4, 2.1), (9, 2.05), (12, 2.5), (12, 2.6)]
    assert front(points) == [True, False, False, True, True, False]


def test_equal_points_are_on_it_together():
    assert front([(1, 2.0), (2, 2.0), (2, 2.0)]) == [False, True, True]


def test_nothing_on_it_is_beaten_and_all_else_is():
    drawn = random.Random(0)
    points = [(drawn.randint(1, 9), drawn.randint(1, 9)) for _ in range(40)]
    on = {point for point, kept in zip(points, front(points), strict=True) if kept}
    for speed, nll in points:
        better = [p for p in points if p[0] >= speed and p[1] <= nll and p != (speed, nll)]
        assert ((speed, nll) in on) == (not better)
    assert sorted(on) == [p for p in sorted(on) if all(q[0] <= p[0] or q[1] > p[1] for q in on)]


def test_rows_go_from_slow_to_fast():
    rows = ranked([ntp(), row(1, 1, 20, 0.4), row(2, 10, 9, 0.1), row(2, 20, 6, 0.2)])
    assert [r.label for r in rows] == ["NTP", "DiagD k=2 d=20", "DiagD k=2 d=10", "DiagD k=1 d=1"]
    assert [r.front for r in rows] == [True, False, True, True]


def test_a_speed_up_that_steps_do_not_allow():
    base, fair = ntp(steps=2400), row(2, 10, 9, 0.1, steps=156)
    assert not unsteady([base, fair]) and not unsteady([base])
    assert unsteady([base, fair, row(4, 10, 26.7, 0.1, steps=212)])

"""The chart: every decoding has a label that can be read, and the front is a line through
the best.
"""

import sys

import numpy as np
import pytest
from jobs.sweeping.small import ntp, row

from diagd_cli.errors import MissingExtra
from diagd_cli.jobs.sweeping.front import ranked
from diagd_cli.report.sweep_chart import bars, check, draw, short, write_chart


def crowd(count):
    """NTP and decodings that lie close together, as those of neighbouring k and d do."""
    drawn = np.random.default_rng(0)
    return [
        ntp(),
        *(
            row(1 + n % 5, n + 1, 4 + 4 * drawn.random(), 0.2 * drawn.random())
            for n in range(count)
        ),
    ]


def drawing(rows):
    pytest.importorskip("matplotlib")
    figure = check()(figsize=(9, 6), dpi=150, layout="constrained")
    labels = draw(figure, ranked(rows), "title")
    renderer = figure.canvas.get_renderer()
    return figure.axes[0], [label.get_window_extent(renderer) for label in labels], labels


def test_labels_cover_neither_each_other_nor_points():
    axes, boxes, labels = drawing(crowd(24))
    inside = axes.get_window_extent()
    assert len({label.get_text() for label in labels}) == 25
    for n, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:n])
        assert (
            inside.x0 <= box.x0
            and box.x1 <= inside.x1
            and inside.y0 <= box.y0
            and box.y1 <= inside.y1
        )
        for other in labels:
            x, y = axes.transData.transform(other.xy)
            assert not (box.x0 < x < box.x1 and box.y0 < y < box.y1)


def test_a_label_lies_beside_its_point():
    axes, boxes, labels = drawing(crowd(24))
    for box, label in zip(boxes, labels, strict=True):
        x, y = axes.transData.transform(label.xy)
        away = np.hypot(max(box.x0 - x, x - box.x1, 0), max(box.y0 - y, y - box.y1, 0))
        assert away * 72 / 150 <= 65  # points


def test_the_front_is_a_line_from_slow_to_fast():
    axes, _, _ = drawing([ntp(), row(2, 10, 9, 0.1), row(1, 1, 20, 0.4), row(2, 20, 6, 0.2)])
    lines = [line.get_xydata().tolist() for line in axes.lines if len(line.get_xydata()) > 2]
    assert lines == [[[1, 2.0], [9, 2.1], [20, 2.4]]]
    assert "speed-up over NTP" in axes.get_xlabel() and axes.get_xscale() == "log"


def test_one_clip_and_ntp_alone():
    assert bars(row(1, 1, 9, 0.1, None)) is None and bars(ntp()) is None
    assert bars(row(1, 1, 9, 0.1, 0.04)) == pytest.approx((0.04, 0.04))
    assert len(drawing([ntp()])[1]) == 1


def test_names_tell_what_else_differs():
    rows = [ntp(), row(2, 10, 9, 0.1), row(2, 10, 9, 0.2, repair=False)]
    assert [short(own, rows) for own in rows] == ["NTP", "2/10", "2/10 no repair"]
    rows.append(row(2, 10, 9, 0.1, stand_in="above"))
    assert [short(own, rows) for own in rows[1:]] == [
        "2/10 previous-frame",
        "2/10 previous-frame no repair",
        "2/10 above",
    ]


def test_without_matplotlib(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(
        MissingExtra, match=r"The chart \(--no-chart leaves it out\) needs the package matplotlib"
    ):
        write_chart(tmp_path / "sweep.png", [ntp()], "title")
    assert not list(tmp_path.iterdir())

"""The video of all panels, read back."""

from dataclasses import replace

import numpy as np
import pytest
from report.small import comparison

from diagd_cli.clip.panels import CAPTION, GAP, LINE, PAPER
from diagd_cli.clip.read import read_clip
from diagd_cli.report.video import difference_maps, pictures, write_panels

HIGH, WIDE = 16 * 14, 24 * 14  # of a panel's picture
TOP = CAPTION + LINE


def test_truth_comes_first_and_every_panel_has_its_size(tmp_path):
    about = write_panels(tmp_path / "out.mp4", comparison())
    video = read_clip(tmp_path / "out.mp4", 6)
    assert about is None and video.fps == 10.0
    assert video.frames.shape == (6, TOP + HIGH, 4 * (WIDE + GAP) - GAP, 3)
    panels = [video.frames[0, TOP:, n * (WIDE + GAP) :][:, :WIDE].mean() for n in range(4)]
    assert np.diff(panels) == pytest.approx([20, 20, 20], abs=4)


def test_heat_maps_lie_below_and_tell_what_they_are_held_against(tmp_path):
    about = write_panels(tmp_path / "out.mp4", comparison(), heat=True)
    assert about == {"reference": "ground truth", "top": 60}
    frame = read_clip(tmp_path / "out.mp4", 6).frames[3]
    assert frame.shape[0] == TOP + 2 * HIGH + GAP
    maps = [frame[TOP + HIGH + GAP :, n * (WIDE + GAP) :][:, :WIDE].mean() for n in range(1, 4)]
    assert maps[0] < maps[1] < maps[2]  # 20, 40 and 60 levels


def test_without_truth_the_first_decoding_is_the_measure():
    one = comparison(truth=False)
    maps, about = difference_maps(one)
    assert about["reference"] == "NTP" and [m.shape for m in maps] == [(6, 16, 24)] * 2
    assert next(pictures(one, maps, about)).shape == (
        TOP + 2 * HIGH + GAP,
        3 * (WIDE + GAP) - GAP,
        3,
    )


def test_truth_that_ends_early_stands_still_and_has_no_differences():
    whole = comparison()
    early = replace(whole, truth=whole.truth[:4])
    maps, about = difference_maps(early)
    first, *between, last = pictures(early, maps, about)
    below, truth = np.s_[TOP + HIGH + GAP :, WIDE + GAP :], np.s_[TOP : TOP + HIGH, :WIDE]
    assert len(maps[0]) == 4 and (first[below] != PAPER).any() and (last[below] == PAPER).all()
    assert (between[-1][truth] == last[truth]).all() and (first[truth] != last[truth]).any()


def test_captions_count_context_and_new_frames():
    one = comparison()
    assert [one.count(t) for t in range(6)] == [
        "context 1/2",
        "context 2/2",
        *(f"frame {n}/4" for n in range(1, 5)),
    ]
    assert one.names == ["ground truth", "NTP", "spatial DiagD k=1", "DiagD k=1 d=2"]
    assert one.abouts()[1:] == [
        "1,200 steps, 12.0 s, 1.0x",
        "600 steps, 6.0 s, 2.0x",
        "150 steps, 1.5 s, 8.0x",
    ]
    assert comparison(seconds=(0.25, 0.1)).abouts()[1] == "25 steps, 250 ms, 1.0x"

"""diagd plan: what a decoding does, without a model."""

import subprocess
import sys

import pytest

from diagd_cli.config import load_preset
from diagd_cli.engine.windows import window_parts


@pytest.mark.parametrize(
    "options, steps",
    [
        (["--k", 2, "--d", 10], 162),
        (["--k", 1, "--d", 1], 105),
        (["--k", 4, "--d", 20], 260),
        (["--k", 2, "--d", 40], 222),
        (["--decoding", "ntp"], 7680),
        (["--decoding", "spatial", "--k", 2], 3 * (39 * 2 + 64)),
        (["--decoding", "zipar", "--k", 16], 3 * (39 * 16 + 64)),
    ],
)
def test_steps_on_the_grid_of_cosmos(diagd, options, steps):
    [facts] = diagd("plan", "--grid", "3,40,64", *options, "--json").objects
    assert (facts["steps"], facts["tokens"], facts["grid"]) == (steps, 7680, [3, 40, 64])
    assert facts["ideal_speedup"] == facts["tokens_per_step"]["mean"] == round(7680 / steps, 2)


def test_text(diagd):
    done = diagd("plan", "--grid", "2,3,4", "--k", 2, "--d", 3)
    assert (
        done.out
        == """\
DiagD k=2 d=3, stand-in previous-frame
2 new frames of 3x4: 24 tokens in 11 steps
2.18 tokens a step (at most 4): up to 2.18x faster than next-token prediction

step at which each token is made:
frame 0       frame 1
 0  1  2  3    3  4  5  6
 2  3  4  5    5  6  7  8
 4  5  6  7    7  8  9 10
"""
    )


def test_preset_and_its_window(diagd, tiny):
    facts = diagd("plan", "-p", tiny.preset, "--frames", 7, "--json").objects[0]
    assert (facts["windows"], facts["steps"], facts["label"]) == (3, 8 + 8 + 4, "DiagD k=1 d=2")
    assert "in 3 windows" in diagd("plan", "-p", tiny.preset, "--frames", 7).out


def test_shipped_preset_follows_equation_5(diagd):
    preset = load_preset("freedoom")
    clip, frames, k, d, grid = preset.clip, preset.clip.frames, preset.decoding.k, preset.decoding.d, preset.grid
    parts = window_parts(clip.context, frames, clip.window, clip.overlap)
    [facts] = diagd("plan", "--decoding", "diagd", "--json").objects
    steps = sum((new - 1) * d + (grid.h - 1) * k + grid.w for _, new in parts)
    assert (facts["steps"], facts["windows"]) == (steps, len(parts))
    [facts] = diagd("plan", "--decoding", "ntp", "--json").objects
    assert facts["steps"] == facts["tokens"] == frames * grid.area


@pytest.mark.parametrize("grid", ["1,1,1", "5,1,300", "3,200,200", "16,15,20"])
def test_picture_fits_a_terminal(diagd, grid):
    assert all(len(line) <= 78 for line in diagd("plan", "--grid", grid).out.split("\n\n")[1].splitlines())


@pytest.mark.parametrize(
    "options, message",
    [
        (["--grid", "3,40"], "--grid is '3,40'. Write T,h,w as positive whole numbers, such as 3,40,64"),
        (["--grid", "3,0,4"], "--grid is '3,0,4'. Write T,h,w as positive whole numbers, such as 3,40,64"),
        (["--grid", "999,999,999"], "--grid 999,999,999 has 997,002,999 tokens. Plan at most 4,000,000"),
        (["--grid", "3,4,5", "--k", 6], "k is 6. On a 4x5 grid it must lie in 1..5"),
        (["--preset", "freedom"], "Unknown preset 'freedom'. Did you mean freedoom?"),
    ],
)
def test_bad_input(diagd, options, message):
    done = diagd("plan", *options)
    assert (done.code, done.out, done.err) == (2, "", f"error: {message}\n")


def test_no_torch():
    code = (
        "import sys\nfrom diagd_cli.cli.app import app\ntry: app(['plan'])\nfinally: assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)

"""diagd plan: what a decoding does, without a model."""

import subprocess
import sys

import pytest
from PIL import Image

from diagd_cli.clip.read import read_clip
from diagd_cli.engine.windows import window_parts
from diagd_cli.preset_files import load_preset
from diagd_cli.report import animation


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
    clip, frames, k, d, grid = (
        preset.clip,
        preset.clip.frames,
        preset.decoding.k,
        preset.decoding.d,
        preset.grid,
    )
    parts = list(window_parts(clip.context, frames, clip.window, clip.overlap))
    for window, counts in (("slide", [frames]), ("roll", [new for _, new in parts])):
        [facts] = diagd("plan", "--decoding", "diagd", "--window", window, "--json").objects
        steps = sum((new - 1) * d + (grid.h - 1) * k + grid.w for new in counts)
        assert (facts["steps"], facts["windows"]) == (steps, len(counts))
    [facts] = diagd("plan", "--decoding", "ntp", "--json").objects
    assert facts["steps"] == facts["tokens"] == frames * grid.area


@pytest.mark.parametrize("grid", ["1,1,1", "5,1,300", "3,200,200", "16,15,20"])
def test_picture_fits_a_terminal(diagd, grid):
    assert all(
        len(line) <= 78 for line in diagd("plan", "--grid", grid).out.split("\n\n")[1].splitlines()
    )


@pytest.mark.parametrize(
    "options, message",
    [
        (
            ["--grid", "3,40"],
            "--grid is '3,40'. Write T,h,w as positive whole numbers, such as 3,40,64",
        ),
        (
            ["--grid", "3,0,4"],
            "--grid is '3,0,4'. Write T,h,w as positive whole numbers, such as 3,40,64",
        ),
        (
            ["--grid", "999,999,999"],
            "--grid 999,999,999 has 997,002,999 tokens. Plan at most 4,000,000",
        ),
        (["--grid", "3,4,5", "--k", 6], "k is 6. On a 4x5 grid it must lie in 1..5"),
        (
            ["--compare-with", "ntp"],
            "--compare-with is a part of an animation. Add --animate OUT.mp4",
        ),
        (["--animate", "order.avi"], "--animate is 'order.avi'. Name an .mp4 or a .gif file"),
        (
            ["--animate", "a.mp4", "--compare-with", "fast"],
            "Invalid value for '--compare-with': 'fast' is not one of ntp, exact, diagd, spatial, zipar. "
            "See: diagd plan --help",
        ),
        (["--preset", "freedom"], "Unknown preset 'freedom'. Did you mean freedoom?"),
    ],
)
def test_bad_input(diagd, options, message):
    done = diagd("plan", *options)
    assert (done.code, done.out, done.err) == (2, "", f"error: {message}\n")


@pytest.fixture
def animate(diagd, tmp_path):
    def run(name, *options):
        return diagd(
            "plan", "--grid", "2,3,4", "--k", 2, "--d", 3, "--animate", tmp_path / name, *options
        )

    return run


def test_animation_has_a_picture_a_step(animate, tmp_path):
    """11 steps at 4 a second: the start, each step, and the end for another 1.5 s."""
    done = animate("order.mp4", "--json")
    assert done.code == 0, done.err
    [facts] = done.objects
    pictures = 1 + 11 + 6
    assert facts["steps"] == 11 and facts["animation"] == {
        "output": f"{tmp_path}/order.mp4", "decodings": ["DiagD k=2 d=3"], "frames": 2, "frames_left_out": 0,
        "steps": 11, "steps_per_second": 4, "steps_per_picture": 1, "seconds": pictures / 4,
    }  # fmt: skip
    clip = read_clip(tmp_path / "order.mp4", pictures)
    assert (clip.first, clip.fps) == (0, 4) and [p.name for p in tmp_path.iterdir()] == [
        "order.mp4"
    ]
    assert (
        (clip.frames[-1] == clip.frames[-6]).mean()
        > 0.99
        > (clip.frames[-7] == clip.frames[-9]).mean()
    )


def test_race_goes_on_after_the_first_has_finished(animate, diagd, tmp_path):
    done = animate("race.gif", "--compare-with", "ntp")
    assert done.code == 0 and done.out == f"{tmp_path}/race.gif\n"
    assert (
        done.err.startswith("DiagD k=2 d=3, stand-in previous-frame\n")
        and "4 steps a second" in done.err
    )
    with Image.open(tmp_path / "race.gif") as image:
        total, pictures = 0, []
        for n in range(image.n_frames):
            image.seek(n)
            total += image.info["duration"]
            pictures.append(image.convert("RGB"))
    # NTP takes 24 steps; equal pictures may be one that lasts longer
    assert total == 250 * (1 + 24 + 6)
    top, bottom = ({p.crop((0, y, p.width, y + 210)).tobytes() for p in pictures} for y in (0, 210))
    # above: the start, 11 steps, and nothing made any more
    assert len(top) == 13 and len(bottom) == 25


def test_as_many_frames_as_fit_until_they_are_made(diagd, tmp_path, monkeypatch):
    monkeypatch.setattr(animation, "WIDTH", 100)
    monkeypatch.setattr(animation, "HEIGHT", 130)
    done = diagd(
        "plan", "--grid", "9,3,4", "--k", 2, "--d", 3, "--animate", tmp_path / "a.gif", "--json"
    )
    [facts] = done.objects
    told = facts["animation"]
    assert (told["frames"], told["frames_left_out"], told["steps"]) == (3, 6, 2 * 3 + 2 * 2 + 4)
    assert facts["steps"] == 8 * 3 + 2 * 2 + 4
    done = diagd("plan", "--grid", "9,3,4", "--animate", tmp_path / "b.gif")
    assert done.err.endswith("4 steps a second; 3 frames are drawn, 6 left out\n")


def test_long_plans_are_subsampled(diagd, tmp_path, monkeypatch):
    """50 steps in 1.5 s: more than pictures."""
    monkeypatch.setattr(animation, "SECONDS", 3)
    done = diagd(
        "plan", "--grid", "1,5,10", "--decoding", "ntp", "--animate", tmp_path / "long.gif"
    )
    assert done.err.endswith("animation: 2.56 s, 50 steps a second, 2 steps a picture\n")


def test_animation_of_a_preset_follows_its_windows(diagd, tiny, tmp_path):
    [facts] = diagd(
        "plan", "-p", tiny.preset, "--frames", 7, "--animate", tmp_path / "a.mp4", "--json"
    ).objects
    assert (
        (facts["animation"]["frames"], facts["animation"]["steps"])
        == (7, facts["steps"])
        == (7, 20)
    )


def test_animation_that_exists(animate, tmp_path):
    (tmp_path / "order.mp4").write_text("precious")
    done = animate("order.mp4")
    assert (
        done.code == 1
        and "exists already" in done.err
        and (tmp_path / "order.mp4").read_text() == "precious"
    )
    assert (
        animate("order.mp4", "--force").code == 0 and (tmp_path / "order.mp4").stat().st_size > 1000
    )


def test_grid_that_is_too_large_to_draw(diagd, tmp_path):
    done = diagd("plan", "--grid", "1,300,500", "--animate", tmp_path / "a.mp4")
    assert done.code == 2 and "A frame of 300x500 tokens is too large to be drawn" in done.err
    assert not list(tmp_path.iterdir())


def test_no_torch(tmp_path):
    code = """
import sys
from diagd_cli.cli.app import app
for options in ([], ["--grid", "1,2,2", "--animate", sys.argv[1]]):
    try:
        app(["plan", *options])
    except SystemExit as end:
        assert not end.code
assert "torch" not in sys.modules
"""
    subprocess.run(
        [sys.executable, "-c", code, tmp_path / "a.mp4"], check=True, capture_output=True
    )
    assert (tmp_path / "a.mp4").exists()

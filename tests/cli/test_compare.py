"""diagd compare: panels, table, report."""

import json
import shlex
import shutil
import sys

import numpy as np
import pytest
from PIL import Image
from tiny import moving, save_clip

from diagd_cli.clip.read import read_clip
from diagd_cli.preset_files import load_preset, save_preset


@pytest.fixture
def compare(diagd, tiny, tmp_path):
    def run(*options, clip=tiny.clip):
        return diagd(
            "compare", clip, "-p", tiny.preset, "--seed", 0, "-o", tmp_path / "out.mp4", *options
        )

    return run


def test_shipped_preset(diagd, clips, tmp_path):
    options = ["--decodings", "diagd", "--context", 1, "--frames", 1, "--seed", 0, "--json"]
    done = diagd("compare", clips / "maze.mp4", *options, "-o", tmp_path / "maze.mp4")
    assert done.code == 0, done.err
    [report] = done.objects
    [row] = report["decodings"]
    assert row["label"].startswith("DiagD k=") and row["tokens"] == 300 and 0 < row["steps"] < 300
    assert report["tokenizer_limit"]["psnr"] > 20


def test_report(compare, tmp_path):
    done = compare("--decodings", "ntp,diagd,diagd:2:3,zipar:3", "--json")
    [report] = done.objects
    assert report == json.loads((tmp_path / "out.json").read_text())
    rows = report["decodings"]
    assert [row["label"] for row in rows] == [
        "NTP",
        "DiagD k=1 d=2",
        "DiagD k=2 d=3",
        "ZipAR window=3",
    ]
    assert [row["steps"] for row in rows] == [18, 8, 11, 18] and {
        row["tokens"] for row in rows
    } == {18}
    assert (report["seed"], report["frames"], report["context_frames"], report["preset"]) == (
        0,
        3,
        2,
        "tiny",
    )
    assert rows[0]["speedup"] == 1 and rows[0]["token_agreement"] == 1
    for row in rows:
        assert (
            0 <= row["token_agreement"] <= 1
            and row["speedup"] > 0
            and len(row["psnr_by_frame"]) == 3
        )
        assert (
            row["psnr"] == pytest.approx(np.mean(row["psnr_by_frame"]), abs=0.02)
            and -1 <= row["ssim"] <= 1
        )
        assert (
            row["seconds"]["decode"] > 0
            and row["tokens_per_second"] > 0
            and row["frames_per_second"] > 0
        )


def test_zipar_with_the_whole_row_is_ntp_token_for_token(compare):
    [report] = compare("--decodings", "ntp,zipar:3", "--json").objects
    assert [row["token_agreement"] for row in report["decodings"]] == [1, 1]


def test_video_has_a_panel_for_the_truth_and_for_each_decoding(compare, tmp_path):
    done = compare("--sheet")
    assert done.out == f"{tmp_path}/out.mp4\n" and done.code == 0
    video = read_clip(tmp_path / "out.mp4", 5)
    scale = -(-320 // 24)
    wide = 3 * 24 * scale + 2 * 4
    assert (video.first, video.fps) == (0, 10.0)
    assert video.frames.shape == (5, 16 * scale + 48, wide, 3)
    sheet = Image.open(tmp_path / "out.png")
    # the last context frame and three new ones
    assert sheet.height > 3 * 16 * 5 and sheet.width > 4 * 24 * 5
    assert not (tmp_path / "out-race.mp4").exists() and not (tmp_path / "out.html").exists()


def test_heat_maps_are_held_against_the_truth_or_the_first_decoding(compare, tmp_path):
    short = save_clip(tmp_path / "in" / "short.mp4", moving(2))
    truth = compare("--heat", "--json").objects[0]["heat"]
    first = compare("--heat", "--json", "--force", clip=short).objects[0]["heat"]
    assert truth["reference"] == "ground truth" and first["reference"] == "NTP"
    assert truth["top"] % 10 == first["top"] % 10 == 0 and truth["top"] > 0
    assert read_clip(tmp_path / "out.mp4", 1).frames.shape[1] == 48 + 2 * 16 * 14 + 4


def test_race(compare, tmp_path, monkeypatch):
    monkeypatch.setattr("diagd_cli.report.race.ABOUT", 2)  # seconds
    [report] = compare("--race", "--json").objects
    rows, race = report["decodings"], report["race"]
    for row in rows:
        assert len(row["completed"]) == 3 and row["completed"] == sorted(row["completed"])
        assert row["completed"][-1] == pytest.approx(row["seconds"]["decode"], rel=0.5, abs=0.02)
    slowest = max(row["completed"][-1] for row in rows)
    assert race["output"] == f"{tmp_path}/out-race.mp4" and race["speed"] == pytest.approx(
        slowest / 2, rel=0.06
    )
    assert read_clip(tmp_path / "out-race.mp4", 1).fps == 20


def test_command_does_it_again(diagd, compare, tmp_path):
    [report] = compare("--decodings", "ntp,spatial", "--no-repair", "--json").objects
    words = shlex.split(report["command"])
    assert words[:2] == ["diagd", "compare"] and "--no-repair" in words and "--seed=0" in words
    [again] = diagd(*words[1:], "--force").objects
    steps = [
        [row[key] for key in ("label", "steps", "psnr", "token_agreement")]
        for row in report["decodings"]
    ]
    assert steps == [
        [row[key] for key in ("label", "steps", "psnr", "token_agreement")]
        for row in again["decodings"]
    ]


def test_command_tells_the_environment_too(diagd, tiny, tmp_path):
    options = ["-o", tmp_path / "out.mp4", "--json"]
    [report] = diagd(
        "compare", tiny.clip, *options, DIAGD_PRESET=str(tiny.preset), DIAGD_FRAMES="1"
    ).objects
    words = shlex.split(report["command"])
    assert (
        f"--preset={tiny.preset}" in words
        and "--frames=1" in words
        and f"--seed={report['seed']}" in words
    )


def test_table(compare):
    lines = compare("--decodings", "ntp,spatial").err.splitlines()
    assert lines[0] == "tiny, 3 new frames, seed 0"
    header = lines[2].split()
    assert header[:2] == ["decoding", "steps"] and header[-4:] == [
        "speed-up",
        "PSNR",
        "SSIM",
        "same",
    ]
    assert [line.split()[0] for line in lines[4:6]] == ["NTP", "spatial"] and all(
        len(line) <= 80 for line in lines
    )
    assert "…" not in "".join(lines)


def test_clip_that_ends_with_its_context_has_no_truth(compare, tmp_path):
    clip = save_clip(tmp_path / "in" / "short.mp4", moving(2))
    done = compare("--json", clip=clip)
    [report] = done.objects
    assert report["tokenizer_limit"] is None and "psnr" not in report["decodings"][0]
    assert read_clip(tmp_path / "out.mp4", 1).frames.shape[2] == 2 * 24 * 14 + 4


def test_another_transformer_runs_beside(compare, tiny, tmp_path):
    """A fine-tuned model has a row of its own; here it is the same model by another name, and makes
    the same tokens.
    """
    named = tiny.folder / "tuned.yaml"
    save_preset(load_preset(tiny.preset).model_copy(update={"name": "tuned"}), named)
    # as `diagd finetune` leaves it
    run = shutil.copytree(tiny.folder, tmp_path / "run") / "preset.yaml"
    save_preset(load_preset(tiny.preset).model_copy(update={"about": "tuned"}), run)
    decodings = f"diagd:1:2,diagd:1:2@{named},diagd:1:2@{run}"
    [report] = compare("--decodings", decodings, "--html", "--json").objects
    own, *others = report["decodings"]
    assert [row["label"] for row in report["decodings"]] == [
        f"DiagD k=1 d=2{name}" for name in ("", ", tuned", ", run")
    ]
    assert [row["token_agreement"] for row in others] == [1, 1] and "preset" not in own["decoding"]
    assert (
        others[0]["decoding"]["preset"] == "tuned"
        and "DiagD k=1 d=2, tuned" in (tmp_path / "out.html").read_text()
    )


@pytest.mark.parametrize(
    "decodings, message",
    [
        (
            "ntp,fast",
            "Invalid value for '--decodings': 'fast' is not one of ntp, exact, diagd, spatial, "
            "zipar. See: diagd",
        ),
        ("diagd:4", "k is 4. On a 2x3 grid it must lie in 1..3"),
        ("diagd:1:5", "d is 5. With k=1 on a 2x3 grid it must lie in 1..4"),
        (
            "diagd:x",
            "Cannot read the decoding 'diagd:x'. Write NAME, NAME:K or NAME:K:D, such as "
            "diagd:2:10; after that",
        ),
        (
            "diagd:above:1",
            "Cannot read the decoding 'diagd:above:1'. Write NAME, NAME:K or NAME:K:D",
        ),
        ("diagd@gone", "Unknown preset 'gone'"),
        ("diagd@freedoom", "The preset freedoom differs from tiny in tokenizer, grid, actions"),
        ("", "Invalid value for '--decodings': '' is not one of"),
    ],
)
def test_bad_decodings(compare, tmp_path, decodings, message):
    done = compare("--decodings", decodings)
    assert (
        done.code == 2 and done.err.startswith(f"error: {message}") and not list(tmp_path.iterdir())
    )


@pytest.mark.parametrize(
    "option, name", [("--race", "out-race.mp4"), ("--html", "out.html"), ("--sheet", "out.png")]
)
def test_nothing_is_replaced(compare, tmp_path, option, name):
    (tmp_path / name).write_text("precious")
    done = compare(option)
    assert done.code == 1 and f"{tmp_path}/{name} exists already" in done.err
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_page_needs_matplotlib(compare, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    done = compare("--html")
    assert done.code == 1 and not list(tmp_path.iterdir())
    assert done.err == (
        "error: --html needs the package matplotlib. Install it with: pip install 'diagd[report]'\n"
    )


def test_existing_output(compare, tmp_path):
    (tmp_path / "out.json").write_text("precious")
    done = compare()
    assert done.code == 1 and f"{tmp_path}/out.json exists already" in done.err
    assert [p.name for p in tmp_path.iterdir()] == ["out.json"]
    assert compare("--force", "-q").err == ""

"""The recorder: clips with an action per frame, repeatable, split by episode seed."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from diagd_cli.errors import UsageError
from diagd_cli.preset_files import load_preset
from diagd_cli.progress import Silent
from diagd_cli.train.record import downsample, movement, record, split_of
from diagd_cli.train.requests import SCENARIOS, RecordRequest

pytest.importorskip("vizdoom")
imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")

FRAMES = 12
SEED = 10  # with one scenario, episodes get the seeds 10 (training) and 11 (validation)


def read_clip(path: Path) -> np.ndarray:
    """Frames uint8 (T, H, W, 3) of a video file."""
    reader = imageio_ffmpeg.read_frames(str(path))
    width, height = next(reader)["size"]
    return np.stack([np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader])


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("clips")
    seen = []

    class Watch(Silent):
        def bar(self, name, total, unit="steps"):
            self.total = total
            return nullcontext(self)

        def update(self, done, text=None):
            seen.append((done, self.total))

    record(one_level(out, episodes=2), Watch())
    assert seen == [(1, 2), (2, 2)]
    return out


def one_level(out: Path, **changes) -> RecordRequest:
    return RecordRequest(
        **{"out": out, "scenarios": ("my_way_home",), "frames": FRAMES, "seed": SEED, **changes}
    )


def test_split_is_by_seed(clips):
    assert [split_of(s) for s in (0, 10, 11, 12, 23)] == ["train", "train", "val", "train", "val"]
    names = sorted(str(p.relative_to(clips).with_suffix("")) for p in clips.glob("*/*.mp4"))
    assert names == ["train/my_way_home-00010", "val/my_way_home-00011"]


def test_one_known_action_per_frame(clips):
    known = load_preset("freedoom").actions.names
    for path in clips.glob("*/*.mp4"):
        lines = [json.loads(line) for line in path.with_suffix(".jsonl").read_text().splitlines()]
        assert read_clip(path).shape == (FRAMES, 120, 160, 3)
        assert [line["frame"] for line in lines] == list(range(FRAMES))
        assert all(line["action"] in known for line in lines)


def test_same_seed_same_frames_whatever_came_before(clips, tmp_path):
    record(one_level(tmp_path, episodes=1, seed=SEED + 1))
    again = read_clip(tmp_path / "val" / "my_way_home-00011.mp4")
    np.testing.assert_array_equal(again, read_clip(clips / "val" / "my_way_home-00011.mp4"))
    assert not np.array_equal(again, read_clip(clips / "train" / "my_way_home-00010.mp4"))


def test_downsample_is_a_rounded_area_mean():
    frame = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    mean = frame.reshape(6, 4, 8, 4, 3).mean((1, 3))
    np.testing.assert_array_equal(downsample(frame, 6, 8), np.floor(mean + 0.5).astype(np.uint8))


def test_movement_turns_and_brakes():
    assert movement("idle", 0.0, (0.0, 0.0)) == [0, 0, 0]
    assert movement("left", 0.0, (0.0, 0.0))[0] == -movement("right", 0.0, (0.0, 0.0))[0] < 0
    assert movement("forward", 90.0, (0.0, 0.0))[1] > 0 > movement("back", 90.0, (0.0, 0.0))[1]
    assert movement("idle", 90.0, (0.0, 4.0))[1] < 0


def test_unknown_scenario_and_size_are_usage_errors(tmp_path):
    assert set(SCENARIOS) == {"my_way_home", "health_gathering_supreme"}
    with pytest.raises(UsageError):
        record(one_level(tmp_path, episodes=1, scenarios=("no_such_level",)))
    with pytest.raises(UsageError):
        record(one_level(tmp_path, episodes=1, height=100))

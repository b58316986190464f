"""Inverse dynamics: the shipped weights read the shipped clips, and others can be trained."""

import json
import shutil

import numpy as np
import pytest
from tiny import moving, save_clip

from diagd_cli.clip.read import read_clip
from diagd_cli.errors import ClipError, WeightsError
from diagd_cli.model.inverse import FEATURES, InverseDynamics, read_motion
from diagd_cli.preset_files import load_preset, preset_folder
from diagd_cli.train import inverse as inverse_train
from diagd_cli.train.data import Episodes
from diagd_cli.train.inverse import Pairs, accuracies
from diagd_cli.weights.load import load_inverse


def test_shipped_weights_read_the_shipped_clips(clips):
    """Action t is taken after frame t, so the pair (t, t+1) shows it: read against any other shift,
    it fits worse.
    """
    preset = load_preset("freedoom")
    model, right = load_inverse(preset), {-1: [], 0: [], 1: []}
    for clip in sorted(clips.glob("*.mp4")):
        frames = read_clip(clip, 44).frames
        read, features = read_motion(model, frames)
        assert features.shape == (43, FEATURES) and np.isfinite(features).all()
        actions = preset.actions.read(clip.with_suffix(".jsonl"))[:, 0] - preset.actions.offset
        for shift in right:
            right[shift].append((read[1:-1] == actions[1 + shift : 42 + shift]).mean())
    mean = {shift: np.mean(values) for shift, values in right.items()}
    # actions last for several frames
    assert mean[0] > 0.9 and mean[0] > max(mean[1], mean[-1]) + 0.03


def test_small():
    assert sum(p.numel() for p in InverseDynamics(10).parameters()) <= 300_000
    assert (preset_folder() / "freedoom" / "inverse.safetensors").stat().st_size <= 1_000_000


def test_pairs_stay_within_a_clip_and_have_known_actions():
    actions = load_preset("freedoom").actions
    ids = np.array([0, 1, 2, 9, 3, 4])  # 9: none
    tokens = ids[:, None] + actions.offset
    pairs = Pairs(
        Episodes(np.zeros((6, 8, 8, 3), np.uint8), np.array([0, 3, 6]), tokens, ()), actions
    )
    assert pairs.firsts.tolist() == [0, 1, 4] and pairs.take(pairs.firsts)[1].tolist() == [0, 1, 3]
    with pytest.raises(ClipError, match=r"None of the clips that train .* has a known action"):
        Pairs(
            Episodes(
                np.zeros((3, 8, 8, 3), np.uint8),
                np.array([0, 3]),
                np.full((3, 1), tokens[3, 0]),
                (),
            ),
            actions,
        )


def test_accuracies():
    assert accuracies(np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]])) == {
        "accuracy": 0.875,
        "by_action": [0.75, 1, None],
    }


def test_damaged_weights(tmp_path):
    preset = load_preset("freedoom")
    (tmp_path / "freedoom").mkdir()
    copy = tmp_path / "freedoom" / "inverse.safetensors"
    shutil.copyfile(preset_folder() / "freedoom" / "inverse.safetensors", copy)
    assert load_inverse(preset, folder=tmp_path)
    copy.write_bytes(copy.read_bytes()[:-4] + b"oops")
    with pytest.raises(WeightsError, match="is damaged or another version"):
        load_inverse(preset, folder=tmp_path)
    gone = preset.model_copy(
        update={"inverse_weights": type(preset.inverse_weights).single("gone.safetensors")}
    )
    with pytest.raises(
        WeightsError, match=r"inverse weights of .* are missing: no gone.safetensors"
    ):
        load_inverse(gone)
    assert load_inverse(preset.model_copy(update={"inverse_weights": None})) is None


def test_train(diagd, tiny, tmp_path, monkeypatch):
    """What drifts one way under one action and the other way under another is told apart after a
    few steps.
    """
    quick = inverse_train.SETTINGS.model_copy(update={"batch": 16, "warmup": 5})
    monkeypatch.setattr(inverse_train, "SETTINGS", quick)
    for n, split in enumerate(("train", "train", "val")):
        frames, places, x = moving(1, 60, 200)[0], [0], 60
        names = [("left", "right")[int(v)] for v in np.random.default_rng(n).integers(2, size=20)]
        for name in names:
            places.append(places[-1] + (6 if name == "right" else -6))
        clip = np.stack([np.roll(frames, place, 1)[:16, x : x + 24] for place in places])
        path = save_clip(tmp_path / "data" / split / f"{n}.mp4", clip)
        path.with_suffix(".jsonl").write_text(
            "".join(json.dumps({"action": a}) + "\n" for a in [*names, "idle"])
        )
    command = [
        "train",
        "inverse",
        tmp_path / "data",
        "--out",
        tmp_path / "run",
        "-p",
        tiny.preset,
        "--every",
        10,
    ]
    done = diagd(*command, "--steps", 20)
    assert (done.code, done.out) == (0, f"{tmp_path}/run/preset.yaml\n"), done.err
    told = json.loads((tmp_path / "run" / "inverse" / "confusion.json").read_text())
    assert (
        np.sum(told["confusion"]) == 20 and told["accuracy"] > 0.8 and told["by_action"][0] is None
    )
    preset = load_preset(tmp_path / "run" / "preset.yaml")
    assert load_inverse(preset) and preset.transformer_weights

"""Trainings from Python do what the commands do, and tell a Progress of it."""

import re
import shutil
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file
from tiny import moving, save_clip

from diagd_cli.errors import ClipError, UsageError
from diagd_cli.preset_files import load_preset
from diagd_cli.progress import Silent
from diagd_cli.schedule.decoding import Decoding
from diagd_cli.train.jobs.finetune import decodings_and_windows, finetune
from diagd_cli.train.jobs.inverse import train_inverse
from diagd_cli.train.jobs.tokenizer import train_tokenizer
from diagd_cli.train.jobs.transformer import train_transformer
from diagd_cli.train.requests import FinetuneRequest, InverseRequest, TrainRequest

TRAINING_PAGE = Path(__file__).parents[3] / "docs" / "training.md"
RECIPE = {
    "preset": "tiny.yaml",
    "tokenizer": {"steps": 4, "batch": 4, "lr": 1.0e-3, "warmup": 2},
    "transformer": {"steps": 4, "lr": 3.0e-3, "warmup": 2},
    "windows": {"phases": [{"start": 0, "frames": 3, "batch": 2}]},
}


@pytest.fixture
def world(tiny, tmp_path, monkeypatch):
    """The working folder: a recipe `mine.yaml`, its preset, and `clips`, four in one folder."""
    shutil.copytree(tiny.folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(RECIPE))
    for n in range(4):
        save_clip(tmp_path / "clips" / f"{n}.mp4", moving(8 + n)[n:])
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Listener(Silent):
    """Keeps the notes, and for each bar how far it came."""

    def __init__(self):
        self.notes, self.bars = [], {}

    def note(self, message, whole=False):
        self.notes.append(message)

    @contextmanager
    def bar(self, name, total, unit="steps"):
        bar = Count(total)
        yield bar
        self.bars[name] = (bar.done, bar.total, unit)


class Count(Silent):
    def __init__(self, total):
        self.total, self.done, self.text = total, 0, ""

    def update(self, done, text=lambda seconds: ""):
        self.done, self.text = done, text(1.0)


def request(**changes):
    return TrainRequest(
        **{"data": Path("clips"), "out": Path("runs/own"), "recipe": "mine.yaml", **changes}
    )


def same_weights(first, second):
    first, second = load_file(first), load_file(second)
    return first.keys() == second.keys() and all(
        (first[name] == second[name]).all() for name in first
    )


def test_the_example_of_the_docs_trains_what_the_commands_train(diagd, world):
    blocks = re.findall(r"```python\n(.*?)```", TRAINING_PAGE.read_text(), re.DOTALL)
    names: dict = {}
    for block in blocks:
        exec(compile(block, "training.md", "exec"), names)
    assert len(blocks) == 2 and names["preset"] == Path("runs/mine/preset.yaml")
    assert names["tuned"] == Path("runs/tuned/preset.yaml")
    for part in ("tokenizer", "transformer"):
        assert (
            diagd(
                "train", part, "clips", "--recipe", "mine.yaml", "--out", "runs/command", "-q"
            ).code
            == 0
        )
    decodings = ("--k", 1, "--d", 2, "--steps", 20, "-q")
    assert (
        diagd(
            "finetune",
            "clips",
            "-p",
            "runs/command/preset.yaml",
            "-o",
            "runs/tuned-too",
            *decodings,
        ).code
        == 0
    )
    for own, other in (("runs/mine", "runs/command"), ("runs/tuned", "runs/tuned-too")):
        for part in ("tokenizer", "transformer"):
            assert same_weights(f"{own}/{part}.safetensors", f"{other}/{part}.safetensors")


def test_what_a_progress_is_told(world):
    heard = Listener()
    train_tokenizer(request(samples=False), heard)
    assert heard.bars == {
        "reading train": (3, 3, "clips"),
        "reading val": (1, 1, "clips"),
        "tokenizer": (4, 4, "steps"),
    }
    split = "every tenth clip, by a hash of its name, validates (1 of 4)"
    assert heard.notes == [f"clips has no train and val: {split}"]
    train_tokenizer(request(steps=2, samples=False), heard)
    assert heard.notes[-1] == "The run in runs/own/tokenizer has 4 steps already, more than 2"


def test_inverse_dynamics(world):
    heard = Listener()
    path = train_inverse(
        InverseRequest(data=Path("clips"), out=Path("runs/own"), recipe="mine.yaml", steps=2), heard
    )
    assert load_preset(path).inverse_weights and Path("runs/own/inverse/confusion.json").is_file()
    assert heard.notes[0].startswith("read right: ") and heard.bars["inverse dynamics"] == (
        2,
        2,
        "steps",
    )


def test_a_preset_made_in_python_needs_no_file(world):
    """Its weights are looked for in the folder that is named."""
    preset = load_preset("tiny.yaml").model_copy(update={"name": "mine", "path": None})
    asked = FinetuneRequest(
        data=Path("clips"),
        out=Path("runs/own"),
        preset=preset,
        decodings=(Decoding("ntp"),),
        steps=1,
        weights_dir=Path(),
    )
    assert finetune(asked) == Path("runs/own/preset.yaml")


def test_errors_are_raised_before_anything_is_written(world):
    preset = load_preset("tiny.yaml")
    tuning = {"data": Path("clips"), "out": Path("runs/own"), "preset": preset}
    with pytest.raises(ClipError, match="none does not exist"):
        train_transformer(request(data=Path("none")))
    with pytest.raises(UsageError, match=r"d is 9\. With k=1 on a 2x3 grid"):
        finetune(FinetuneRequest(**tuning, decodings=(Decoding("diagd", k=1, d=9),)))
    with pytest.raises(UsageError, match="The window is 9 frame"):
        decodings_and_windows(FinetuneRequest(**tuning, decodings=(), window=9))
    slides = (Decoding("ntp", window="slide"),)
    with pytest.raises(UsageError, match=r"The window is 41 frame.*takes 3 to 40"):
        decodings_and_windows(FinetuneRequest(**tuning, decodings=slides, window=41))
    assert not Path("runs").exists()


def test_a_sample_may_be_longer_than_a_window_that_slides(world):
    """Over it the window of five frames slides, in training and in validation."""
    preset = load_preset("tiny.yaml")
    slides = (Decoding("ntp", window="slide"), Decoding("diagd", 1, 2, window="slide"))
    asked = FinetuneRequest(
        data=Path("clips"),
        out=Path("runs/long"),
        preset=preset,
        decodings=slides,
        steps=1,
        window=7,
    )
    mixture, windows = decodings_and_windows(asked)
    assert (mixture.window, windows.longest) == (5, 7)
    assert decodings_and_windows(replace(asked, window=5))[0].window == 0
    assert finetune(asked) == Path("runs/long/preset.yaml")
    assert load_preset("runs/long/preset.yaml").clip.window == 5

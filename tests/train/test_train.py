"""diagd train: a world of one's own from a folder of clips, and a stopped run that goes on as if it
had not been stopped.
"""

import json
import shutil
import signal

import pytest
import torch
import yaml
from tiny import moving, save_clip

from diagd_cli.cli.guard import TRAINING_INTERRUPTED
from diagd_cli.preset_files import load_preset
from diagd_cli.train import loop, transformer
from diagd_cli.train import tokenizer as codec
from diagd_cli.train.loop import Run

RECIPE = {
    "preset": "tiny.yaml",
    "tokenizer": {"steps": 6, "batch": 4, "lr": 1.0e-3, "warmup": 2, "ema": 0.9},
    "transformer": {"steps": 6, "lr": 3.0e-3, "muon": 0.02, "warmup": 2, "ema": 0.9},
    "windows": {
        "phases": [{"start": 0, "frames": 2, "batch": 2}, {"start": 3, "frames": 4, "batch": 1}]
    },
}


@pytest.fixture(scope="module")
def made(tiny, diagd, tmp_path_factory):
    """A folder with a recipe, its preset, three clips (two to train on, one to validate), and
    `whole`, trained on them.
    """
    folder = tmp_path_factory.mktemp("world")
    shutil.copytree(tiny.folder, folder, dirs_exist_ok=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    for n, split in enumerate(("train", "train", "val")):
        save_clip(folder / "data" / split / f"{n}.mp4", moving(6 + n)[n:])
    for part in ("tokenizer", "transformer"):
        done = trained(diagd, folder, part, "whole")
        assert (done.code, done.out, done.err) == (0, f"{folder}/whole/preset.yaml\n", "")
    return folder


@pytest.fixture
def world(made, tmp_path):
    """A copy of it to change."""
    return shutil.copytree(made, tmp_path, dirs_exist_ok=True)


@pytest.fixture
def train(diagd, world):
    """Trains a part of the world into a folder of it."""
    return lambda part, name="run", *options: trained(diagd, world, part, name, *options)


def trained(diagd, folder, part, name, *options):
    arguments = [
        folder / "data",
        "--out",
        folder / name,
        "--recipe",
        folder / "recipe.yaml",
        "--every",
        2,
        "-q",
    ]
    return diagd("train", part, *arguments, *options)


def state(folder):
    """Checkpoint and log of a run, its clock aside."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return torch.load(folder / "checkpoint.pt", weights_only=True), [
        line | {"time": 0} for line in lines
    ]


def equal(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_figures(made):
    figures = state(made / "whole" / "tokenizer")[1]
    assert [line["step"] for line in figures] == [2, 4, 6]
    assert all(line["psnr"] > 5 and 0 < line["codes"] <= 25 for line in figures)
    figures = state(made / "whole" / "transformer")[1]
    assert [len(line["nll_by_frame"]) for line in figures] == [2, 4, 4] and all(
        0 < line["nll"] < 9 for line in figures
    )


def test_the_preset_that_results_makes_a_video(diagd, made, tmp_path):
    done = diagd(
        "generate",
        made / "walk.mp4",
        "-p",
        made / "whole" / "preset.yaml",
        "-o",
        tmp_path,
        "--json",
    )
    assert done.code == 0 and done.objects[0]["new_frames"] == 3


def test_transformer_on_the_tokenizer_of_the_recipes_preset(train, diagd, world):
    """The folder of a run holds all that its preset needs."""
    assert train("transformer").code == 0
    for name in ("tokenizer.safetensors", "transformer.safetensors"):
        assert (world / "run" / name).is_file()
    assert diagd("presets", "check", world / "run" / "preset.yaml").code == 0


class Killed(BaseException):
    """Stands for SIGKILL: nothing of diagd catches it, nothing is saved."""


PLACES = {
    "loss": (codec, "reconstruction_loss"),
    "half an update": (torch.optim.AdamW, "step"),
    "update": (Run, "update"),
    "validation": (codec, "validate_tokenizer"),
    "log": (Run, "log"),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kill", [False, True], ids=["Ctrl-C", "kill"])
def test_a_stopped_run_goes_on_as_if_it_had_not_been_stopped(
    train, world, monkeypatch, place, kill
):
    owner, name = PLACES[place]
    work, calls = getattr(owner, name), []

    def stopped(*arguments, **options):
        result = work(*arguments, **options)
        calls.append(name)
        if len(calls) == (2 if name in ("validate_tokenizer", "log") else 3):
            if kill:
                raise Killed
            signal.raise_signal(signal.SIGINT)
        return result

    monkeypatch.setattr(owner, name, stopped)
    if kill:
        with pytest.raises(Killed):
            train("tokenizer", "parts")
    else:
        done = train("tokenizer", "parts")
        assert (done.code, done.err) == (130, f"error: {TRAINING_INTERRUPTED}\n")
    assert not (world / "parts" / "preset.yaml").exists()
    assert train("tokenizer", "parts").code == 0
    assert equal(state(world / "whole" / "tokenizer"), state(world / "parts" / "tokenizer"))
    whole, parts = (world / run / "tokenizer.safetensors" for run in ("whole", "parts"))
    assert whole.read_bytes() == parts.read_bytes()


def test_a_stopped_transformer_too(train, world, monkeypatch):
    shutil.copytree(world / "whole", world / "parts")
    shutil.rmtree(world / "parts" / "transformer")
    draws = []
    draw = transformer.WindowSampler.draw

    def stopped(self, windows, seed, step):
        draws.append(step)
        if len(draws) == 4:
            signal.raise_signal(signal.SIGINT)
        return draw(self, windows, seed, step)

    monkeypatch.setattr(transformer.WindowSampler, "draw", stopped)
    assert train("transformer", "parts").code == 130 and train("transformer", "parts").code == 0
    assert draws == [0, 1, 2, 3, 3, 4, 5]
    assert equal(state(world / "whole" / "transformer"), state(world / "parts" / "transformer"))


def test_a_finished_run_has_nothing_left_to_do(train, world):
    before = state(world / "whole" / "tokenizer")
    assert train("tokenizer", "whole").code == 0 and equal(
        before, state(world / "whole" / "tokenizer")
    )
    assert load_preset(world / "whole" / "preset.yaml").transformer_weights


def test_a_finished_run_can_go_on_and_a_new_tokenizer_leaves_no_old_transformer(train, world):
    """What a Transformer has learnt of another tokenizer's codes is worth nothing."""
    assert train("tokenizer", "whole", "--steps", 8).code == 0
    assert state(world / "whole" / "tokenizer")[1][-1]["step"] == 8
    assert load_preset(world / "whole" / "preset.yaml").transformer_weights is None


def test_ctrl_c_is_held_back_only_for_the_update():
    with pytest.raises(KeyboardInterrupt), loop.uninterrupted():
        signal.raise_signal(signal.SIGINT)
        held = True
    assert held and signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize(
    "change, code, message",
    [
        (lambda w: shutil.rmtree(w / "data" / "val"), 1, "{w}/data/val does not exist. Where there "
                                                         "is train/"),
        (lambda w: (w / "data/train/0.jsonl").write_text('{"action": "up"}'), 2, "{w}/data/train/0.jsonl, line 1: unknown"),
        (lambda w: (w / "data/train/0.jsonl").write_text('{"action": "left"}'), 2, "{w}/data/train/0.jsonl has 1 actions, and 6"),
        (lambda w: (w / "data/train/0.mp4").write_text("text"), 1, "{w}/data/train/0.mp4 is not a "
                                                                   "video file"),
        (lambda w: (w / "recipe.yaml").write_text("preset: {"), 2, "{w}/recipe.yaml, line 1, "
                                                                   "column 10: not valid YAML"),
        (lambda w: (w / "recipe.yaml").unlink(), 2, "No recipe {w}/recipe.yaml. Use freedoom, "
                                                    "freedoom-decoder, mc-"),
        (lambda w: edit(w, tokenizer={"stepz": 6}), 2, "{w}/recipe.yaml: unknown key "
                                                       "'tokenizer.stepz' (did you mean 'steps'?)"),
        (lambda w: edit(w, preset="none.yaml"), 2, "No preset file {w}/none.yaml"),
        (lambda w: edit(w, windows=windows(1, 2)), 2, "{w}/recipe.yaml: windows: phases must start "
                                                      "at 0 and rise"),
        (lambda w: edit(w, tokenizer=None), 2, "The recipe has no tokenizer part. Train the other "
                                               "part, or add one"),
        (lambda w: edit(w, windows=windows(0, 9)), 1, "The longest of the clips that train (0.mp4, "
                                                      "1.mp4) has 6 f"),
    ],
)  # fmt: skip
def test_bad_input(train, world, change, code, message):
    change(world)
    done = train("transformer" if "longest" in message else "tokenizer")
    assert done.code == code and done.err.startswith("error: " + message.format(w=world)), done.err
    assert done.err.count("\n") == 1 and not (world / "run" / "preset.yaml").exists()


def edit(world, **changes):
    (world / "recipe.yaml").write_text(yaml.safe_dump(RECIPE | changes))


def test_a_tokenizer_of_another_kind_is_not_trained(train, world):
    preset = yaml.safe_load((world / "tiny.yaml").read_text())
    codec = {"kind": "vq-image", "codebook": 25, "channels": [4, 4, 4, 4], "groups": 2}
    (world / "tiny.yaml").write_text(yaml.safe_dump({**preset, "tokenizer": codec}))
    done = train("tokenizer")
    assert (
        done.code == 2
        and "The tokenizer of tiny is vq-image, which cannot be trained here" in done.err
    )


def test_a_run_of_another_preset_is_left_alone(train, world):
    preset = yaml.safe_load((world / "tiny.yaml").read_text())
    (world / "other.yaml").write_text(yaml.safe_dump({**preset, "name": "other"}))
    done = train("tokenizer", "whole", "--preset", world / "other.yaml")
    message = f"{world}/whole holds a run of tiny, not of other. Name another folder with --out"
    assert (done.code, done.err) == (2, f"error: {message}\n")


def windows(start, frames):
    return {"phases": [{"start": start, "frames": frames, "batch": 1}]}


def test_bad_options(train):
    for options, message in [
        (["--steps", 0], "Invalid value for '--steps': '0' is not a whole number in 1..10000000"),
        (
            ["--precision", "fp8"],
            "Invalid value for '--precision': 'fp8' is not one of auto, bf16, fp32",
        ),
        (["--device", "gpu"], "Unknown device 'gpu'"),
    ]:
        done = train("tokenizer", "run", *options)
        assert done.code == 2 and done.err.startswith(f"error: {message}")


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-500], lambda data: b"", lambda data: b"text"]
)
def test_damaged_checkpoint(train, world, damage):
    path = world / "whole" / "tokenizer" / "checkpoint.pt"
    path.write_bytes(damage(path.read_bytes()))
    done = train("tokenizer", "whole")
    hint = "Train in another folder, or remove it to start again"
    assert (done.code, done.err) == (1, f"error: {path} is damaged or of another model. {hint}\n")

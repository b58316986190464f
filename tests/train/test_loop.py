"""The training loop: a batch in parts is the batch, and a run that is killed goes on as if it had
not been.
"""

import json
import math
import os
import shutil
import signal
import time

import numpy as np
import pytest
import torch
import yaml
from limits import small_disk
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import moving, save_clip
from train.near import LOSS, assert_same_training

from diagd_cli.errors import OutputError
from diagd_cli.pipeline import Loaded
from diagd_cli.preset_files import load_preset
from diagd_cli.train import loop, transformer
from diagd_cli.train.board import Board
from diagd_cli.train.data import load_tokens
from diagd_cli.train.loop import Run
from diagd_cli.train.optimiser import Optimiser
from diagd_cli.train.transformer import (
    Windows,
    WindowSampler,
    fit_transformer,
    token_nll,
    validate_transformer,
)
from diagd_cli.weights.load import load_tokenizer, load_transformer

WINDOWS = Windows.model_validate({"phases": [{"start": 0, "frames": 3, "batch": 5}]})
RECIPE = {
    "preset": "tiny.yaml",
    "transformer": {
        "steps": 16,
        "lr": 3.0e-3,
        "muon": 0.02,
        "warmup": 2,
        "ema": 0.9,
        "accumulate": 2,
    },
    "windows": {
        "phases": [{"start": 0, "frames": 2, "batch": 3}, {"start": 6, "frames": 3, "batch": 2}]
    },
}


@pytest.fixture(scope="module")
def world(tiny, tmp_path_factory):
    """A folder with a recipe, its preset, two clips to train on and one to validate."""
    folder = tmp_path_factory.mktemp("world")
    shutil.copytree(tiny.folder, folder, dirs_exist_ok=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    for n, split in enumerate(("train", "train", "val")):
        save_clip(folder / "data" / split / f"{n}.mp4", moving(6 + n)[n:])
    return folder


def samplers(world):
    preset = load_preset(world / "tiny.yaml")
    loaded = Loaded(preset, load_tokenizer(preset), None, torch.device("cpu"), torch.float32, 0.0)
    return [
        WindowSampler(load_tokens(world / "data", split, loaded), preset)
        for split in ("train", "val")
    ]


def trained(world, folder, precision="auto", **settings):
    model = load_transformer(load_preset(world / "tiny.yaml")).requires_grad_(True)
    optimiser = Optimiser(**{"steps": 4, "lr": 1e-3, "warmup": 1, "ema": 0.9, **settings})
    return fit_transformer(
        model, *samplers(world), optimiser, WINDOWS, folder, every=2, precision=precision
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_batch_in_parts_is_the_batch(world, tmp_path, precision):
    """In unequal parts, and in more than there are windows."""
    start = load_transformer(load_preset(world / "tiny.yaml")).state_dict()
    whole = trained(world, tmp_path / "1", precision)
    for parts in (2, 9):
        split = trained(world, tmp_path / str(parts), precision, accumulate=parts)
        assert split.loss == pytest.approx(whole.loss, abs=LOSS[precision])
        assert_same_training(start, whole.weights, split.weights, precision)


def test_parts_take_turns(world, tmp_path, monkeypatch):
    """Each part is backpropagated before the next one is computed: that is what saves the
    memory.
    """
    order = []
    work, backward = transformer.token_nll, torch.Tensor.backward
    monkeypatch.setattr(
        transformer, "token_nll", lambda *a: order.append(f"loss of {len(a[2])}") or work(*a)
    )
    monkeypatch.setattr(
        torch.Tensor, "backward", lambda loss: order.append("gradient") or backward(loss)
    )
    monkeypatch.setattr(transformer, "validate_transformer", lambda *a: {})
    trained(world, tmp_path, steps=1, accumulate=2)
    assert order == ["loss of 3", "gradient", "loss of 2", "gradient"]


def test_validation_is_the_mean_over_codes(world):
    """By frame, too; a model that knows nothing is as wrong everywhere."""
    model, val = load_transformer(load_preset(world / "tiny.yaml")), samplers(world)[1]
    flat = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    figures = validate_transformer(model, flat, val, frames=3, count=4)
    assert figures["nll"] == pytest.approx(math.log(25), abs=1e-3)
    assert figures["nll_by_frame"] == pytest.approx([math.log(25)] * 3, abs=1e-3)


def test_validation_tells_how_sure_it_is(world):
    """Its standard error over the windows is that of the windows one by one."""
    model, val = load_transformer(load_preset(world / "tiny.yaml")), samplers(world)[1]
    figures = validate_transformer(model, None, val, frames=3, count=4)
    starts = np.linspace(0, np.flatnonzero(val.left >= 3)[-1], 4).astype(int)
    windows = token_nll(model, None, val.sequences(starts, 3), val.grid).detach()
    last = windows[:, -val.grid.area :].mean(1)
    assert figures["nll"] == pytest.approx(windows.mean().item(), abs=1e-3)
    assert figures["nll_by_frame"][-1] == pytest.approx(last.mean().item(), abs=1e-3)
    assert figures["nll_by_frame_error"][-1] == pytest.approx(last.std().item() / 2, abs=1e-3)


def test_shipped_weights_are_the_average(each_processor, world, tmp_path):
    run = trained(world, tmp_path)
    shipped = run.shipped()
    assert not torch.equal(shipped.embed.weight, run.model.embed.weight)
    assert torch.equal(shipped.embed.weight, run.average["embed.weight"])


def figures(run):
    """The lines of the log without the clock, and TensorBoard's curves as (step, value)."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    curves = {
        tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    }
    return [line | {"time": 0} for line in lines], curves


def equal(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_a_killed_run_goes_on_as_if_it_had_not_been_killed(diagd, start, world, tmp_path):
    """By SIGKILL: weights, averages, loss curve, log and TensorBoard are those of a run that was
    left alone.

    Samples, which the killed process writes and the others do not, change nothing.
    """

    def arguments(name):
        return ["train", "transformer", world / "data", "--out", tmp_path / name, "--recipe", world / "recipe.yaml",
                "--every", 2, "--threads", 1, "-q"]  # fmt: skip

    assert diagd(*arguments("whole"), "--no-samples").code == 0
    log = tmp_path / "parts" / "transformer" / "log.jsonl"
    process = start(*arguments("parts"), env={**os.environ, "OMP_NUM_THREADS": "1"})
    while not log.exists() or log.read_text().count("\n") < 3:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    # TensorBoard reads event files in the order of their names, which tell the second
    time.sleep(1)
    stopped = torch.load(log.with_name("checkpoint.pt"), weights_only=True)["step"]
    assert 0 < stopped < 16
    assert diagd(*arguments("parts"), "--no-samples").code == 0
    whole, parts = (tmp_path / name / "transformer" for name in ("whole", "parts"))
    assert equal(*(torch.load(run / "checkpoint.pt", weights_only=True) for run in (whole, parts)))
    assert figures(whole) == figures(parts)
    lines, curves = figures(parts)
    assert (
        [line["step"] for line in lines]
        == [step for step, _ in curves["nll"]]
        == list(range(2, 17, 2))
    )
    assert {"loss", "rate", "nll_by_frame/0", "nll_by_frame/2"} <= curves.keys()
    assert (whole.parent / "transformer.safetensors").read_bytes() == (
        parts.parent / "transformer.safetensors"
    ).read_bytes()


def test_curves_of_steps_that_are_trained_again_are_void(tmp_path):
    """A run that was killed after it had logged step 4, and before it saved it, writes step
    4 anew.
    """
    for first, values in ((1, {2: 1.0, 4: 2.0}), (3, {4: 3.0})):
        board = Board(tmp_path, first)
        for step, value in values.items():
            board.add(step, {"loss": value})
        board.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(2, 1.0), (4, 3.0)]


def test_a_full_disk_ends_the_curves_and_not_the_run(tmp_path, capfd):
    with small_disk(tmp_path):
        (tmp_path / "filler").write_bytes(b"x" * (60 << 10))
        board = Board(tmp_path / "tensorboard", 1)
        for step in range(100):
            board.add(step, {"nll": [1.0] * 9})
        board.close()
    message = (
        f"{tmp_path}/tensorboard cannot be written: no space left on device. The figures go to "
        "log.jsonl only\n"
    )
    assert capfd.readouterr().err == message


def test_without_tensorboard_there_is_the_log(world, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "installed", lambda: False)
    trained(world, tmp_path)
    assert (tmp_path / "log.jsonl").read_text().count("\n") == 2 and not (
        tmp_path / "tensorboard"
    ).exists()


def test_a_full_disk_keeps_the_checkpoint_before(world, tmp_path):
    run, folder = trained(world, tmp_path), tmp_path / "small"
    folder.mkdir()
    with small_disk(folder) as disk:
        run.folder = disk
        run.save()
        before = run.checkpoint.read_bytes()
        run.model.register_buffer("large", torch.rand(60_000))
        with pytest.raises(
            OutputError, match=r"checkpoint.pt cannot be written: no space left on device"
        ):
            run.save()
        assert run.checkpoint.read_bytes() == before and [p.name for p in disk.iterdir()] == [
            "checkpoint.pt"
        ]


def test_an_average_that_begins_later_begins_with_the_weights(world, tmp_path):
    trained(world, tmp_path, ema=0)
    model = load_transformer(load_preset(world / "tiny.yaml")).requires_grad_(True)
    run = Run(tmp_path, model, Optimiser(steps=9, lr=1, ema=0.9))
    assert run.step == 4 and equal(run.average, dict(model.state_dict()))

"""Two processes that torchrun starts train what one does: the same windows, losses, figures and
weights.
"""

import json
import shutil

import pytest
import torch
import yaml
from conftest import Done
from several import in_two_processes
from tiny import moving, save_clip
from torch import nn
from train.near import LOSS, assert_same_training

from diagd_cli.errors import UsageError
from diagd_cli.train import parallel

RECIPE = {
    "preset": "tiny.yaml",
    "tokenizer": {"steps": 4, "batch": 5, "lr": 1.0e-3, "warmup": 2, "ema": 0.9},
    "transformer": {
        "steps": 6,
        "lr": 3.0e-3,
        "muon": 0.02,
        "warmup": 2,
        "ema": 0.9,
        "accumulate": 2,
    },
    "windows": {
        "phases": [{"start": 0, "frames": 2, "batch": 3}, {"start": 3, "frames": 3, "batch": 2}]
    },
}


STEADY = RECIPE | {"transformer": RECIPE["transformer"] | {"warmup": 1, "final": 1.0}}


@pytest.fixture(scope="module")
def world(tiny, tmp_path_factory):
    """A folder with a preset, recipes, clips, and `broken`: clips of which one is none."""
    folder = tmp_path_factory.mktemp("world")
    shutil.copytree(tiny.folder, folder, dirs_exist_ok=True)
    for name, recipe in (("recipe", RECIPE), ("steady", STEADY)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
    for n, split in enumerate(("train", "train", "val")):
        save_clip(folder / "data" / split / f"{n}.mp4", moving(6 + n)[n:])
    shutil.copytree(folder / "data", folder / "broken")
    (folder / "broken/train/0.mp4").write_bytes(b"no video")
    return folder


def options(world, part, name, recipe="recipe", data="data"):
    where = ["--out", world / name, "--recipe", world / f"{recipe}.yaml"]
    return ["train", part, world / data, *where, "--every", 2]


def steady(world, name):
    return [
        *options(world, "transformer", name, "steady"),
        "--no-samples",
        "-q",
        "--precision",
        "fp32",
    ]


@pytest.fixture(scope="module")
def torchrun(diagd, world) -> dict[str, Done]:
    """What the two processes do that torchrun starts on this machine, by a name for each training:
    all of them by the same two, as importing torch takes most of their time.
    """
    assert diagd(*steady(world, "mixed"), "--steps", 3).code == 0
    trainings = {
        "transformer": [*options(world, "transformer", "two-bf16"), "--precision", "bf16"],
        "tokenizer": [*options(world, "tokenizer", "two-fp32"), "--precision", "fp32"],
        "mixed": steady(world, "mixed"),
        "broken": options(world, "tokenizer", "none", data="broken"),  # what is left loses its peer
    }
    lines, launcher = in_two_processes(world, list(trainings.values()))
    done = [Done(max(a.code, b.code), a.out + b.out, a.err + b.err) for a, b in lines]
    done[0] = Done(done[0].code, launcher.out + done[0].out, launcher.err + done[0].err)
    return dict(zip(trainings, done, strict=True))


def test_more_processes_than_gpus(monkeypatch):
    for name, value in (("WORLD_SIZE", "4"), ("LOCAL_RANK", "2")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(
        UsageError,
        match=r"This is process 2 of the machine, which has 2 GPU\(s\). Start one for each",
    ):
        parallel.process_group(torch.device("cuda")).__enter__()


@pytest.mark.parametrize(("part", "precision"), [("transformer", "bf16"), ("tokenizer", "fp32")])
def test_two_processes_train_what_one_does(diagd, world, torchrun, part, precision):
    how = ["--precision", precision]
    start = f"start-{precision}"
    assert diagd(*options(world, part, start), *how, "--steps", 1, "--no-samples", "-q").code == 0
    assert diagd(*options(world, part, f"one-{precision}"), *how, "-q").code == 0
    done = torchrun[part]
    assert done.code == 0 and "Warning" not in done.err, done.err
    assert done.out == f"{world}/two-{precision}/preset.yaml\n"  # the first process alone speaks
    one, two = (world / f"{name}-{precision}" / part for name in ("one", "two"))
    logs = [
        [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        for run in (one, two)
    ]
    assert (
        [line["step"] for line in logs[0]]
        == [line["step"] for line in logs[1]]
        == [2, 4, 6][: len(logs[0])]
    )
    for a, b in zip(*logs, strict=True):
        for name in a.keys() - {"time", "step"}:
            assert a[name] == pytest.approx(b[name], abs=2e-3 if precision == "fp32" else 0.1), name
    first, *states = (
        torch.load(run / "checkpoint.pt", weights_only=True)
        for run in (world / start / part, one, two)
    )
    assert states[0]["loss"] == pytest.approx(states[1]["loss"], abs=10 * LOSS[precision])
    for key in ("model", "average"):
        assert_same_training(first["model"], *(state[key] for state in states), precision)
    assert sorted(p.name for p in (one / "samples").iterdir()) == sorted(
        p.name for p in (two / "samples").iterdir()
    )


def test_a_run_may_go_on_with_another_number_of_processes(diagd, world, torchrun):
    """Half of it alone and half in two processes, at a constant rate: as if alone all the time."""
    assert torchrun["mixed"].code == 0, torchrun["mixed"].err
    assert diagd(*steady(world, "whole")).code == 0
    checkpoints = (world / name / "transformer" / "checkpoint.pt" for name in ("whole", "mixed"))
    whole, mixed = (torch.load(path, weights_only=True) for path in checkpoints)
    assert whole["step"] == mixed["step"] == 6
    for name, value in whole["average"].items():
        assert torch.allclose(value, mixed["average"][name], atol=1e-4), name


def test_what_stops_one_process_is_told_once(torchrun):
    """The other one only loses its peer."""
    done = torchrun["broken"]
    assert done.code and done.err.count("0.mp4 is not a video file") == 1
    assert "bug" not in done.err
    assert "Another process of this training has ended. Its own message says why" in done.err


def test_a_batch_that_is_too_small_is_told_before_the_clips_are_read(diagd, world, monkeypatch):
    monkeypatch.setattr(parallel, "world_size", lambda: 2)
    where = ["--preset", world / "tiny.yaml", "--out", world / "tuned"]
    done = diagd("finetune", world / "broken", *where)
    assert done.code == 2 and "A batch of 1 cannot be split over 2 processes" in done.err
    assert "0.mp4" not in done.err


def test_more_processes_than_windows(monkeypatch):
    monkeypatch.setattr(parallel, "world_size", lambda: 4)
    with pytest.raises(
        UsageError, match=r"A batch of 3 .* 4 processes. Start fewer processes, or .* --batch"
    ):
        next(parallel.micro_batches(torch.zeros(3, 1), nn.Linear(1, 1)))


@pytest.mark.parametrize("size, accumulate", [(1, 1), (1, 3), (2, 1), (2, 2), (3, 4)])
def test_every_sample_counts_once(monkeypatch, size, accumulate):
    """Over all processes, weights times samples are the batch's mean, after the division by the
    number of processes.
    """
    monkeypatch.setattr(parallel, "world_size", lambda: size)
    batch, mean, seen = torch.arange(7.0), 0.0, []
    for rank in range(size):
        monkeypatch.setattr(parallel, "rank", lambda rank=rank: rank)
        for part, weight in parallel.micro_batches(batch, nn.Linear(1, 1), accumulate):
            mean += part.mean().item() * weight / size
            seen += part.tolist()
    assert mean == pytest.approx(batch.mean().item()) and seen == batch.tolist()

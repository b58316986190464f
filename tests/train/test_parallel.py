"""Two processes that torchrun starts train what one does: the same windows, losses, figures and
weights.
"""

import json
import os
import shutil
import socket
import subprocess
import sys

import pytest
import torch
import yaml
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


@pytest.fixture(scope="module")
def world(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    shutil.copytree(tiny.folder, folder, dirs_exist_ok=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    for n, split in enumerate(("train", "train", "val")):
        save_clip(folder / "data" / split / f"{n}.mp4", moving(6 + n)[n:])
    return folder


def processes(count, *arguments):
    """The command line in `count` processes that know of each other as torchrun's do, without its
    own.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world = {
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "diagd_cli", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = [
        subprocess.Popen(
            command, env={**os.environ, **world, "RANK": str(n), "LOCAL_RANK": str(n)}, **pipes
        )
        for n in range(count)
    ]
    told = [process.communicate(timeout=240) for process in started]
    code = max(process.returncode for process in started)
    return subprocess.CompletedProcess(command, code, *map("".join, zip(*told, strict=True)))


def torchrun(count, *arguments):
    """The command line in `count` processes on this machine."""
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={count}",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*launch, "-m", "diagd_cli", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)


def options(world, part, name):
    return [
        "train",
        part,
        world / "data",
        "--out",
        world / name,
        "--recipe",
        world / "recipe.yaml",
        "--every",
        2,
    ]


def test_more_processes_than_gpus(monkeypatch):
    for name, value in (("WORLD_SIZE", "4"), ("LOCAL_RANK", "2")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(
        UsageError,
        match=r"This is process 2 of the machine, which has 2 GPU\(s\). Start one for each",
    ):
        parallel.process_group(torch.device("cuda")).__enter__()


@pytest.mark.parametrize(
    ("launch", "part", "precision"),
    [(torchrun, "transformer", "bf16"), (processes, "tokenizer", "fp32")],
)
def test_two_processes_train_what_one_does(diagd, world, launch, part, precision):
    how = ["--precision", precision]
    start = f"start-{precision}"
    assert diagd(*options(world, part, start), *how, "--steps", 1, "--no-samples", "-q").code == 0
    assert diagd(*options(world, part, f"one-{precision}"), *how, "-q").code == 0
    done = launch(2, *options(world, part, f"two-{precision}"), *how)
    assert done.returncode == 0 and "Warning" not in done.stderr, done.stderr
    assert done.stdout == f"{world}/two-{precision}/preset.yaml\n"  # the first process alone speaks
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


def test_a_run_may_go_on_with_another_number_of_processes(diagd, world):
    """Half of it alone and half in two processes, at a constant rate: as if alone all the time."""
    steady = RECIPE | {"transformer": RECIPE["transformer"] | {"warmup": 1, "final": 1.0}}
    (world / "steady.yaml").write_text(yaml.safe_dump(steady))
    options = ["train", "transformer", world / "data", "--recipe", world / "steady.yaml", "--no-samples", "-q",
               "--precision", "fp32", "--out"]  # fmt: skip
    assert diagd(*options, world / "whole").code == 0
    assert diagd(*options, world / "mixed", "--steps", 3).code == 0
    assert processes(2, *options, world / "mixed").returncode == 0
    checkpoints = (world / name / "transformer" / "checkpoint.pt" for name in ("whole", "mixed"))
    whole, mixed = (torch.load(path, weights_only=True) for path in checkpoints)
    assert whole["step"] == mixed["step"] == 6
    for name, value in whole["average"].items():
        assert torch.allclose(value, mixed["average"][name], atol=1e-4), name


def test_what_stops_one_process_is_told_once(diagd, world, tmp_path, monkeypatch):
    """The other one only loses its peer; a batch that is too small for both is told before the
    clips are read.
    """
    shutil.copytree(world / "data", tmp_path / "data", ignore=shutil.ignore_patterns("cache"))
    (tmp_path / "data/train/0.mp4").write_bytes(b"no video")
    where = ["--recipe", world / "recipe.yaml", "--out", tmp_path / "run"]
    done = processes(2, "train", "tokenizer", tmp_path / "data", *where)
    assert (
        done.returncode
        and done.stderr.count("0.mp4 is not a video file") == 1
        and "bug" not in done.stderr
    )
    assert "Another process of this training has ended. Its own message says why" in done.stderr
    monkeypatch.setattr(parallel, "world_size", lambda: 2)
    done = diagd(
        "finetune", tmp_path / "data", "--preset", world / "tiny.yaml", "--out", tmp_path / "tuned"
    )
    assert (
        done.code == 2
        and "A batch of 1 cannot be split over 2 processes" in done.err
        and "0.mp4" not in done.err
    )


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

"""diagd sweep: every combination once, whatever happens; files, recommendation, a preset of the
choice.
"""

import csv
import json
import math
import shutil
import time

import pytest
import torch
from safetensors.torch import load_file
from tiny import moving, save_clip

from diagd_cli.jobs.evaluation.store import LINES
from diagd_cli.model.inverse import InverseDynamics
from diagd_cli.preset_files import load_preset
from diagd_cli.train.recipe import write_preset
from diagd_cli.weights.load import save_weights

TIMED = ("tokens_per_second", "frames_per_second", "speedup", "front")


@pytest.fixture(scope="module")
def world(tiny, tmp_path_factory):
    """The tiny preset with (random) inverse dynamics, and three clips."""
    folder = shutil.copytree(tiny.folder, tmp_path_factory.mktemp("sweep"), dirs_exist_ok=True)
    torch.manual_seed(0)
    entry = save_weights(
        folder / "inverse.safetensors", InverseDynamics(4).state_dict(), torch.float16
    )
    write_preset(load_preset(tiny.preset), folder, inverse_weights=entry)
    for n in range(3):
        save_clip(folder / "clips" / f"{n}.mp4", moving(8 + n)[n:])
    return folder


@pytest.fixture
def words(world, tmp_path):
    """The command line of a sweep of some of the clips into a folder of the test's."""

    def make(*options, out="out", d="2", count=3):
        clips = sorted((world / "clips").glob("*.mp4"))[:count]
        fixed = ["-p", world / "preset.yaml", "--threads", 1, "--out", tmp_path / out]
        return ["sweep", *clips, "--k", "1,2", "--d", d, *fixed, *options]

    return make


@pytest.fixture
def sweep(diagd, words):
    def ask(*options, **named):
        return diagd(*words("--json", "--no-chart", *options, **named))

    return ask


def lasting(report):
    """What two runs must agree in: all but times."""
    return [
        {key: value for key, value in row.items() if key not in TIMED} for row in report["rows"]
    ]


def lines(folder):
    """What is in the folder's records; a line that is being written is left out."""
    path = folder / LINES
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def test_files(diagd, words, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    done = diagd(*words("--decodings", "zipar:1", "--batch", 2, d="2,9"))
    assert done.code == 0, done.err
    out = tmp_path / "out"
    assert done.out.strip() == str(out / "sweep.html")
    assert "left out: diagd k=1 d=9: d is 9. With k=1 on a 2x3 grid it must lie in 1..4" in done.err
    report = json.loads((out / "sweep.json").read_text())
    labels = [row["label"] for row in report["rows"]]
    assert labels[0] == "NTP" and sorted(labels[1:]) == [
        "DiagD k=1 d=2",
        "DiagD k=2 d=2",
        "ZipAR window=1",
    ]
    assert [row["steps"] for row in report["rows"]] == sorted(
        (row["steps"] for row in report["rows"]), reverse=True
    )
    assert report["rows"][0]["speedup"]["mean"] == 1 and any(row["front"] for row in report["rows"])
    assert [row["label"] for row in report["limits"]] == ["ground truth", "tokenizer"]
    assert set(report["skipped"]) == {"diagd k=1 d=9", "diagd k=2 d=9"}
    with (out / "sweep.csv").open(newline="") as file:
        told = list(csv.DictReader(file))
    for row, line in zip(report["rows"], told, strict=True):
        assert float(line["nll"]) == row["nll"]["mean"] and line["label"] == row["label"]
    assert (out / "sweep.png").read_bytes().startswith(b"\x89PNG") and "data:image/png" in (
        out / "sweep.html"
    ).read_text()
    assert "0.mp4" in report["command"] and "--k=1,2" in report["command"]
    assert all(
        len(line) <= 80
        for line in done.err.split("±: half")[0].splitlines()
        if "left out" not in line
    )


def test_figures_are_those_of_eval(diagd, sweep, world):
    [report] = sweep("--seeds", 2).objects
    clips = sorted((world / "clips").glob("*.mp4"))
    command = ["eval", *clips, "-p", world / "preset.yaml", "--threads", 1, "--seeds", 2, "--json"]
    [wanted] = diagd(*command, "--decodings", "ntp,diagd:1:2").objects
    rows = {row["label"]: row for row in report["rows"]}
    for row in [row for row in wanted["rows"] if "steps" in row]:
        for name in (
            "nll",
            "psnr",
            "ssim",
            "action_accuracy",
            "fd_inv",
            "difference",
            "token_agreement",
            "steps",
        ):
            assert rows[row["label"]][name] == row[name]


def test_killed_and_started_again(start, sweep, words, tmp_path):
    """SIGKILL: what is there is not done again, and the results are those of a run that was
    let be.
    """
    out, options = tmp_path / "killed", ("--batch", 2)
    process = start(*words("--no-chart", *options, out="killed", d="1,2"))
    while len(lines(out)) < 5:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.002)
    process.kill()
    process.wait()
    whole_lines = 3 + 3 * 6  # of the clips themselves, and of every clip and decoding
    assert len(lines(out)) < whole_lines and not (out / "sweep.json").exists()
    [killed] = sweep(*options, out="killed", d="1,2").objects
    [whole] = sweep(*options, out="whole", d="1,2").objects
    assert lasting(killed) == lasting(whole) and len(whole["rows"]) == 6
    names = [line["id"] for line in lines(out)]
    assert len(set(names)) == len(names) == whole_lines
    figures = [line["figures"] for line in lines(out) if line["seed"] is not None]
    assert {(own["clip"], own["batch"]) for own in figures} == {
        ("0.mp4", 2),
        ("1.mp4", 2),
        ("2.mp4", 1),
    }


def test_more_values_add_to_what_is_there(sweep, tmp_path):
    [first] = sweep(count=1).objects
    before = len(lines(tmp_path / "out"))
    [more] = sweep("--stand-ins", "above", d="3", count=1).objects
    assert len(lines(tmp_path / "out")) == before + 3  # spatial, two of d=3; NTP is there
    labels = {row["label"] for row in more["rows"]}
    assert {"NTP", "DiagD k=1 d=2, previous-frame", "DiagD k=1 d=3, above"} < labels
    old = {row["label"]: row for row in first["rows"]}["DiagD k=1 d=2"]
    assert {row["label"]: row for row in more["rows"]}["DiagD k=1 d=2, previous-frame"][
        "nll"
    ] == old["nll"]
    [again] = sweep(count=1).objects
    assert len(lines(tmp_path / "out")) == before + 3 and lasting(again) == lasting(more)
    [seeds] = sweep("--seeds", 2, count=1).objects  # the others have no second seed
    assert {row["label"] for row in seeds["rows"]} == {row["label"] for row in first["rows"]}


def test_repair_and_its_lack(sweep):
    labels = [
        row["label"]
        for row in sweep("--repairs", "yes,no", "--decodings", "", count=1).objects[0]["rows"]
    ]
    assert set(labels[1:]) == {
        f"DiagD k={k} d=2{lack}" for k in (1, 2) for lack in ("", ", no repair")
    }


def test_recommended_and_written(diagd, words, world, tmp_path):
    """The bound is so wide that the fastest is within it."""
    path = tmp_path / "chosen" / "fast.yaml"
    ask = words(
        "--no-chart",
        "--recommend",
        "nll<=+900%,actions>=-1",
        "--write-preset",
        path,
        "--top-p",
        0.5,
    )
    done = diagd(*ask)
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "out" / "sweep.json").read_text())
    fastest = max(report["rows"], key=lambda row: row["speedup"]["mean"])
    assert report["recommended"]["label"] == fastest["label"] and report["recommended"]["settled"]
    assert f"{fastest['label']} is the fastest within nll<=+900%, actions>=-1: " in done.out
    assert done.out.splitlines()[-1] == str(path)
    assert "fast: the preset is valid and its weights fit" in diagd("presets", "check", path).out
    new = load_preset(path)
    assert (
        new.decoding.decoding.facts(new.grid, 1) == fastest["decoding"]
        and new.decoding.top_p == 0.5
    )
    refused = diagd(*ask)
    assert refused.code == 1 and "exists already" in refused.err
    assert diagd(*ask, "--force").code == 0
    clip = world / "clips" / "0.mp4"
    assert diagd("generate", clip, "-p", path, "-o", tmp_path / "o.mp4", "--seed", 0).code == 0
    made = json.loads((tmp_path / "o.json").read_text())
    assert made["settings"]["decoding"] == fastest["decoding"]


def test_nothing_within_writes_nothing(diagd, words, tmp_path):
    done = diagd(
        *words(
            "--no-chart",
            "--recommend",
            "psnr>=+90",
            "--write-preset",
            tmp_path / "fast.yaml",
            count=1,
        )
    )
    assert (
        done.code == 2
        and "No decoding is within the bounds" in done.err
        and not (tmp_path / "fast.yaml").exists()
    )
    assert (tmp_path / "out" / "sweep.json").exists()


@pytest.mark.parametrize(
    "options, code, message",
    [
        (["--k", "1,x"], 2, "'x' is not a whole number"),
        (["--stand-ins", "below"], 2, "'below' is not one of previous-frame"),
        (["--repairs", "maybe"], 2, "'maybe' is not one of yes, no"),
        (["--decodings", "fast"], 2, "'fast' is not one of ntp, exact, diagd, spatial, zipar"),
        (["--recommend", "nll<=2"], 2, "'nll<=2' has no sign"),
        (
            ["--write-preset", "new.yaml"],
            2,
            "--write-preset needs a choice. Give the bounds with --recommend",
        ),
        (
            ["--recommend", "nll<=+2%", "--write-preset", "new"],
            2,
            "--write-preset is 'new'. Name a .yaml file",
        ),
        (
            ["--recommend", "nll<=+2%", "--write-preset", "a:b.yaml"],
            2,
            "No preset can be called 'a:b'. Give --write",
        ),
        (["--k", "0"], 2, "k is 0. On a 2x3 grid it must lie in 1..3"),
        (["--k", "0,99"], 2, "k is 0. On a 2x3 grid it must lie in 1..3"),
        (["--frames", 7], 1, "goes on for 6 frames after the context, and 7 are to be judged"),
    ],
)
def test_bad_input(sweep, options, code, message, tmp_path):
    done = sweep(*options)
    assert done.code == code and message in done.err and done.err.count("\n") == 1, done.err
    assert not (tmp_path / "out" / "sweep.json").exists()


def test_a_model_whose_figures_are_not_numbers(diagd, words, world, tmp_path):
    shutil.copytree(world, tmp_path / "broken")
    weights = load_file(tmp_path / "broken" / "transformer.safetensors")
    entry = save_weights(
        tmp_path / "broken/nan.safetensors", {name: w * math.nan for name, w in weights.items()}
    )
    broken = write_preset(
        load_preset(world / "preset.yaml"), tmp_path / "broken", transformer_weights=entry
    )
    done = diagd(*words("--no-chart", "-p", broken, count=1))
    assert (
        done.code == 1
        and "error: The NLL of NTP under the preset tiny is not a number. Its weights are"
        in done.err
    )


def test_actions_cannot_bound_what_cannot_be_read(diagd, tiny, tmp_path):
    done = diagd(
        "sweep",
        tiny.clip,
        "-p",
        tiny.preset,
        "--out",
        tmp_path,
        "--recommend",
        "actions>=-0.1",
        "--no-chart",
    )
    assert done.code == 2 and "The preset tiny has nothing that reads actions" in done.err


def test_without_matplotlib(sweep, monkeypatch, diagd, words, tmp_path):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    done = diagd(*words())
    assert (
        done.code == 1
        and "pip install 'diagd[report]'" in done.err
        and not (tmp_path / "out").exists()
    )
    assert sweep(count=1).code == 0 and not (tmp_path / "out" / "sweep.png").exists()

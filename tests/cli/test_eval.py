"""diagd eval: figures over clips and seeds, resumed runs, tables, VBench's way out and back."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from tiny import moving, save_clip

from diagd_cli.jobs.evaluation import samples
from diagd_cli.model.inverse import InverseDynamics
from diagd_cli.preset_files import load_preset, save_preset
from diagd_cli.train.recipe import write_preset
from diagd_cli.weights.load import save_weights


@pytest.fixture(scope="module")
def world(tiny, tmp_path_factory):
    """The tiny preset with (random) inverse dynamics, and three clips."""
    folder = shutil.copytree(tiny.folder, tmp_path_factory.mktemp("eval"), dirs_exist_ok=True)
    torch.manual_seed(0)
    entry = save_weights(
        folder / "inverse.safetensors", InverseDynamics(4).state_dict(), torch.float16
    )
    write_preset(load_preset(tiny.preset), folder, inverse_weights=entry)
    for n in range(3):
        save_clip(folder / "clips" / f"{n}.mp4", moving(8 + n)[n:])
    return folder


@pytest.fixture
def evaluate(diagd, world):
    clips = sorted((world / "clips").glob("*.mp4"))

    def ask(*options, clips=clips):
        return diagd(
            "eval",
            *clips,
            "-p",
            world / "preset.yaml",
            "--decodings",
            "ntp,diagd:1:2",
            "--json",
            *options,
        )

    return ask


def rows(done):
    assert done.code == 0, done.err
    return {row["label"]: row for row in done.objects[0]["rows"]}


def test_weights_of_8_bits_are_judged_by_those_that_they_were(evaluate, int8_processor):
    """The real tokens are as likely as ever; whoever judges is not rounded."""
    full, small = evaluate(), evaluate("--weights", "int8")
    truth = [rows(done)["ground truth"]["nll"]["mean"] for done in (full, small)]
    assert truth[0] == truth[1]
    assert small.objects[0]["machine"]["weights"] == "int8"
    assert "weights" not in full.objects[0]["machine"]


def test_report(evaluate):
    found = rows(evaluate("--seeds", 2, "--batch", 2))
    assert list(found) == ["ground truth", "tokenizer", "NTP", "DiagD k=1 d=2"]
    assert [found[name]["steps"] for name in ("NTP", "DiagD k=1 d=2")] == [18, 8]
    ntp, diagonal = found["NTP"], found["DiagD k=1 d=2"]
    assert ntp["token_agreement"]["mean"] == 1 and diagonal["token_agreement"]["mean"] < 1
    assert (diagonal["samples"], diagonal["psnr"]["clips"]) == (6, 3)
    for row in (ntp, diagonal):
        for name in ("psnr", "ssim", "nll"):
            mean = row[name]
            assert mean["low"] <= mean["mean"] <= mean["high"] and len(row["by_frame"][name]) == 3
            assert mean["mean"] == pytest.approx(np.mean(row["by_frame"][name]), abs=1e-3)
        assert (
            0 <= row["action_accuracy"]["mean"] <= 1
            and row["fd_inv"]["samples"] == 2 * row["fd_inv"]["real"] == 18
        )
    for name, difference in diagonal["difference"].items():
        assert difference["mean"] == pytest.approx(
            diagonal[name]["mean"] - ntp[name]["mean"], abs=1e-4
        )
    assert found["ground truth"]["nll"]["mean"] > 0 and found["tokenizer"]["psnr"]["mean"] > 0


def test_actions_that_end_before_the_clip_are_no_truth(diagd, evaluate, world, tmp_path):
    """A continuation is held against what was done: nothing is made up. Others go on with the last
    action of the context.
    """
    clip, file = save_clip(tmp_path / "a.mp4", moving(8)), tmp_path / "a.jsonl"
    lines, preset = file.read_text().splitlines(keepends=True), ("-p", world / "preset.yaml")
    compare = ("compare", clip, *preset, "--decodings", "ntp", "--force", "-o", tmp_path / "c.mp4")
    generate = ("generate", clip, *preset, "--force", "-o", tmp_path / "g.mp4")
    for count, code in ((4, 0), (3, 2)):  # of 2 + 3 frames; the last one's action is not read
        file.write_text("".join(lines[:count]))
        for done in (evaluate(clips=[clip]), diagd(*compare)):
            assert done.code == code, done.err
            assert not code or f"{file} has 3 actions, and 5 frames of a.mp4 are read" in done.err
    assert diagd(*compare, "--actions", "left").code == diagd(*generate, "--start", 0).code == 0
    done = diagd(*generate)  # from its end
    assert done.code == 2 and f"{file} has 3 actions, and 8 frames of a.mp4 are read" in done.err


def test_a_stamp_is_not_measured(evaluate, diagd, world, tmp_path):
    """Nor by compare: what a licence has written over the frames says nothing of the model."""
    preset = load_preset(world / "preset.yaml")
    save_preset(preset.model_copy(update={"stamp": "made by a model"}), world / "stamped.yaml")
    found = []
    for name in ("preset", "stamped"):
        command = ("-p", world / f"{name}.yaml", "--decodings", "ntp", "--seed", 3, "--json")
        own = rows(diagd("eval", *sorted((world / "clips").glob("*.mp4")), *command))
        [report] = diagd(
            "compare", world / "clips" / "1.mp4", *command, "-o", tmp_path / f"{name}.mp4"
        ).objects
        found.append([own["tokenizer"]["psnr"], own["NTP"]["psnr"], report["decodings"][0]["psnr"]])
    assert found[0] == found[1]
    assert (tmp_path / "preset.mp4").read_bytes() != (tmp_path / "stamped.mp4").read_bytes()


def test_figures_are_those_of_compare(diagd, evaluate, world, tmp_path):
    """PSNR, SSIM and agreement of one clip and seed; and of a batch, in which a clip gets the
    tokens that it gets alone.
    """
    clip = world / "clips" / "1.mp4"
    command = [
        "compare",
        clip,
        "-p",
        world / "preset.yaml",
        "--decodings",
        "ntp,diagd:1:2",
        "--seed",
        3,
        "--json",
    ]
    [report] = diagd(*command, "-o", tmp_path / "c.mp4").objects
    found = rows(evaluate("--seed", 3, clips=[clip]))
    assert found["tokenizer"]["psnr"]["mean"] == pytest.approx(
        report["tokenizer_limit"]["psnr"], abs=0.006
    )
    for wanted in report["decodings"]:
        row = found[wanted["label"]]
        assert (
            row["psnr"]["mean"] == pytest.approx(wanted["psnr"], abs=0.006)
            and row["psnr"]["low"] is None
        )
        assert row["ssim"]["mean"] == pytest.approx(wanted["ssim"], abs=1e-4)
        assert row["token_agreement"]["mean"] == pytest.approx(wanted["token_agreement"], abs=1e-4)
    alone, together = (rows(evaluate("--batch", size))["NTP"] for size in (1, 3))
    for name in ("psnr", "nll"):
        assert alone[name]["mean"] == pytest.approx(together[name]["mean"], abs=1e-4)


def test_shipped_preset(diagd, clips):
    """The real action is read from real frames; a sampled token has some nats, as a real one
    has.
    """
    options = ["--decodings", "diagd:2:10", "--context", 2, "--frames", 1, "--json"]
    done = diagd("eval", clips / "rooms.mp4", *options)
    found = rows(done)
    row = found["DiagD k=2 d=10"]
    assert (
        found["ground truth"]["action_accuracy"]["mean"] == 1
        and found["tokenizer"]["psnr"]["mean"] > 20
    )
    assert 1 < row["nll"]["mean"] < 4 and 1 < found["ground truth"]["nll"]["mean"] < 4
    assert row["nll"]["low"] is None and "One clip: no intervals" in done.err and "fvd" not in row


def test_a_second_start_does_what_is_missing(evaluate, tmp_path, monkeypatch):
    measured, work = [], samples.measure_continuations

    def counted(models, cases, **options):
        measured.append(len(cases))
        if len(measured) == 3:
            raise KeyboardInterrupt
        return work(models, cases, **options)

    monkeypatch.setattr(samples, "measure_continuations", counted)
    assert evaluate("--out", tmp_path).code == 130 and measured == [1, 1, 1]
    first = rows(evaluate("--out", tmp_path))
    assert measured == [1] * 7  # six samples, one of them begun twice
    again = rows(evaluate("--out", tmp_path))
    assert measured == [1] * 7 and again == first
    rows(evaluate("--out", tmp_path, "--top-p", 0.5))
    assert measured == [1] * 13


def test_tables(evaluate, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    done = evaluate("--out", tmp_path)
    text = (tmp_path / "table.md").read_text()
    paper = (
        "| decoding | FVD | subject consistency | image quality | dynamic degree | FPS | TP | STEP "
        "| PSNR |"
    )
    assert (
        paper in text and "| NTP | - | - | - | - |" in text and "Paired differences to NTP" in text
    )
    assert json.loads((tmp_path / "report.json").read_text()) == done.objects[0]
    assert "…" not in done.err and all(
        len(line) <= 80 for line in done.err.split("±: half")[0].splitlines()
    )


def test_vbench_and_back(evaluate, tmp_path):
    done = evaluate("--export-vbench", tmp_path / "v", "--batch", 2)
    names = sorted(
        p.relative_to(tmp_path / "v").as_posix() for p in (tmp_path / "v").rglob("*.mp4")
    )
    assert names == [f"{d}/{n:04d}-{n}-0.mp4" for d in ("diagd-k1-d2", "ntp") for n in range(3)]
    assert done.err.count("vbench evaluate --mode custom_input") == 6
    videos = [{"video_path": f"{tmp_path}/v/ntp/0000-0-0.mp4", "video_results": 0.9}]
    (tmp_path / "r.json").write_text(json.dumps({"subject_consistency": [0.9, videos]}))
    found = rows(evaluate("--vbench-results", tmp_path / "r.json"))
    assert (
        found["NTP"]["vbench"] == {"subject_consistency": 0.9}
        and found["DiagD k=1 d=2"]["vbench"] == {}
    )


class Means(torch.nn.Module):
    """Stands for I3D: the mean of each colour, as features."""

    def forward(
        self, x: torch.Tensor, rescale: bool, resize: bool, return_features: bool
    ) -> torch.Tensor:
        return x.mean((2, 3, 4))


def test_fvd(evaluate, world, tmp_path):
    torch.jit.script(Means()).save(tmp_path / "i3d.pt")
    clips = [save_clip(tmp_path / f"{n}.mp4", moving(14 + n)[n:]) for n in range(2)]
    done = evaluate("--i3d", tmp_path / "i3d.pt", "--frames", 10, "--seeds", 2, clips=clips)
    assert rows(done)["NTP"]["fvd"]["value"] > 0 and rows(done)["NTP"]["fvd"]["samples"] == 4
    assert "FVD is from 2 real videos" in done.err


def test_words_and_other_transformers_are_rows_of_their_own(evaluate, world, tmp_path):
    """What is asked of one decoding alone, and a tuned model that this one judges, by the same
    clips and noise.
    """
    other = world / "tuned.yaml"
    save_preset(load_preset(world / "preset.yaml").model_copy(update={"name": "tuned"}), other)
    words = "diagd:1:2,diagd:1:2:above,diagd:1:2:no-repair,diagd:1:2:zero-slots"
    out = ["--out", tmp_path / "eval", "--export-vbench", tmp_path / "videos"]
    found = rows(evaluate("--decodings", f"ntp,{words},diagd:1:2@{other}", *out))
    names = ["previous-frame", "above", "previous-frame, no repair", "previous-frame, zero slots"]
    names = [f"DiagD k=1 d=2, {name}" for name in [*names, "previous-frame, tuned"]]
    assert list(found)[3:] == names
    base, *ablated, tuned = (found[name] for name in names)
    assert {row["steps"] for row in (base, *ablated, tuned)} == {8}
    assert (
        all(row["nll"] != base["nll"] for row in ablated[:2])
        and ablated[2]["decoding"]["zero_slots"]
    )
    # the same weights by another name
    assert tuned["nll"] == base["nll"] and tuned["decoding"]["preset"] == "tuned"
    folders = {path.name for path in (tmp_path / "videos").iterdir()} - {"results"}
    kinds = ["", "-above", "-no-repair", "-zero-slots", "-tuned"]
    assert folders == {"ntp", *(f"diagd-k1-d2{kind}" for kind in kinds)}


def test_what_is_missing_is_noticed_before_the_models_are_loaded(
    evaluate, world, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        "diagd_cli.jobs.evaluation.measurement.load_judged", lambda *_, **__: pytest.fail("loaded")
    )
    (tmp_path / "file").touch()
    clips = [world / "clips" / "0.mp4"]
    for arguments, message in [
        (
            {"clips": [*clips, tmp_path / "none.mp4"]},
            "none.mp4 does not exist. Check the name and the folder",
        ),
        ({"clips": [*clips, tmp_path]}, "is a directory. Name one video or image file"),
    ]:
        done = evaluate(**arguments)
        assert done.code == 1 and done.err.endswith(f"{message}\n")
    done = evaluate("--export-vbench", tmp_path / "file" / "videos")
    assert (
        done.code == 1
        and "file/videos/ntp/0000-0-0.mp4 cannot be written: Not a directory" in done.err
    )


def test_memory_is_for_the_clips_that_there_are(evaluate, world, monkeypatch):
    required = []
    monkeypatch.setattr(
        "diagd_cli.jobs.models.require", lambda *_, batch, **__: required.append(batch)
    )
    assert (
        rows(evaluate("--batch", 10**6, clips=[world / "clips" / "0.mp4"]))["NTP"]["samples"] == 1
    )
    assert required == [1]


def test_a_folder_of_other_bytes(evaluate, world, tmp_path):
    folder = tmp_path / os.fsdecode(b"\xff")
    [report] = evaluate(
        "--export-vbench", folder, "--out", folder, clips=[world / "clips" / "0.mp4"]
    ).objects
    assert (
        json.loads((folder / "report.json").read_text()) == report
        and "\ufffd/ntp" in report["vbench_commands"][0]
    )


@pytest.mark.parametrize(
    "options, code, message",
    [
        (
            ["--frames", 7],
            1,
            "goes on for 6 frames after the context, and 7 are to be judged. Give a longer clip",
        ),
        (["--decodings", "ntp,fast"], 2, "'fast' is not one of ntp, exact, diagd, spatial, zipar"),
        (
            ["--decodings", "diagd:1:2,spatial:1,spatial:1:9"],
            2,
            "Two decodings are called spatial DiagD k=1. Name each once",
        ),
        (
            ["--base-preset", "freedoom"],
            2,
            "The preset freedoom differs from tiny in tokenizer, grid, actions",
        ),
        (["--vbench-results", "gone.json"], 2, "gone.json cannot be read: no such file"),
        (["--i3d", "gone.pt"], 1, "gone.pt cannot be loaded: there is no such file"),
        (["--seeds", 0], 2, "Invalid value for '--seeds'"),
    ],
)
def test_bad_input(evaluate, options, code, message):
    done = evaluate(*options)
    assert done.code == code and message in done.err and done.err.count("\n") == 1, done.err

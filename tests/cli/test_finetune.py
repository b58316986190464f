"""diagd finetune: from a preset and a folder of clips to a preset with fine-tuned weights, for
every family.
"""

import json
import shutil
import signal

import pytest
import torch
from families.small import write_small_models
from safetensors.torch import save_file
from tiny import moving, save_clip

from diagd_cli.cli.finetune import decoding_set
from diagd_cli.preset_files import load_preset
from diagd_cli.train import diagonal
from diagd_cli.train.recipe import write_preset
from diagd_cli.weights.load import load_transformer, save_weights


@pytest.fixture(scope="module")
def made(tiny, diagd, tmp_path_factory):
    """A folder with the tiny preset, clips, and `whole`: a finished run."""
    folder = shutil.copytree(tiny.folder, tmp_path_factory.mktemp("world"), dirs_exist_ok=True)
    for n, split in enumerate(("train", "train", "val")):
        save_clip(folder / "data" / split / f"{n}.mp4", moving(6 + n)[n:])
    done = tuned(diagd, folder, "whole")
    assert (done.code, done.out, done.err) == (0, f"{folder}/whole/preset.yaml\n", "")
    return folder


@pytest.fixture
def world(made, tmp_path):
    """A copy of it to change."""
    return shutil.copytree(made, tmp_path, dirs_exist_ok=True)


def tuned(diagd, folder, name, *options, preset="tiny.yaml"):
    """Four steps into the folder `name`, validated at every second one."""
    out, sizes = (
        folder / name,
        ("--k", "1,2", "--d", "2,3", "--steps", 4, "--every", 2, "--lr", 0.01),
    )
    return diagd(
        "finetune",
        folder / "data",
        "--preset",
        folder / preset,
        "--out",
        out,
        *sizes,
        "-q",
        *options,
    )


def state(folder):
    """Checkpoint and log of a run, its clock aside."""
    lines = [
        json.loads(line) for line in (folder / "finetune" / "log.jsonl").read_text().splitlines()
    ]
    weights = torch.load(folder / "finetune" / "checkpoint.pt", weights_only=True)["model"]
    return {name: w.tolist() for name, w in weights.items()}, [line | {"time": 0} for line in lines]


def test_the_log_has_each_decoding_from_before_the_first_step_on(made):
    _, lines = state(made / "whole")
    assert [line["step"] for line in lines] == [0, 2, 4]
    names = {"NTP", *(f"DiagD k={k} d={d}" for k in (1, 2) for d in (2, 3))}
    for line in lines:
        figures = {
            name.removeprefix("nll/"): value
            for name, value in line.items()
            if name.startswith("nll/")
        }
        assert figures.keys() == names and all(0 < value < 20 for value in figures.values())
    assert lines[0]["nll/DiagD k=1 d=2"] != lines[-1]["nll/DiagD k=1 d=2"]


def test_a_folder_of_something_else_is_left_as_it_is(diagd, world):
    """Of another preset's run, of a run from other weights, and of a preset that was trained
    there.
    """
    other = (world / "tiny.yaml").read_text().replace("name: tiny", "name: other")
    (world / "other.yaml").write_text(other)
    torch.manual_seed(1)
    fresh = {
        k: v + 0.1
        for k, v in load_transformer(load_preset(world / "tiny.yaml")).state_dict().items()
    }
    entry = save_weights(world / "fresh.safetensors", fresh)
    write_preset(load_preset(world / "tiny.yaml"), world / "fresh", transformer_weights=entry)
    shutil.copy(world / "fresh.safetensors", world / "fresh")
    shutil.copy(world / "tokenizer.safetensors", world / "fresh")
    before = {
        path: path.read_bytes() for path in sorted((world / "whole").rglob("*")) if path.is_file()
    }
    for preset, message in (
        ("other.yaml", "whole/finetune holds a run with another preset"),
        ("fresh/preset.yaml", "whole/finetune holds a run with another Transformer to begin with"),
    ):
        done = tuned(diagd, world, "whole", preset=preset)
        assert done.code == 2 and message in done.err
    assert before == {
        path: path.read_bytes() for path in sorted((world / "whole").rglob("*")) if path.is_file()
    }
    done = tuned(diagd, world, "fresh")
    assert (
        done.code == 2 and f"{world}/fresh holds a preset that was not fine-tuned there" in done.err
    )


def test_the_preset_that_results_makes_a_video(diagd, made, tmp_path):
    before, after = load_preset(made / "tiny.yaml"), load_preset(made / "whole" / "preset.yaml")
    assert (
        after.decoding == before.decoding
        and after.transformer_weights != before.transformer_weights
    )
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


@pytest.mark.parametrize("stop", ["in the first validation", "in a step"])
def test_a_stopped_run_goes_on_as_if_it_had_not_been_stopped(diagd, world, monkeypatch, stop):
    owner, name = (
        (diagonal, "validate_decodings") if "validation" in stop else (diagonal.Mixture, "draw")
    )
    work, calls = getattr(owner, name), []

    def stopped(*arguments, **options):
        calls.append(name)
        if len(calls) == (1 if owner is diagonal else 4):
            signal.raise_signal(signal.SIGINT)
        return work(*arguments, **options)

    monkeypatch.setattr(owner, name, stopped)
    assert tuned(diagd, world, "parts").code == 130
    assert not (world / "parts" / "preset.yaml").exists()
    assert tuned(diagd, world, "parts").code == 0
    assert state(world / "parts") == state(world / "whole")


def test_the_set_of_decodings(made):
    preset = load_preset(made / "tiny.yaml")
    default = preset.decoding.decoding

    def labels(k=None, d=None, names="ntp", base=default):
        return [decoding.label(preset.grid) for decoding in decoding_set(preset, base, k, d, names)]

    assert labels() == ["NTP", "DiagD k=1 d=2"]
    assert labels(k="1,3", d="1,2", names="") == [
        f"DiagD k={k} d={d}" for k in (1, 3) for d in (1, 2)
    ]
    assert labels(names="zipar:2,diagd:1:2") == ["ZipAR window=2", "DiagD k=1 d=2"]
    spatial = decoding_set(preset, default, None, None, "spatial")[0]
    assert labels(k="1,2", base=spatial) == ["NTP", "spatial DiagD k=1", "spatial DiagD k=2"]
    assert labels(k="2", d="3", base=spatial) == ["NTP", "DiagD k=2 d=3"]


@pytest.mark.parametrize(
    "options, code, message",
    [
        (["--k", "x"], 2, "Invalid value for '--k': 'x' is not a whole number"),
        (["--k", "4"], 2, "k is 4. On a 2x3 grid it must lie in 1..3"),
        (["--d", "9"], 2, "d is 9. With k=1 on a 2x3 grid it must lie in 1..4"),
        (["--decodings", "ntp,fast"], 2, "Invalid value for '--decodings': 'fast' is not one of"),
        (["--window", 6], 2, "The window is 6 frame(s). The preset tiny takes 3 to 5"),
        (["--balance", 2], 2, "Invalid value for '--balance': '2' is not a number in 0..1"),
        (["--lr", 0], 2, "Invalid value for '--lr': '0' is not a number above 0"),
        (
            ["--batch", 2e9],
            2,
            "Invalid value for '--batch': '2000000000.0' is not a whole number in 1..10000000",
        ),
        (
            ["--steps", 10**8],
            2,
            "Invalid value for '--steps': '100000000' is not a whole number in 1..10000000",
        ),
        (["--stand-in", "x"], 2, "Invalid value for '--stand-in'"),
        (
            ["--prompt-embedding", "x"],
            2,
            "The preset tiny takes no text, and --prompt-embedding gives one",
        ),
        (
            ["--out", "{w}", "--preset", "{w}/preset.yaml"],
            2,
            "{w} is the folder of the preset itself",
        ),
        (["--preset", "none"], 2, "Unknown preset 'none'"),
    ],
)
def test_bad_options(diagd, world, options, code, message):
    (world / "preset.yaml").write_text((world / "tiny.yaml").read_text())
    done = tuned(diagd, world, "run", *(str(option).format(w=world) for option in options))
    assert done.code == code and done.err.startswith("error: " + message.format(w=world)), done.err
    assert done.err.count("\n") == 1


def test_clips_that_are_too_short(diagd, world):
    for path in (world / "data").glob("*/*.mp4"):
        save_clip(path, moving(4))
    done = tuned(diagd, world, "run")
    assert (
        done.code == 1
        and "The longest of the clips that train (0.mp4, 1.mp4) has 4 frames" in done.err
    )
    assert tuned(diagd, world, "run", "--window", 4, "--balance", 1).code == 0


# ---- official families ---------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path):
    """Writes an official preset shrunk, with random weights beside it, and a folder of clips
    without actions.
    """

    def write(name):
        text = (
            {"transformer": {"cross_dim": 16}, "text": {"length": 5}}
            if load_preset(name).text
            else {}
        )
        write_small_models(name, tmp_path, **text)
        for split in ("train", "val"):
            save_clip(tmp_path / "data" / split / "walk.mp4", moving(17, 40, 64)).with_suffix(
                ".jsonl"
            ).unlink()

    return write


def official(diagd, folder, *options):
    sizes = ("--k", 1, "--d", 2, "--steps", 2, "--every", 2, "-q")
    done = diagd(
        "finetune",
        folder / "data",
        "-p",
        folder / "small.yaml",
        "-o",
        folder / "ft",
        *sizes,
        *options,
    )
    assert done.code == 0, done.err
    return state(folder / "ft")


@pytest.mark.parametrize(
    "name, window", [("cosmos-4b", 17), ("mineworld-300m", 3), ("wham-200m", 3), ("vavim-s", 5)]
)
def test_official_families(name, window, small, diagd, tmp_path):
    small(name)
    _, lines = official(diagd, tmp_path, "--window", window)
    assert [line["step"] for line in lines] == [0, 2] and "nll/DiagD k=1 d=2" in lines[0]
    assert diagd("presets", "check", tmp_path / "ft" / "preset.yaml").code == 0


def test_text_is_that_of_all_clips(small, diagd, tmp_path):
    """The keys and values of the text are trained too."""
    small("cosmos-5b-video2world")
    done = diagd(
        "finetune", tmp_path / "data", "-p", tmp_path / "small.yaml", "-o", tmp_path / "ft"
    )
    assert done.code == 2
    assert done.err.startswith(
        "error: The preset cosmos-5b-video2world is steered by text. Give --prompt-embedding FILE"
    )
    save_file(
        {"embedding": torch.randn(4, 16, generator=torch.Generator().manual_seed(0))},
        tmp_path / "t.safetensors",
    )
    before = load_transformer(load_preset(tmp_path / "small.yaml")).state_dict()
    weights, _ = official(
        diagd, tmp_path, "--window", 17, "--prompt-embedding", tmp_path / "t.safetensors"
    )
    name = "blocks.0.cross.kv.weight"
    # more than weight decay alone would do
    assert (torch.tensor(weights[name]) - before[name]).abs().max() > 5e-5

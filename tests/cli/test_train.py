"""diagd train: anybody's folder, what is said about it, and what there is to look at."""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny import TINY, moving, save_clip

from diagd_cli.clip.image import Animation
from diagd_cli.clip.read import read_clip
from diagd_cli.train import board

RECIPE = {
    "preset": "tiny.yaml",
    "tokenizer": {"steps": 4, "batch": 4, "lr": 1.0e-3, "warmup": 2},
    "transformer": {"steps": 4, "lr": 3.0e-3, "warmup": 2},
    "windows": {"phases": [{"start": 0, "frames": 3, "batch": 2}]},
}


@pytest.fixture(scope="module")
def made(tiny, tmp_path_factory):
    """A folder with a recipe, its preset, and `data`: four clips in one folder, of other sizes than
    the preset's.
    """
    folder = shutil.copytree(tiny.folder, tmp_path_factory.mktemp("world"), dirs_exist_ok=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    for n, size in enumerate([(16, 24), (40, 40), (20, 64), (32, 48)]):
        save_clip(folder / "data" / f"{n}.mp4", moving(8, *size))
    return folder


@pytest.fixture
def world(made, tmp_path):
    """A copy of it to change."""
    return shutil.copytree(made, tmp_path, dirs_exist_ok=True)


@pytest.fixture
def train_with_samples(diagd, world):
    def run(part, *options):
        out = ["--out", world / "run"] if "--out" not in options else []
        return diagd(
            "train",
            part,
            world / "data",
            *out,
            "--recipe",
            world / "recipe.yaml",
            "--every",
            2,
            *options,
        )

    return run


@pytest.fixture
def train(train_with_samples):
    """Without the samples, which take longer than all else does."""
    return lambda part, *options: train_with_samples(part, "--no-samples", *options)


def test_a_flat_folder_of_clips(train, world):
    done = train("tokenizer")
    note = (
        f"{world}/data has no train and val: every tenth clip, by a hash of its name, validates (1 "
        "of 4)\n"
    )
    assert done.code == 0 and done.err == note and done.out == f"{world}/run/preset.yaml\n"
    assert train("transformer", "-q").code == 0


def test_what_is_trained_says_its_settings(diagd, train, world):
    """So that a preset with others, which load as well, is told."""
    assert [train(part, "-q").code for part in ("tokenizer", "transformer")] == [0, 0]
    path = world / "run/preset.yaml"
    assert diagd("presets", "check", path).err == ""
    raw = yaml.safe_load(path.read_text())
    raw["transformer"]["positions"]["base"], raw["tokenizer"]["levels"] = 500.0, [25]
    path.write_text(yaml.safe_dump(raw))
    assert diagd("presets", "check", path).code == 1  # one level has another shape
    raw["tokenizer"]["levels"] = [5, 5]
    path.write_text(yaml.safe_dump(raw))
    done = diagd("presets", "check", path)
    told = "transformer.positions.base is 500.0; the weights were trained with 10000.0"
    assert done.code == 0 and done.err == f"warning: tiny: {told}\n"


def log(world, part):
    return [
        json.loads(line) for line in (world / "run" / part / "log.jsonl").read_text().splitlines()
    ]


def test_a_transformer_does_not_go_on_with_other_codes(train, world):
    """A tokenizer that learnt on makes other codes: what has learnt the old ones is named, and not
    shipped with them.
    """
    assert [train(part, "-q").code for part in ("tokenizer", "transformer")] == [0, 0]
    done = train("tokenizer", "--steps", 16)
    assert (
        done.code == 0
        and f"Remove {world}/run/transformer, which has learnt other codes" in done.err
    )
    assert yaml.safe_load((world / "run/preset.yaml").read_text())["transformer_weights"] is None
    done = train("transformer", "-q")
    message = f"{world}/run/transformer holds a run with another tokenizer"
    hint = "Name another folder with --out, or remove it to start again"
    assert (done.code, done.err) == (2, f"error: {message}. {hint}\n")
    shutil.rmtree(world / "run/transformer")
    assert train("transformer", "-q").code == 0


def test_a_preset_that_was_changed_is_not_passed_over(train, world):
    assert train("tokenizer", "-q").code == 0
    raw = yaml.safe_load((world / "tiny.yaml").read_text())
    raw["tokenizer"]["channels"] = [8, 8]
    (world / "tiny.yaml").write_text(yaml.safe_dump(raw | {"tokenizer_weights": None}))
    done = train("tokenizer", "-q")
    message = f"{world}/run holds a run of tiny with tokenizer.channels [4, 8], not [8, 8]"
    hint = f"Name another folder with --out, or go on with --preset {world}/run/preset.yaml"
    assert (done.code, done.err) == (2, f"error: {message}. {hint}\n")
    assert train("tokenizer", "-q", "--preset", world / "run/preset.yaml", "--steps", 5).code == 0


def test_a_run_that_has_no_preset_yet_is_of_its_preset(train, world):
    """One that was killed before its end."""
    assert train("tokenizer", "-q").code == 0
    (world / "run/preset.yaml").unlink()
    raw = yaml.safe_load((world / "tiny.yaml").read_text())
    (world / "tiny.yaml").write_text(yaml.safe_dump(raw | {"name": "other"}))
    done = train("tokenizer", "-q")
    assert done.code == 2 and f"{world}/run/tokenizer holds a run with another preset" in done.err


@pytest.mark.parametrize(
    ("change", "other"),
    [({"frozen": ["encoder"]}, "list of frozen parts"), ({"muon": 0.1}, "optimiser")],
)
def test_another_kind_of_training_does_not_go_on(train, world, change, other):
    assert train("tokenizer", "-q").code == 0
    recipe = {**RECIPE, "tokenizer": {**RECIPE["tokenizer"], **change}}
    (world / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    done = train("tokenizer", "-q", "--steps", 9, "--init", world / "run/preset.yaml")
    assert done.code == 2 and f"{world}/run/tokenizer holds a run with another {other}" in done.err


def test_fewer_steps_than_there_are(train, world):
    assert train("tokenizer", "-q").code == 0
    done = train("tokenizer", "--steps", 2)
    assert (
        done.code == 0
        and f"The run in {world}/run/tokenizer has 4 steps already, more than 2" in done.err
    )


def test_a_changed_rate_is_the_rate_from_then_on(train, world):
    assert train("tokenizer", "-q", "--steps", 2).code == 0
    shutil.copytree(world / "run", world / "kept")
    found = []
    for rate in (1e-3, 1e-1):
        recipe = {**RECIPE, "tokenizer": {**RECIPE["tokenizer"], "lr": rate}}
        (world / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        assert train("tokenizer", "-q").code == 0
        found.append((world / "run/tokenizer.safetensors").read_bytes())
        shutil.rmtree(world / "run")
        shutil.copytree(world / "kept", world / "run")
    assert found[0] != found[1]


@pytest.mark.parametrize("part", ["tokenizer", "transformer"])
def test_a_training_that_diverges_stops(train, world, part):
    """Neither its weights nor its figures are kept; with a lower rate it goes on from the
    checkpoint before.
    """
    assert train(part, "-q", "--steps", 2).code == 0
    weights, wild = (
        (world / f"run/{part}.safetensors").read_bytes(),
        {**RECIPE[part], "lr": 1e30, "steps": 30},
    )
    (world / "recipe.yaml").write_text(yaml.safe_dump({**RECIPE, part: wild}))
    done = train(part, "-q")
    assert (
        done.code == 1
        and f"The training in {world}/run/{part} has diverged: after step " in done.err
    )
    assert done.err.endswith("Go on from its last checkpoint with lr below 1e+30\n")
    assert (world / f"run/{part}.safetensors").read_bytes() == weights
    assert "NaN" not in (world / f"run/{part}/log.jsonl").read_text()


def test_a_log_that_a_crash_has_cut(train, world):
    assert train("tokenizer", "-q").code == 0
    path = world / "run/tokenizer/log.jsonl"
    path.write_text(path.read_text() + '{"step": 4, "los\n[]\n')
    assert train("tokenizer", "-q", "--steps", 6).code == 0
    assert [line["step"] for line in log(world, "tokenizer")] == [2, 4, 6]


def test_a_folder_that_cannot_be_written_is_told_before_the_clips_are_read(train, world):
    (world / "file").touch()
    done = train("tokenizer", "-q", "--out", world / "file/run")
    assert (
        done.code == 1 and "cannot be written" in done.err and not (world / "data/cache").exists()
    )


def test_without_actions(train, world):
    """Neither the clips nor the preset have any."""
    preset = yaml.safe_load((world / "tiny.yaml").read_text())
    (world / "tiny.yaml").write_text(yaml.safe_dump({**preset, "actions": None}))
    for file in (world / "data").glob("*.jsonl"):
        file.unlink()
    assert train("transformer", "-q").code == 0
    assert (
        0
        < json.loads((world / "run/transformer/log.jsonl").read_text().splitlines()[-1])["nll"]
        < 9
    )


def test_samples_of_the_transformer(train_with_samples, world):
    """Context and continuation, ground truth to their left: two panels of 14 times the preset's 24
    columns.
    """
    assert train_with_samples("transformer", "-q").code == 0
    samples = world / "run" / "transformer" / "samples"
    assert sorted(file.name for file in samples.iterdir()) == ["step-000002.mp4", "step-000004.mp4"]
    clip = read_clip(samples / "step-000004.mp4", context=5, start=0, future=9)
    # 2 of context, 3 new: as many as the preset makes
    assert len(clip.frames) == 5 and len(clip.future) == 0
    truth, made = np.split(clip.frames[..., : 2 * (clip.frames.shape[2] // 2), :], 2, axis=2)
    assert clip.frames.shape[2] >= 2 * 320 and np.abs(truth[0].astype(int) - made[0]).mean() > 1


def test_samples_of_the_tokenizer(train_with_samples, world):
    assert train_with_samples("tokenizer", "-q").code == 0
    sheet = next(iter(Animation(world / "run" / "tokenizer" / "samples" / "step-000004.png")))
    assert sheet.shape == (2 * 16 + 2, 6 * 26 - 2, 3)


def test_samples_can_be_left_out(train_with_samples, world):
    for part in ("tokenizer", "transformer"):
        assert train_with_samples(part, "--no-samples", "-q").code == 0
        assert not (world / "run" / part / "samples").exists()


def test_the_cache_can_lie_elsewhere(train, world):
    assert train("tokenizer", "--cache", world / "cache", "-q").code == 0
    assert (world / "cache").is_dir() and not (world / "data" / "cache").exists()


def test_verbose_says_that_tensorboard_is_missing(train, monkeypatch):
    monkeypatch.setattr(board, "installed", lambda: False)
    missing = (
        "tensorboard is not installed (pip install 'diagd[train]'): figures go to log.jsonl only"
    )
    assert missing in train("tokenizer", "-v").err.splitlines()
    assert missing not in train("tokenizer").err


def test_parts_on_the_command_line_win(train, world):
    """--accumulate and --steps over the recipe's; the result is the same."""
    assert train("transformer", "-q").code == 0
    other = train("transformer", "-q", "--accumulate", 2, "--out", world / "other")
    assert other.code == 0
    first, second = (
        [
            json.loads(line)["loss"]
            for line in (world / run / "transformer/log.jsonl").read_text().splitlines()
        ]
        for run in ("run", "other")
    )
    assert first == pytest.approx(second, abs=1e-3)


def test_the_folder_of_a_run_is_named_by_its_recipe(diagd, world, monkeypatch):
    monkeypatch.chdir(world)
    done = diagd("train", "tokenizer", "data", "--recipe", "recipe.yaml", "-q")
    assert (done.code, done.out) == (0, "runs/recipe/preset.yaml\n")


def test_no_such_folder(diagd, world):
    done = diagd(
        "train",
        "tokenizer",
        world / "none",
        "--recipe",
        world / "recipe.yaml",
        "--out",
        world / "run",
    )
    assert done.code == 1 and done.err.startswith(
        f"error: {world}/none does not exist. Put MP4 files there"
    )
    assert not (world / "run").exists()


def test_inverse_dynamics_are_trained_by_one_process(train_with_samples, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    message = "These are 2 processes, and one trains inverse dynamics. Start it without torchrun"
    done = train_with_samples("inverse")
    assert (done.code, done.err) == (2, f"error: {message}\n")


def test_windows_beyond_a_learned_table(train, world):
    """A table of learned positions has the preset's length; rotary ones reach as far as the
    windows.
    """
    preset = yaml.safe_load((world / "tiny.yaml").read_text())
    (world / "recipe.yaml").write_text(
        yaml.safe_dump({**RECIPE, "windows": {"phases": [{"start": 0, "frames": 7, "batch": 1}]}})
    )
    assert train("transformer", "-q").code == 0
    preset["transformer"]["positions"] = {"kind": "learned"}
    (world / "tiny.yaml").write_text(yaml.safe_dump({**preset, "transformer_weights": None}))
    done = train("transformer", "-q", "--out", world / "other")
    message = (
        "The recipe's windows have 7 latent frames, the preset's table 5. Shorten the phases' "
        "frames in the recipe"
    )
    assert (done.code, done.err) == (2, f"error: {message}\n")


@pytest.fixture
def still(train, world):
    """`train` in steps too small to change anything."""
    recipe = yaml.safe_load((world / "recipe.yaml").read_text())
    for part in ("tokenizer", "transformer"):
        recipe[part] |= {"lr": 1e-12, "steps": 2}
    (world / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return train


@pytest.mark.parametrize("part", ["tokenizer", "transformer"])
def test_a_run_that_starts_from_a_preset(still, tiny, world, part):
    """A step too small to see leaves what it began with."""
    assert still(part, "--init", tiny.preset, "-q").code == 0
    own, other = (
        load_file(folder / f"{part}.safetensors") for folder in (world / "run", tiny.folder)
    )
    assert all(torch.allclose(own[name].float(), other[name].float(), atol=1e-4) for name in other)


def test_a_run_that_starts_from_other_codes(still, tiny, world):
    """The source's tokenizer has 9 codes, ours 25: they are matched on the clips, and what was
    learnt of actions is kept.
    """
    raw = yaml.safe_load(TINY)
    raw["tokenizer"]["levels"], raw["actions"]["offset"] = [3, 3], 9
    raw["transformer"] |= {"vocab": 13, "outputs": 9}
    (world / "small.yaml").write_text(yaml.safe_dump(raw | {"name": "small"}))
    (world / "small-recipe.yaml").write_text(
        (world / "recipe.yaml").read_text().replace("tiny.yaml", str(world / "small.yaml"))
    )
    for part in ("tokenizer", "transformer"):
        assert (
            still(
                part, "--recipe", world / "small-recipe.yaml", "--out", world / "small", "-q"
            ).code
            == 0
        )
    done = still("transformer", "--init", world / "small/preset.yaml")
    assert done.code == 0, done.err
    own, other = (
        load_file(f / "transformer.safetensors") for f in (world / "run", world / "small")
    )
    block = "blocks.0.mlp.up.weight"
    assert torch.allclose(own[block].float(), other[block].float(), atol=1e-4)
    assert torch.allclose(
        own["embed.weight"][25:].float(), other["embed.weight"][9:].float(), atol=1e-4
    )


def test_a_run_that_goes_on_has_its_own_weights(still, world):
    """What --init names is not read again, nor need it be there."""
    assert still("transformer", "-q", "--init", world / "tiny.yaml").code == 0
    (world / "transformer.safetensors").write_bytes(b"")
    assert still("transformer", "-q", "--init", world / "tiny.yaml", "--steps", 3).code == 0


def test_a_tokenizer_of_other_settings_is_refused(still, world):
    raw = yaml.safe_load(TINY)
    raw["tokenizer"]["channels"] = [4, 4]
    (world / "other.yaml").write_text(yaml.safe_dump(raw))
    done = still("tokenizer", "--init", world / "other.yaml")
    assert done.code == 2 and "tiny cannot start from tiny: their tokenizers differ" in done.err


@pytest.fixture
def decoder_only(train, world):
    """A training of the tokenizer that leaves its codes as they are."""
    recipe = {**RECIPE, "tokenizer": {**RECIPE["tokenizer"], "frozen": ["encoder"]}}
    (world / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return lambda *options: train("tokenizer", "-q", *options)


def test_a_decoder_learns_alone(decoder_only, diagd, tiny, world):
    """The codes stay, and so does the Transformer that has learnt them: the preset that results
    makes the same tokens.
    """
    assert decoder_only("--init", tiny.preset).code == 0
    own, other = (
        load_file(folder / "tokenizer.safetensors") for folder in (world / "run", tiny.folder)
    )
    for name, value in other.items():
        assert torch.equal(own[name], value) == name.startswith("encoder"), name
    for run, preset in (("own", world / "run/preset.yaml"), ("other", tiny.preset)):
        done = diagd(
            "generate",
            world / "data/3.mp4",
            "-p",
            preset,
            "-o",
            world / run,
            "--save-tokens",
            "--seed",
            0,
        )
        assert done.code == 0, done.err
    tokens = [np.load(next((world / run).glob("*.npz")))["codes"] for run in ("own", "other")]
    assert (tokens[0] == tokens[1]).all()


def test_a_decoder_goes_on_learning_alone(decoder_only, tiny, world):
    assert decoder_only("--init", tiny.preset).code == 0
    assert decoder_only("--steps", 6).code == 0
    assert "transformer.safetensors" in (world / "run/preset.yaml").read_text()


def test_another_transformer_than_the_presets_is_not_kept(decoder_only, tiny, world):
    """--init may name a preset with this tokenizer and a Transformer of other sizes."""
    preset = yaml.safe_load((world / "tiny.yaml").read_text())
    preset["transformer"]["layers"] += 1
    (world / "tiny.yaml").write_text(yaml.safe_dump({**preset, "transformer_weights": None}))
    assert decoder_only("--init", tiny.preset).code == 0
    assert yaml.safe_load((world / "run/preset.yaml").read_text())["transformer_weights"] is None


def test_an_encoder_that_knows_nothing_is_not_frozen(decoder_only):
    done = decoder_only()
    message = "The recipe freezes encoder, which has learnt nothing yet. Name a preset with --init"
    assert (done.code, done.err) == (2, f"error: {message}\n")


def test_a_part_that_the_model_lacks_cannot_be_frozen(train, tiny, world):
    recipe = {**RECIPE, "tokenizer": {**RECIPE["tokenizer"], "frozen": ["codec"]}}
    (world / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    done = train("tokenizer", "-q", "--init", tiny.preset)
    message = (
        "The recipe freezes 'codec', and the model has no such part. It has quantiser, encoder, "
        "decoder"
    )
    assert (done.code, done.err) == (2, f"error: {message}\n")
    assert not (world / "data/cache").exists()  # told before the clips are read

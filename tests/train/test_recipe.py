"""Recipes: what ships is consistent, and every family's Transformer trains by it, at reduced
size.
"""

import json

import pytest
import yaml
from families.small import steer, write_small
from tiny import moving, save_clip

from diagd_cli.errors import PresetError
from diagd_cli.preset_files import load_preset
from diagd_cli.train.recipe import load_recipe, recipe_names
from diagd_cli.weights.load import random_tokenizer, save_weights

PAPER = {  # Table 8: hidden, MLP, heads, layers
    "mc-ar-300m": ("mineworld-300m", 1024, 4096, 16, 20),
    "mc-ar-700m": ("mineworld-700m", 2048, 4096, 32, 20),
    "mc-ar-1.2b": ("mineworld-1200m", 2048, 8192, 32, 20),
}


def test_all_that_ship():
    assert recipe_names() == ["freedoom", "freedoom-decoder", *sorted(PAPER)]


def test_a_part_that_a_recipe_lacks(diagd, tmp_path):
    clips(tmp_path / "data", "freedoom")
    for part, recipe in (("tokenizer", "mc-ar-300m"), ("transformer", "freedoom-decoder")):
        done = diagd(
            "train", part, tmp_path / "data", "--recipe", recipe, "--out", tmp_path / "run"
        )
        message = f"The recipe has no {part} part. Train the other part, or add one"
        assert (done.code, done.err) == (2, f"error: {message}\n")


def test_a_transformer_without_windows(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("{preset: freedoom, transformer: {steps: 1, lr: 0.1}}")
    with pytest.raises(PresetError, match="transformer and windows go together"):
        load_recipe(str(path))


@pytest.mark.parametrize(
    "settings",
    ["betas: [2, 3]", "seed: -1", f"seed: {2**40}", f"batch: {10**12}", "clip: -1", "clip: .nan", "weight_decay: -1",
     "weight_decay: .nan", "warmup: -5", "lr: .inf", "lr: .nan", "lr: 0", "muon: .inf", "final: .nan", "steps: 0"],
)  # fmt: skip
def test_settings_that_cannot_be(tmp_path, settings):
    path, key = tmp_path / "recipe.yaml", settings.split(":")[0]
    path.write_text(
        f"preset: freedoom\ntokenizer: {{steps: 1, lr: 0.1, {settings}}}".replace(
            f"{key}: 0.1, ", ""
        )
    )
    with pytest.raises(PresetError, match=rf"recipe.yaml: tokenizer\.{key}"):
        load_recipe(str(path))


@pytest.mark.parametrize("name", PAPER)
def test_mc_ar_as_in_the_paper(name):
    """Table 9: cosine from 3e-4 after 10,000 steps of warm-up, AdamW 0.9/0.95, weight decay 0.1."""
    recipe, (preset, dim, mlp, heads, layers) = load_recipe(name), PAPER[name]
    assert recipe.preset == preset and recipe.tokenizer is None
    model, settings = load_preset(preset), recipe.transformer
    sizes = model.transformer
    assert (sizes.dim, sizes.mlp_dim, sizes.heads, sizes.layers) == (dim, mlp, heads, layers)
    assert (settings.lr, settings.warmup, settings.betas, settings.weight_decay) == (
        3e-4,
        10_000,
        (0.9, 0.95),
        0.1,
    )
    assert settings.rate(9_999) == 1 and settings.rate(settings.steps) == 0 and settings.muon == 0
    half = 10_000 + (settings.steps - 10_000) // 2
    assert settings.rate(half) == pytest.approx(0.5)
    assert recipe.windows.longest == model.window == 16


def reduced(name, folder):
    """An official preset, shrunk, with random weights of the tokenizer on disk."""
    codec = random_tokenizer(load_preset(write_small(name, folder)), 0)
    entry = save_weights(folder / "codec.safetensors", codec.state_dict())
    return write_small(name, folder, tokenizer_weights=entry.model_dump(mode="json"))


def clips(folder, name):
    """12 frames to train on and 12 to validate, 33 for a family whose latent frames stand for
    several.
    """
    count = 33 if name.startswith("cosmos") else 12
    for split in ("train", "val"):
        clip = save_clip(folder / split / "walk.mp4", moving(count, 40, 64))
        clip.with_suffix(".jsonl").unlink()
        steer(clip, name)
    return folder


def shortened(recipe, folder, frames):
    """A recipe with its settings, but few steps and short windows."""
    settings = yaml.safe_load(load_recipe(recipe).model_dump_json())
    settings["transformer"] |= {"steps": 3, "warmup": 1, "lr": 3e-3}
    settings["windows"]["phases"] = [{"start": 0, "frames": frames, "batch": 2}]
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


FAMILIES = [
    ("mc-ar-300m", "mineworld-300m", 4),
    ("mc-ar-1.2b", "mineworld-1200m", 3),
    ("freedoom", "wham-200m", 4),
    ("freedoom", "cosmos-4b", 3),
]


@pytest.mark.parametrize("recipe, name, frames", FAMILIES)
def test_every_family_trains(diagd, tmp_path, recipe, name, frames):
    """Some steps on clips of another size with the family's actions; what results makes a video, as
    its samples do.
    """
    preset, data = reduced(name, tmp_path), clips(tmp_path / "data", name)
    done = diagd(
        "train", "transformer", data, "--recipe", shortened(recipe, tmp_path, frames), "--preset", preset,
        "--out", tmp_path / "run", "--every", 3, "-q",
    )  # fmt: skip
    assert (done.code, done.err) == (0, ""), done.err
    figures = json.loads((tmp_path / "run/transformer/log.jsonl").read_text())
    assert len(figures["nll_by_frame"]) == frames and 0 < figures["nll"] < 20
    assert (tmp_path / "run/transformer/samples/step-000003.mp4").stat().st_size > 500
    walk, result = data / "val" / "walk.mp4", tmp_path / "run" / "preset.yaml"
    made = diagd("generate", walk, "-p", result, "--frames", 1, "-o", tmp_path / "made.mp4", "-q")
    assert (made.code, made.err) == (0, "")


def test_weights_from_a_folder(diagd, tmp_path):
    """An official tokenizer may lie anywhere: the run keeps it, so that the preset that results
    needs no folder.
    """
    preset, data = reduced("mineworld-300m", tmp_path), clips(tmp_path / "data", "mineworld-300m")
    arguments = [
        "train",
        "transformer",
        data,
        "--recipe",
        shortened("mc-ar-300m", tmp_path, 2),
        "--preset",
        preset,
    ]
    arguments += ["--out", tmp_path / "run", "--no-samples", "-q"]
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "codec.safetensors").rename(tmp_path / "elsewhere" / "codec.safetensors")
    missing = diagd(*arguments)
    assert (
        missing.code == 1 and "The tokenizer weights of mineworld-300m are missing" in missing.err
    )
    done = diagd(*arguments, "--weights-dir", tmp_path / "elsewhere")
    assert (done.code, done.err) == (0, "")
    assert diagd("presets", "check", tmp_path / "run" / "preset.yaml").code == 0
    assert not (tmp_path / "run" / "transformer" / "samples").exists()


def test_a_preset_steered_by_text_is_not_trained(diagd, tmp_path):
    done = diagd(
        "train",
        "transformer",
        tmp_path,
        "--preset",
        "cosmos-5b-video2world",
        "--out",
        tmp_path / "run",
    )
    message = "The preset cosmos-5b-video2world is steered by text. Train a preset without text"
    assert done.code == 2 and done.err.startswith(f"error: {message}")

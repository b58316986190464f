"""The shipped presets, shrunk: what each family's tests run where the true size does not matter."""

import json
from pathlib import Path

import yaml

from diagd_cli.preset_files import load_preset
from diagd_cli.weights.load import random_tokenizer, random_transformer, save_weights

SHARP = 12.0  # by which matrices of deviation 0.02 are multiplied
SMALL = {
    "freedoom": {
        "clip": {"height": 32, "width": 48},
        "transformer": {
            "dim": 32,
            "layers": 2,
            "heads": 4,
            "kv_heads": 2,
            "head_dim": 8,
            "mlp_dim": 32,
        },
    },
    "cosmos": {
        "clip": {"height": 32, "width": 48},
        "tokenizer": {"channels": 8, "multipliers": [1, 2, 2], "blocks": 1},
        "transformer": {
            "dim": 48,
            "layers": 2,
            "heads": 4,
            "kv_heads": 2,
            "head_dim": 12,
            "mlp_dim": 32,
        },
        "decoding": {"d": 3},  # the small grid allows no more than 5
    },
    "mineworld": {
        "clip": {"height": 32, "width": 48},
        "tokenizer": {"channels": [32] * 5, "blocks": 1, "latent": 8},
        "transformer": {
            "dim": 32,
            "layers": 2,
            "heads": 4,
            "kv_heads": 2,
            "head_dim": 8,
            "mlp_dim": 32,
        },
    },
    "wham": {
        "clip": {"height": 35, "width": 40},
        "tokenizer": {
            "height": 35,
            "width": 40,
            "dim": 16,
            "layers": 1,
            "head_size": 8,
            "code_dim": 4,
        },
        "transformer": {
            "dim": 32,
            "layers": 2,
            "heads": 2,
            "kv_heads": 2,
            "head_dim": 16,
            "mlp_dim": 128,
        },
    },
    "vavim": {
        "clip": {"height": 32, "width": 48},
        "tokenizer": {"channels": 32, "multipliers": [1] * 5, "blocks": 1, "latent": 8},
        "transformer": {
            "dim": 32,
            "layers": 2,
            "heads": 2,
            "kv_heads": 2,
            "head_dim": 16,
            "mlp_dim": 128,
            "positions": {"kind": "learned", "places": 6},
        },
    },
    "emu3": {
        "clip": {"height": 16, "width": 24},
        "tokenizer": {"channels": 32, "multipliers": [1] * 4, "blocks": 1},
        "transformer": {
            "dim": 32,
            "layers": 2,
            "heads": 4,
            "kv_heads": 2,
            "head_dim": 8,
            "mlp_dim": 64,
        },
    },
    "simplear": {
        "clip": {"height": 32, "width": 48},
        "tokenizer": {"channels": 8, "multipliers": [1, 2, 2], "blocks": 1},
        "transformer": {
            "dim": 32,
            "layers": 2,
            "heads": 4,
            "kv_heads": 2,
            "head_dim": 8,
            "mlp_dim": 64,
        },
    },
    "llamagen": {
        "clip": {"height": 64, "width": 80},
        "tokenizer": {"channels": 32, "multipliers": [1] * 5, "blocks": 1, "latent": 8},
        "transformer": {
            "dim": 32,
            "layers": 2,
            "heads": 2,
            "kv_heads": 2,
            "head_dim": 16,
            "mlp_dim": 64,
        },
    },
}


def write_small(name: str, folder: Path, **more) -> Path:
    """A shipped preset with fewer and narrower layers and smaller frames; `more`: other settings of
    parts, or other weights.
    """
    settings = load_preset(name).model_dump(mode="json")
    for part, own in [*SMALL[name.split("-")[0]].items(), *more.items()]:
        settings[part] = own if part.endswith("_weights") else settings[part] | own
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def write_small_models(name: str, folder: Path, sharp: bool = False, **more) -> Path:
    """Such a preset, small.yaml, with random weights beside it; with `sharp` ones the Transformer
    has opinions, which depend on what is fed and seen, and not the noise alone decides.
    """
    preset, entries = load_preset(write_small(name, folder, **more)), {}
    for part, random in (("tokenizer", random_tokenizer), ("transformer", random_transformer)):
        model = random(preset, seed=0)
        if sharp and part == "transformer":
            for weight in (p for p in model.parameters() if p.ndim == 2):
                weight.mul_(SHARP)
        entry = save_weights(folder / f"{part}.safetensors", model.state_dict())
        entries[f"{part}_weights"] = entry.model_dump(mode="json")
    return write_small(name, folder, **more, **entries).rename(folder / "small.yaml")


def steer(clip, name):
    """Write what steers the model beside the clip, as its official files have it."""
    keys = ["back", "left", "right", "sprint", "sneak", "use", "attack", "jump", "drop", "pickItem"]
    still = {"camera": [0, 0], **dict.fromkeys(keys, 0)}
    rows = {
        "mineworld": [{**still, "forward": n % 2} for n in range(12)],
        "wham": [{"buttons": [n % 2] * 12, "sticks": [0, 0.5, -1, 0]} for n in range(12)],
    }.get(name.split("-")[0], [])
    if rows:
        clip.with_suffix(".jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

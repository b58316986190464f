"""Outputs of Cosmos' official modules, in `golden/cosmos`."""

import json
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file

from diagd_cli.model.config import Yarn

GOLDEN = Path(__file__).parents[1] / "golden" / "cosmos"


@cache
def golden(name: str) -> tuple[dict, dict[str, torch.Tensor]]:
    """Settings and tensors of one file."""
    return json.loads((GOLDEN / f"{name}.json").read_text()), load_file(
        GOLDEN / f"{name}.safetensors"
    )


def official_weights(name: str) -> dict[str, torch.Tensor]:
    return {
        k.removeprefix("weights."): v
        for k, v in golden(name)[1].items()
        if k.startswith("weights.")
    }


def yarn(settings: dict) -> Yarn:
    """From the settings' names, whose prefix differs between the files."""
    names = {
        "scale": "scale",
        "beta_fast": "beta_fast",
        "beta_slow": "beta_slow",
        "original": "original_latent_shape",
    }
    return Yarn(
        **{ours: settings.get(f"yarn_{name}", settings.get(name)) for ours, name in names.items()}
    )

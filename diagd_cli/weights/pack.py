"""A preset and its weights in one folder, to give away."""

from __future__ import annotations

from pathlib import Path

from diagd_cli.config import Preset, save_preset
from diagd_cli.weights.load import copy_weights, load_transformer, save_weights
from diagd_cli.weights.locate import ROLES, Role
from diagd_cli.weights.native import in_8_bits


def pack(preset: Preset, folder: Path, bits: int = 16, weights_dir: Path | None = None) -> Path:
    """Write `folder/preset.yaml` and beside it the weights that it names; returns its path.

    bits: 16 copies the files as they are; 8 stores the Transformer's matrices in int8 (`native.in_8_bits`), under our names
    whatever the file's were. Raises WeightsError and OutputError.
    """
    named: list[Role] = [role for role in (*ROLES, "inverse") if role in ROLES or preset.inverse_weights]
    entries = {f"{role}_weights": copy_weights(preset, role, folder, weights_dir) for role in named[bits == 8 :]}
    if bits == 8:
        weights = load_transformer(preset, folder=weights_dir).state_dict()
        entries["transformer_weights"] = save_weights(folder / "transformer.safetensors", in_8_bits(weights), None)
    path = folder / "preset.yaml"
    save_preset(preset.model_copy(update=entries), path)
    return path

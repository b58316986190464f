"""A preset and its weights in one folder, to give away."""

from __future__ import annotations

import os
import secrets
import shutil
import warnings
from pathlib import Path

from diagd_cli.clip.write import check_target
from diagd_cli.config import Preset, save_preset
from diagd_cli.errors import DiagdWarning, WeightsError
from diagd_cli.weights.check import check
from diagd_cli.weights.load import copy_weights, load_transformer, save_weights
from diagd_cli.weights.locate import locate, roles
from diagd_cli.weights.native import in_8_bits
from diagd_cli.weights.untold import saying

PRESET = "preset.yaml"


def pack(preset: Preset, folder: Path, bits: int = 16, weights_dir: Path | None = None, force: bool = False) -> Path:
    """Write `folder/preset.yaml` and beside it the weights that it names; returns its path.

    bits: 16 copies the files as they are; 8 stores the Transformer's matrices in int8 (`native.in_8_bits`), under our names
    whatever the file's were. All weights are checked before anything is written, and the folder changes once all is there;
    files are replaced with `force` only. Raises WeightsError and OutputError.
    """
    check_target(folder / PRESET, force)
    findings = check(preset, weights_dir)
    wrong = next((finding for finding in findings if finding.good is False), None)
    if wrong:
        raise WeightsError(wrong.text)
    for finding in findings:
        if finding.subject == "settings":
            warnings.warn(f"{preset.name}: {finding.text}", DiagdWarning, stacklevel=2)
    stage = folder / f".diagd-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        copied = roles(preset)[bits == 8 :]
        entries = {f"{role}_weights": copy_weights(preset, role, stage, weights_dir) for role in copied}
        if bits == 8:
            weights = load_transformer(preset, folder=weights_dir).state_dict()
            told = saying(locate(preset, "transformer", weights_dir)[1])
            path = stage / "transformer.safetensors"
            entries["transformer_weights"] = save_weights(path, in_8_bits(weights), None, told=told)
        save_preset(preset.model_copy(update=entries), stage / PRESET)
        made = sorted(stage.iterdir(), key=lambda path: path.name == PRESET)  # a preset comes after what it names
        for path in made:
            check_target(folder / path.name, force)
        for path in made:
            path.replace(folder / path.name)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return folder / PRESET

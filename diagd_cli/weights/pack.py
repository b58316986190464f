"""A preset and its weights in one folder, to give away."""

from __future__ import annotations

import os
import shutil
import warnings
from pathlib import Path

from diagd_cli.errors import DiagdWarning, WeightsError
from diagd_cli.files.atomic import make_folders, remove_folders, replace_all
from diagd_cli.files.hidden import hidden_name
from diagd_cli.files.outputs import check_outputs
from diagd_cli.preset import Preset
from diagd_cli.preset_files import save_preset
from diagd_cli.weights.check import check
from diagd_cli.weights.load import copied_names, copy_weights, load_transformer, save_weights
from diagd_cli.weights.locate import Role, locate, roles
from diagd_cli.weights.native import in_8_bits
from diagd_cli.weights.untold import saying

PRESET = "preset.yaml"
ELSEWHERE = "Choose another folder with --out"


def pack(
    preset: Preset,
    folder: Path,
    bits: int = 16,
    weights_dir: Path | None = None,
    force: bool = False,
) -> Path:
    """Write `folder/preset.yaml` and beside it the weights that it names; returns its path.

    bits: 16 copies the files as they are; 8 stores the Transformer's matrices in int8
        (`native.in_8_bits`), under our names whatever the file's were. All weights are checked
        before anything is written, and the folder changes once all is there; files are replaced
        with `force` only.

    Raises WeightsError and OutputError.
    """
    found = {role: _found(preset, role, weights_dir) for role in roles(preset)}
    reads = [(path, f"the {role} weights") for role, paths in found.items() for path in paths]
    reads += [(preset.path, "the preset")] if preset.path else []
    names = [PRESET, *(["transformer.safetensors"] if bits == 8 else [])]
    names += [
        name for role in roles(preset)[bits == 8 :] for name in copied_names(role, found[role])
    ]
    check_outputs(
        [(folder / name, "the packed file") for name in names],
        reads,
        force=force,
        instead=ELSEWHERE,
    )
    findings = check(preset, weights_dir)
    wrong = next((finding for finding in findings if finding.good is False), None)
    if wrong:
        raise WeightsError(wrong.text)
    for finding in findings:
        if finding.subject == "settings":
            warnings.warn(f"{preset.name}: {finding.text}", DiagdWarning, stacklevel=2)
    stage, folders = hidden_name(folder / "stage"), make_folders(folder)
    try:
        copied = roles(preset)[bits == 8 :]
        entries = {
            f"{role}_weights": copy_weights(preset, role, stage, weights_dir) for role in copied
        }
        if bits == 8:
            weights = load_transformer(preset, folder=weights_dir).state_dict()
            told = saying(locate(preset, "transformer", weights_dir)[1])
            path = stage / "transformer.safetensors"
            entries["transformer_weights"] = save_weights(path, in_8_bits(weights), None, told=told)
        save_preset(preset.model_copy(update=entries), stage / PRESET)
        # the last one is moved first
        made = sorted(stage.iterdir(), key=lambda path: path.name != PRESET)
        parts = {Path(os.path.realpath(folder / path.name)): path for path in made}
        replace_all(parts, {target: folder / target.name for target in parts})
    except BaseException:
        shutil.rmtree(stage, ignore_errors=True)
        remove_folders(folders)
        raise
    shutil.rmtree(stage, ignore_errors=True)
    return folder / PRESET


def _found(preset: Preset, role: Role, weights_dir: Path | None) -> list[Path]:
    """The files of one model, none where they are missing, which `check` tells."""
    try:
        return locate(preset, role, weights_dir)[1]
    except WeightsError:
        return []

"""Read and write weights: safetensors only, SHA-256 checked, shapes checked; nothing in a file can run code."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from diagd_cli.clip.write import atomic
from diagd_cli.config import Preset, WeightsFile, preset_folder
from diagd_cli.errors import WeightsError
from diagd_cli.model.transformer import Transformer
from diagd_cli.tokens.image import FsqImageTokenizer

WEIGHTS_VARIABLE = "DIAGD_WEIGHTS"


def weights_folders(preset: Preset) -> list[Path]:
    """Where a preset's weight files are looked for, in order: $DIAGD_WEIGHTS, beside the preset, with the shipped ones."""
    beside = preset.path.parent if preset.path else preset_folder()
    chosen = [Path(os.environ[WEIGHTS_VARIABLE])] if os.environ.get(WEIGHTS_VARIABLE) else []
    return list(dict.fromkeys([*chosen, beside, preset_folder()]))


def load_transformer(
    preset: Preset, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Transformer:
    """The preset's Transformer with its weights, ready for inference. Raises WeightsError."""
    model = build_transformer(preset)
    fill(model, find_weights(preset, preset.transformer_weights, "transformer"))
    return _for_inference(model, device, dtype)


def load_tokenizer(preset: Preset, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32):
    """The preset's tokenizer with its weights, ready for inference. Raises WeightsError."""
    model = FsqImageTokenizer(preset.tokenizer)
    fill(model, find_weights(preset, preset.tokenizer_weights, "tokenizer"))
    return _for_inference(model, device, dtype).to(memory_format=torch.channels_last)


def build_transformer(preset: Preset) -> Transformer:
    """The preset's Transformer with unset weights; its tables reach one position past the window (padding's scratch slot)."""
    coords = torch.from_numpy(preset.grid.coords(preset.grid.length(preset.clip.window) + 1))
    return Transformer(preset.transformer, coords, preset.grid.prefix)


def find_weights(preset: Preset, wanted: WeightsFile | None, role: str) -> Path:
    """Path of a weight file whose SHA-256 is the preset's. Raises WeightsError."""
    if wanted is None:
        raise WeightsError(
            f"The preset {preset.name} names no {role} weights", f"Add {role}_weights with file and sha256"
        )
    folders = weights_folders(preset)
    path = next((folder / wanted.file for folder in folders if (folder / wanted.file).is_file()), None)
    if path is None:
        looked = ", ".join(str(f) for f in folders)
        raise WeightsError(
            f"No {role} weights {wanted.file} for {preset.name}", f"Looked in {looked}; set {WEIGHTS_VARIABLE}"
        )
    try:
        digest = sha256(path)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror.lower()}", "Check its permissions") from None
    if digest != wanted.sha256:
        raise WeightsError(
            f"{path} is damaged or another version: SHA-256 {digest[:12]}, where the preset says {wanted.sha256[:12]}",
            "Fetch the file again, or put its SHA-256 into the preset",
        )
    return path


def fill(model: nn.Module, path: Path) -> None:
    """Copy the tensors of a safetensors file into `model`; names and shapes must match exactly. Raises WeightsError."""
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path} is not a readable safetensors file: {error}", "Fetch it again") from None
    own = model.state_dict()
    missing, extra = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    if missing or extra:
        what = f"lacks {missing[0]}" if missing else f"holds {extra[0]}, which the preset's model has not"
        more = len(missing) + len(extra) - 1
        others = f", and {more} more names differ" if more else ""
        raise WeightsError(f"{path} {what}{others}", "The file belongs to another model or preset")
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            seen, wanted = tuple(tensor.shape), tuple(own[name].shape)
            raise WeightsError(f"{path}: {name} is {seen}, the preset needs {wanted}", "Check the preset's sizes")
    model.load_state_dict(tensors)


def save_weights(path: Path, weights: dict[str, Tensor], dtype: torch.dtype = torch.bfloat16) -> WeightsFile:
    """Write weights in `dtype` and return the preset entry for them."""
    stored = {k: v.to(dtype).contiguous() if v.is_floating_point() else v for k, v in weights.items()}
    with atomic(path) as part:
        save_file(stored, part)
    return WeightsFile(file=path.name, sha256=sha256(path))


def copy_weights(preset: Preset, wanted: WeightsFile, role: str, folder: Path) -> WeightsFile:
    """Have a preset's weights in `folder` too, and return the entry for them there. Raises WeightsError."""
    source, target = find_weights(preset, wanted, role), folder / f"{role}.safetensors"
    if not target.exists() or not target.samefile(source):
        with atomic(target) as part:
            shutil.copyfile(source, part)
    return WeightsFile(file=target.name, sha256=wanted.sha256)


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)


def _digest(file) -> str:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _for_inference(model: nn.Module, device, dtype) -> nn.Module:
    return model.to(device=device, dtype=dtype).eval().requires_grad_(False)

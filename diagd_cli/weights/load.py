"""A preset's models: built, found, checked, filled; and weights written. Nothing in a file can run
code.

Parameters are allocated once, in the dtype and on the device asked for, and filled from the mapped
file row by row.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from diagd_cli import families
from diagd_cli.checkpoints.archive import fill_rows
from diagd_cli.checkpoints.match import Rows
from diagd_cli.errors import DiagdWarning, WeightsError
from diagd_cli.files.atomic import atomic
from diagd_cli.model.transformer import Transformer
from diagd_cli.preset import Preset
from diagd_cli.sources import Source, Weights
from diagd_cli.tokens.template import read_words
from diagd_cli.weights.build import (
    build_inverse,
    build_tokenizer,
    build_transformer,
    random_tokenizer,
    random_transformer,
)
from diagd_cli.weights.locate import ALWAYS_VERIFIED, Role, digest, entry_of, locate, verify
from diagd_cli.weights.native import native_tensors
from diagd_cli.weights.untold import deviations

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

__all__ = [
    "build_tokenizer",
    "build_transformer",
    "copy_weights",
    "load_tokenizer",
    "load_transformer",
    "random_tokenizer",
    "random_transformer",
    "save_weights",
    "tensors",
]

Build = Callable[..., nn.Module]  # of preset, device, dtype, and of Transformers `weights`
BUILD: dict[Role, Build] = {
    "transformer": build_transformer,
    "tokenizer": build_tokenizer,
    "inverse": build_inverse,
}


def load_transformer(
    preset: Preset,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    weights: str = "",
    *,
    files: list[Path] | None = None,
    folder: Path | None = None,
    mesh: DeviceMesh | None = None,
) -> Transformer:
    """The preset's Transformer with its weights, ready for inference.

    weights, mesh: as in `build_transformer`; a file's matrices of 8 bits stay as they are.
    files: used as they are; by default those that the preset names, looked for in `folder` first,
        and verified unless they are very large.

    Raises WeightsError.
    """
    held: dict[str, Any] = {"weights": weights} if weights else {}
    asked = device, dtype, files, folder, mesh
    return cast(Transformer, _loaded(preset, "transformer", *asked, **held))


def load_tokenizer(
    preset: Preset,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    files: list[Path] | None = None,
    folder: Path | None = None,
) -> nn.Module:
    """The preset's tokenizer with its weights, ready for inference, as in `load_transformer`.
    Raises WeightsError.
    """
    if not preset.pixels:  # nothing has to be found
        return build_tokenizer(preset, device, dtype)
    return _loaded(preset, "tokenizer", device, dtype, files, folder)


def load_inverse(
    preset: Preset, device: torch.device | str = "cpu", folder: Path | None = None
) -> nn.Module | None:
    """The preset's inverse dynamics in float32, None where it names none; `folder` is looked in
    first. Raises WeightsError.
    """
    if preset.inverse_weights is None or not (preset.actions and preset.actions.names):
        return None
    return _loaded(preset, "inverse", device, torch.float32, None, folder)


def _loaded(
    preset: Preset,
    role: Role,
    device: torch.device | str,
    dtype: torch.dtype,
    files: list[Path] | None,
    folder: Path | None,
    mesh: DeviceMesh | None = None,
    **held: str,
) -> nn.Module:
    paths = files or _verified(preset, role, folder)[1]
    rows = tensors(preset, role, paths)
    for line in deviations(preset, role, paths):
        warnings.warn(f"{preset.name}: {line}", DiagdWarning, stacklevel=3)
    if mesh:
        from diagd_cli.model.parallel import own_parts

        model: nn.Module = build_transformer(preset, device, dtype, mesh=mesh, **held)
        rows = own_parts(rows, preset.transformer, mesh)
    else:
        model = BUILD[role](preset, device, dtype, **held)
    fill_rows(model, rows)
    return model.eval().requires_grad_(False)


def _verified(preset: Preset, role: Role, folder: Path | None) -> tuple[Source, list[Path]]:
    """The preset's files, found; those with a checksum that can be computed in a few seconds have
    it.
    """
    source, paths = locate(preset, role, folder)
    for path, file in zip(paths, source.files, strict=True):
        if path.stat().st_size <= ALWAYS_VERIFIED:
            verify(path, file)
    return source, paths


def tensors(preset: Preset, role: Role, paths: list[Path]) -> Rows:
    """(Name of our parameter, the tensors whose rows make it, one under the other), of every
    parameter of a model.

    The files are checked before this returns, without reading a weight: names, shapes, and what
    else they say of themselves. Each tensor is in the file's dtype, mapped while it is in use, and
    must not be written to. The format is that of the preset's entry; without one, that of the
    tokenizer's family. Raises WeightsError.
    """
    if role == "prompt":  # no weights, but a file that must be right
        for path in paths:
            read_words(path)
        return iter(())
    entry = getattr(preset, f"{role}_weights")
    kind = preset.tokenizer.kind
    form = entry.format if entry else families.format_of(kind)
    own = form == families.OWN_FORMAT
    if role == "inverse" and not own:
        hint = "Correct the format of inverse_weights in the preset"
        raise WeightsError(f"No file of format {form} holds inverse dynamics", hint)
    official = None if own else families.checkpoint_format(form)
    if role == "tokenizer" and official and form != families.format_of(kind):
        hint = "Correct the format of tokenizer_weights in the preset"
        raise WeightsError(f"No file of format {form} holds a tokenizer of kind {kind}", hint)
    if len(paths) != 1 and not (official and role in official.in_parts):
        hint = "Give the one file that holds them"
        raise WeightsError(
            f"The {role} weights of {preset.name} are one file, not {len(paths)}", hint
        )
    if official is None:
        shapes = BUILD[role](preset, "meta", torch.float32).state_dict()
        return native_tensors(
            paths[0], {name: tuple(tensor.shape) for name, tensor in shapes.items()}
        )
    if role == "transformer":
        offset = {"offset": entry.offset} if entry and official.offsets else {}
        return official.transformer(paths, preset.transformer, preset.positions, **offset)
    assert official.tokenizer, f"{form} is the format of {kind}, and reads none"
    return official.tokenizer(paths, preset.tokenizer)


def save_weights(
    path: Path,
    weights: dict[str, Tensor],
    dtype: torch.dtype | None = torch.bfloat16,
    *,
    told: dict[str, str] | None = None,
) -> Weights:
    """Write weights in `dtype`, None for each one's own, and return the preset entry for them.

    told: what they say of themselves, `untold.metadata` of the preset that they were trained with.
    """
    # copies, because safetensors refuses tensors that share memory, as a tied output layer does
    stored = {
        k: v.to(dtype if dtype and v.is_floating_point() else v.dtype, copy=True).contiguous()
        for k, v in weights.items()
    }
    with atomic(path) as part:
        save_file(stored, part, told)
        part.chmod(0o644)  # which safetensors makes readable for its owner alone
        written = digest(part)
    return Weights.single(path.name, written)


def copied_names(role: Role, paths: list[Path]) -> list[str]:
    """What copies of a model's files are called."""
    return (
        [f"{role}{path.suffix}" for path in paths]
        if len(paths) == 1
        else [path.name for path in paths]
    )


def copy_weights(preset: Preset, role: Role, folder: Path, chosen: Path | None = None) -> Weights:
    """Have a preset's weights in `folder` too, and return the entry for them there; `chosen` is
    looked in first.

    A file that holds anything else is not copied: a stranger's preset may name any. Raises
    WeightsError.
    """
    source, paths = _verified(preset, role, chosen)
    tensors(preset, role, paths)
    names = copied_names(role, paths)
    for path, target in zip(paths, (folder / name for name in names), strict=True):
        if not target.exists() or not target.samefile(path):
            with atomic(target) as part:
                shutil.copyfile(path, part)
    files = tuple(file.at(name) for file, name in zip(source.files, names, strict=True))
    return entry_of(preset, role).model_copy(update={"sources": (Source(files=files),)})

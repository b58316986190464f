"""Weight files of any format as a mapping from names to tensors that are still in the file. Nothing
in a file is run.

Formats, told apart by content: safetensors, `torch.save` archives, and TorchScript archives
(`.jit`), whose module tree is read as plain data and whose code is never looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from diagd_cli.checkpoints.torchzip import TorchArchive
from diagd_cli.checkpoints.unpickle import FETCH, StandIn, StoredTensor
from diagd_cli.errors import WeightsError
from diagd_cli.model.eight_bits import Scaled, blocks, fill, whole

SCRIPT = "__torch__"  # the package of a TorchScript archive's classes
STAND_INS = (SCRIPT, "torch.jit._pickle")  # its modules and typed lists
# a Git LFS pointer; torch.save before zip
POINTER, OLD = b"version ", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
# attributes, characters: a crafted tree could refer to itself
LARGEST_TREE, LONGEST_NAME = 100_000, 1000


@dataclass(frozen=True)
class Stored:
    """A tensor in a file. `load` maps it without copying, for reading only; `release` gives back
    what reading it took. `scale`: of a matrix of 8 bits, what its rows are to be multiplied by.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    load: Callable[[], Tensor]
    release: Callable[[], None] = lambda: None
    scale: Callable[[], Tensor] | None = None

    def read(self) -> Tensor | Scaled:
        """It, with the scales of its rows where it has some."""
        return self.load() if self.scale is None else Scaled(self.load(), self.scale())

    def rows(self, start: int, stop: int) -> Stored:
        """Some of its rows, by the same means."""
        return Stored(
            (stop - start, *self.shape[1:]),
            self.dtype,
            lambda: self.load()[start:stop],
            self.release,
        )


def read_weights(path: Path, *inside: str, stand_ins: tuple[str, ...] = ()) -> dict[str, Stored]:
    """Name -> tensor of a weight file, what is not a tensor left out.

    A checkpoint that keeps its weights under one of the top-level keys `inside` is read from there.

    stand_ins: packages whose classes it may name; none is imported.

    Raises WeightsError for a file that is missing, damaged, cut off, of no known format, or that
    asks for more than tensors.
    """
    form = _form(path)
    found = (
        _safetensors(path)
        if form == "safetensors"
        else _archived(TorchArchive(path), inside, stand_ins)
    )
    if not found:
        raise WeightsError(f"{path} holds no tensors by name", "Give a file of weights")
    return found


def pickled(path: Path, stand_ins: tuple[str, ...] = ()) -> Any:
    """What a PyTorch archive holds, as `TorchArchive.unpickle` gives it; None for safetensors.
    Raises WeightsError.
    """
    return (
        None
        if _form(path) == "safetensors"
        else TorchArchive(path).unpickle((*STAND_INS, *stand_ins))
    )


def _form(path: Path) -> str:
    """`archive` or `safetensors`, told by content. Raises WeightsError for anything else."""
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise WeightsError(
            f"{path} cannot be read: {reason}", "Check the path and its permissions"
        ) from None
    if head[:2] == b"PK":
        return "archive"
    if head.startswith(POINTER):
        raise WeightsError(
            f"{path} is a Git LFS pointer, not the weights", "Fetch the file that it points to"
        )
    if head[8:9] == b"{" or path.suffix == ".safetensors":
        return "safetensors"
    if head.startswith(OLD):
        hint = "Convert it: torch.save(torch.load(OLD, weights_only=True), NEW)"
        raise WeightsError(
            f"{path} is in the format that PyTorch left in 2020, which cannot be mapped", hint
        )
    what = "empty" if not head else "neither a PyTorch archive nor safetensors"
    raise WeightsError(f"{path} is {what}", FETCH)


def _archived(
    archive: TorchArchive, inside: tuple[str, ...], stand_ins: tuple[str, ...]
) -> dict[str, Stored]:
    content = archive.unpickle((*STAND_INS, *stand_ins))
    if isinstance(content, StandIn) and f"{content.kind.module}.".startswith(f"{SCRIPT}."):
        found = _module_tensors(content, archive.path)
    else:
        wrapped = [
            content[key]
            for key in inside
            if isinstance(content, dict) and isinstance(content.get(key), dict)
        ]
        found = wrapped[0] if wrapped else content
    if not isinstance(found, dict):
        raise WeightsError(f"{archive.path} holds no weights but a {type(found).__name__}", FETCH)
    tensors = {str(name): value for name, value in found.items() if isinstance(value, StoredTensor)}
    return {name: _in_archive(archive, stored) for name, stored in tensors.items()}


def _in_archive(archive: TorchArchive, stored: StoredTensor) -> Stored:
    return Stored(
        stored.shape, stored.dtype, lambda: archive.tensor(stored), lambda: archive.release(stored)
    )


def _module_tensors(root: StandIn, path: Path) -> dict[str, Any]:
    """Attribute path, as in `encoder.conv_in.0.conv3d.weight` -> tensor, for a tree of TorchScript
    modules.
    """
    found, due, seen = {}, [("", root)], 0
    while due:
        prefix, module = due.pop()
        for name, value in module.attributes.items():
            seen += 1
            if isinstance(value, StandIn):
                due.append((f"{prefix}{name}.", value))
            elif isinstance(value, StoredTensor):
                found[f"{prefix}{name}"] = value
        if seen > LARGEST_TREE or len(prefix) > LONGEST_NAME:
            raise WeightsError(f"{path} is damaged: its modules have no end", FETCH)
    return found


def _safetensors(path: Path) -> dict[str, Stored]:
    """Each tensor is mapped by itself, so that its memory goes with it."""

    def load(name: str) -> Tensor:
        with safe_open(path, "pt") as file:
            return file.get_tensor(name)

    def stored(file: Any, name: str) -> Stored:
        tensor = file.get_tensor(name)  # mapped, not read
        return Stored(tuple(tensor.shape), tensor.dtype, lambda: load(name))

    try:
        with safe_open(path, "pt") as file:
            names = file.keys()
            return {name: stored(file, name) for name in names}
    except (SafetensorError, OSError, ValueError) as error:
        message = f"{path} is not a readable safetensors file: damaged or cut off ({error})"
        raise WeightsError(message, FETCH) from None


def fill_rows(model: nn.Module, tensors: Iterable[tuple[str, list[Tensor | Scaled]]]) -> None:
    """Copy weights into `model`, casting: each tensor is the rows of a list, one under the other.
    Nothing else is allocated.

    They must be all of the model's parameters; the scales of weights of 8 bits come with them.
    """
    own = model.state_dict(keep_vars=True)
    unset = {name for name, _ in model.named_parameters()}
    for name, rows in tensors:
        scale = f"{name.removesuffix('weight')}scale"
        _fill(own[name], rows, own.get(scale))
        unset -= {name, scale}
    assert not unset, f"no weights for {min(unset)}"


@torch.no_grad()
def _fill(parameter: Tensor, rows: list[Tensor | Scaled], scale: Tensor | None) -> None:
    start = 0
    for row in rows:
        part = slice(start, start + len(row))
        if scale is not None:
            fill(parameter[part], scale[part], row)
        elif isinstance(row, Scaled):
            for some in blocks(row.values):
                parameter[part][some].copy_(whole(row, some))
        else:
            parameter[part].copy_(row)
        start = part.stop
    assert start == len(parameter), f"{start} rows for {len(parameter)}"

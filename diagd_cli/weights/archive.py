"""Weight files of any format as a mapping from names to tensors that are still in the file. Nothing in a file is run.

Formats, told apart by content: safetensors, `torch.save` archives, and TorchScript archives (`.jit`), whose module tree
is read as plain data and whose code is never looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from diagd_cli.errors import WeightsError
from diagd_cli.weights.torchzip import TorchArchive
from diagd_cli.weights.unpickle import FETCH, StandIn, StoredTensor

SCRIPT = "__torch__"  # the package of a TorchScript archive's classes
STAND_INS = (SCRIPT, "torch.jit._pickle", "_io")  # its modules and typed lists; the byte streams of TransformerEngine
LARGEST_TREE, LONGEST_NAME = 100_000, 1000  # attributes, characters: a crafted tree could refer to itself


@dataclass(frozen=True)
class Stored:
    """A tensor in a file. `load` maps it without copying, for reading only; `release` gives back what reading it took."""

    shape: tuple[int, ...]
    load: Callable[[], Tensor]
    release: Callable[[], None] = lambda: None

    def rows(self, start: int, stop: int) -> Stored:
        """Some of its rows, by the same means."""
        return Stored((stop - start, *self.shape[1:]), lambda: self.load()[start:stop], self.release)


def read_weights(path: Path, *inside: str) -> dict[str, Stored]:
    """Name -> tensor of a weight file, what is not a tensor left out.

    A checkpoint that keeps its weights under one of the top-level keys `inside` is read from there. Raises WeightsError
    for a file that is missing, damaged, cut off, of no known format, or that asks for more than tensors.
    """
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise WeightsError(f"{path} cannot be read: {reason}", "Check the path and its permissions") from None
    if head[:2] == b"PK":
        return _zipped(TorchArchive(path), inside)
    if head[8:9] == b"{" or path.suffix == ".safetensors":
        return _safetensors(path)
    what = "empty" if not head else "neither a PyTorch archive nor safetensors"
    raise WeightsError(f"{path} is {what}", FETCH)


def _zipped(archive: TorchArchive, inside: tuple[str, ...]) -> dict[str, Stored]:
    content = archive.unpickle(STAND_INS)
    if isinstance(content, StandIn) and f"{content.kind.module}.".startswith(f"{SCRIPT}."):
        found = _module_tensors(content, archive.path)
    else:
        wrapped = [content[key] for key in inside if isinstance(content, dict) and isinstance(content.get(key), dict)]
        found = wrapped[0] if wrapped else content
    if not isinstance(found, dict):
        raise WeightsError(f"{archive.path} holds no weights but a {type(found).__name__}", FETCH)
    tensors = {str(name): value for name, value in found.items() if isinstance(value, StoredTensor)}
    return {name: _in_archive(archive, stored) for name, stored in tensors.items()}


def _in_archive(archive: TorchArchive, stored: StoredTensor) -> Stored:
    return Stored(stored.shape, lambda: archive.tensor(stored), lambda: archive.release(stored))


def _module_tensors(root: StandIn, path: Path) -> dict[str, Any]:
    """Attribute path, as in `encoder.conv_in.0.conv3d.weight` -> tensor, for a tree of TorchScript modules."""
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
        return Stored(tuple(file.get_slice(name).get_shape()), lambda: load(name))

    try:
        with safe_open(path, "pt") as file:
            names = file.keys()
            return {name: stored(file, name) for name in names}
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path} is damaged or cut off: {error}", FETCH) from None


def fill_rows(model: nn.Module, tensors: Iterable[tuple[str, list[Tensor]]]) -> None:
    """Copy weights into `model`, casting: each tensor is the rows of a list, one under the other. Nothing else is allocated."""
    own = model.state_dict(keep_vars=True)
    with torch.no_grad():
        for name, rows in tensors:
            for part, row in zip(own[name].split([len(row) for row in rows]), rows, strict=True):
                part.copy_(row)
